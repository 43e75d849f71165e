"""Whether the memory holds a model, by the headers of its files alone."""

import json
import struct

import pytest

from raymodel.errors import ClusterError, SpecError
from raymodel.model.compressed_form import FP8, INT8, Form, form_config
from raymodel.model.stored_numbers import find_stored_numbers
from raymodel.serve import choice as choice_module
from raymodel.serve import load as load_module
from raymodel.serve.choice import build_engine
from raymodel.serve.load import load_service
from raymodel.serve.room import check_room, find_need, openvino_bytes
from raymodel.serve.spec import ServeSpec
from raymodel.storage.uri import Location

ROWS, WIDTH = 1000, 64
NUMBERS = ROWS * WIDTH
ITEM = {"F32": 4, "BF16": 2, "F16": 2, "I8": 1, "F8_E4M3": 1, "I32": 4}


def write_headers(folder, code, *, config=None, tensors=1):
    """A folder whose files of weights end where their headers do."""
    (folder / "config.json").write_text(json.dumps(config or {}))
    size = NUMBERS * ITEM[code]
    entries = {
        f"layer.{i}": {
            "dtype": code,
            "shape": [ROWS, WIDTH],
            "data_offsets": [i * size, (i + 1) * size],
        }
        for i in range(tensors)
    }
    body = json.dumps(entries).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(body)) + body)
    return Location.parse(str(folder))


def write_gguf_header(folder, config):
    import gguf

    (folder / "config.json").write_text(json.dumps(config))
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    kind = gguf.GGMLQuantizationType.Q4_1
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    writer.add_tensor_info(
        "token_embd.weight", (ROWS, WIDTH), "float32", NUMBERS // numbers * size, kind
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    writer.close()
    return Location.parse(str(folder))


def need(folder, dtype, device="cpu", task="causal_lm", **asked):
    return find_need(find_stored_numbers(folder, task), task, device=device, dtype=dtype, **asked)


def test_a_model_needs_the_bytes_of_the_type_that_it_is_served_in_and_one_tensor_twice(tmp_path):
    small = write_headers(tmp_path, "BF16", config={"dtype": "bfloat16"}, tensors=3)
    assert need(small, "bfloat16").host_bytes == 3 * NUMBERS * 2
    assert need(small, "float32").host_bytes == 3 * NUMBERS * 4 + NUMBERS * 4


def test_a_model_that_is_stored_wider_than_it_is_served_is_loaded_as_it_is_stored(tmp_path):
    wide = write_headers(tmp_path, "F32", tensors=3)
    assert need(wide, "bfloat16").host_bytes == 3 * NUMBERS * 4 + NUMBERS * 2
    # The configuration says what it is loaded in, whatever lies in the file.
    said = write_headers(tmp_path, "F32", config={"torch_dtype": "bfloat16"}, tensors=3)
    assert need(said, "bfloat16").host_bytes == 3 * NUMBERS * 2


def test_whole_numbers_stay_what_they_are(tmp_path):
    int8 = write_headers(tmp_path, "I8", config={"dtype": "float32"})
    assert need(int8, "float32").host_bytes == NUMBERS


@pytest.mark.parametrize(
    ("form", "code", "count"),
    [(FP8, "F8_E4M3", 1), (INT8, "I8", 1), (Form("int4", 128), "I32", 8)],
)
def test_numbers_that_gpus_compute_with_are_multiplied_out_for_models_that_write(
    form, code, count, tmp_path
):
    config = {"dtype": "bfloat16", "quantization_config": form_config(form, ())}
    folder = write_headers(tmp_path, code, config=config)
    assert need(folder, "bfloat16").host_bytes == 2 * NUMBERS * count
    if form == INT8:  # with which a classifier's layers compute here
        assert need(folder, "bfloat16", task="text_classification").host_bytes == NUMBERS


def test_a_gguf_file_is_multiplied_out(tmp_path):
    stored = find_stored_numbers(write_gguf_header(tmp_path, {"dtype": "bfloat16"}), "causal_lm")
    assert stored.file_bytes == NUMBERS // 32 * 20
    assert stored.held_bytes("bfloat16") == 2 * NUMBERS
    # One tensor at a time is fp32.
    assert stored.loading_bytes("bfloat16") == 2 * NUMBERS + 4 * NUMBERS


def test_openvino_takes_its_weights_beside_those_of_torch(tmp_path):
    folder = write_headers(tmp_path, "F32", tensors=4)
    torch_alone = need(folder, "float32").host_bytes
    assert need(folder, "float32", engine="auto").host_bytes == torch_alone
    f16 = need(folder, "float32", engine="openvino")
    assert f16.host_bytes == torch_alone + openvino_bytes(4 * NUMBERS, "float32", "f16")
    q8_0 = need(folder, "float32", engine="openvino", weights="q8_0")
    assert torch_alone < q8_0.host_bytes < f16.host_bytes
    # A classifier is compiled beside its reference.
    called = need(folder, "float32", engine="openvino", task="text_classification")
    assert called.host_bytes == torch_alone + int(3.5 * torch_alone)


def test_a_gpu_holds_what_is_served_and_the_machine_what_is_loaded(tmp_path):
    wide = write_headers(tmp_path, "F32", tensors=3)
    found = need(wide, "bfloat16", device="cuda")
    assert (found.host_bytes, found.device_bytes) == (3 * NUMBERS * 4, 3 * NUMBERS * 2)
    stored = find_stored_numbers(wide, "causal_lm")
    check_room(found, stored, left_bytes=10**9, device_left_bytes=found.device_bytes)
    with pytest.raises(ClusterError, match="does not fit into the GPU's memory"):
        check_room(found, stored, left_bytes=10**9, device_left_bytes=found.device_bytes - 1)


@pytest.mark.parametrize(("code", "needed"), [("F32", 4 * NUMBERS), ("BF16", 4 * NUMBERS)])
def test_what_does_not_fit_is_told_before_anything_is_loaded(tmp_path, monkeypatch, code, needed):
    write_headers(tmp_path, code, tensors=1)
    monkeypatch.setattr(load_module, "available_memory_bytes", lambda: needed - 1)
    spec = ServeSpec(dtype="float32")
    with pytest.raises(ClusterError) as refused:
        load_service(tmp_path, "causal_lm", name="large", spec=spec)
    for said in ("does not fit into memory", "in float32", "are left", "serve.dtype"):
        assert said in str(refused.value)


def test_a_folder_without_weights_is_left_to_who_loads_it(tmp_path):
    assert find_stored_numbers(Location.parse(str(tmp_path)), "causal_lm") is None
    (tmp_path / "config.json").write_text("{}")
    assert find_stored_numbers(Location.parse(str(tmp_path)), "causal_lm") is None


def test_openvino_is_not_taken_where_the_memory_holds_torch_alone(llama, tokenizer, monkeypatch):
    monkeypatch.setattr(choice_module, "available_memory_bytes", lambda: 100_000)
    engine, reason = build_engine(llama, tokenizer, batch=1, queue=1)
    engine.close()
    assert engine.runner.name == "transformers"
    assert "the memory does not hold it" in reason
    with pytest.raises(SpecError, match=r"does not hold it .* set serve.engine: auto"):
        build_engine(llama, tokenizer, batch=1, queue=1, asked="openvino")

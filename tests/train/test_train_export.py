"""The model of a checkpoint: one weight at a time, whatever was trained, wherever it goes."""

import copy
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from tiny_networks import large_outline, network_of
from written_checkpoints import write_checkpoint_of

from raymodel.errors import NonFiniteLossError
from raymodel.model.export import save_model
from raymodel.model.initial import InitialWeights
from raymodel.model.materialise import materialise
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.testing.distributed import run_distributed
from raymodel.testing.memory import measure_memory
from raymodel.testing.s3 import s3_bucket
from raymodel.testing.tiny import (
    ModelWeights,
    outline_tiny_bert,
    outline_tiny_llama,
    train_tiny_tokenizer,
)
from raymodel.train.checkpoint.export import TrainedWeights, export_model, folder_for
from raymodel.train.checkpoint.fragments import FragmentReader
from raymodel.train.checkpoint.index import load_index
from raymodel.train.checkpoint.state import checkpoint_location

IDS = torch.tensor([[5, 6, 7, 8]])


def trained_copy(network):
    """The network with weights, of which the trained ones were changed."""
    module = materialise(copy.deepcopy(network.module), network.weights, torch.float32)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
    return module.eval()


def exported_from(network, module, run):
    """What a checkpoint of `module` exports, and so only of its trained weights."""
    shapes = {n: p.shape for n, p in module.named_parameters() if p.requires_grad}
    index = write_checkpoint_of(run, shapes, ModelWeights(module))
    return TrainedWeights(network, FragmentReader(checkpoint_location(run, 1), index))


def test_without_a_finite_validation_loss_none_is_the_best(tmp_path: Path) -> None:
    run = Location.parse(str(tmp_path))
    write_checkpoint_of(run, {}, None)  # whose validation loss is None
    work = SimpleNamespace(run=run, spec=SimpleNamespace(export="best"))
    with pytest.raises(NonFiniteLossError, match=r"no checkpoint of .* set `export: last`"):
        export_model(work, None, None)


CASES = {
    "tied": (lambda: outline_tiny_llama(tie_word_embeddings=True), None, "causal_lm"),
    "untied": (outline_tiny_llama, None, "causal_lm"),
    "lora": (outline_tiny_llama, {"rank": 3}, "causal_lm"),
    "lora, tied": (
        lambda: outline_tiny_llama(tie_word_embeddings=True),
        {"rank": 3},
        "causal_lm",
    ),
    "lora, new head": (outline_tiny_bert, {"rank": 3}, "text_classification"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_folder_holds_what_was_trained_merged_with_what_was_not(tmp_path, case):
    build, adapter, task = CASES[case]
    network = network_of(build(), adapter, task)
    module = trained_copy(network)
    expected = module(IDS).logits
    weights = exported_from(network, module, Location.parse(str(tmp_path / "run")))
    tokenizer = train_tiny_tokenizer(["some text"])
    save_model(network.plain, weights, tokenizer, tmp_path / "model", torch.float32, {})
    auto_class = getattr(transformers, get_task(task)().auto_class)
    loaded, found = auto_class.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    torch.testing.assert_close(loaded(IDS).logits, expected)
    if adapter is None:
        assert torch.equal(loaded(IDS).logits, expected)
        return
    merged = module.merge_and_unload().state_dict()
    for name, weight in loaded.state_dict().items():
        assert torch.equal(weight, merged[name]), name


def write_large(rank: int, world_size: int, run: Location) -> int:
    plain = large_outline()
    shapes = {name: parameter.shape for name, parameter in plain.named_parameters()}
    write_checkpoint_of(run, shapes, InitialWeights(plain, 0), ranks=1)
    return sum(parameter.numel() for parameter in plain.parameters())


def export_large(rank: int, world_size: int, run: Location) -> int:
    network, location = network_of(large_outline()), checkpoint_location(run, 1)
    tokenizer = train_tiny_tokenizer(["some text"])
    with measure_memory() as growth:
        weights = TrainedWeights(network, FragmentReader(location, load_index(location)))
        folder = run.local_path / "model"
        save_model(network.plain, weights, tokenizer, folder, torch.float32, {})
    return growth.peak_bytes


def test_a_model_larger_than_the_memory_that_its_export_takes(tmp_path):
    run = Location.parse(str(tmp_path))
    model_bytes = 4 * run_distributed(write_large, 1, run, init=False)[0]
    assert model_bytes > 200e6
    (peak,) = run_distributed(export_large, 1, run, init=False)
    assert (tmp_path / "model" / "model.safetensors").stat().st_size >= model_bytes
    assert 0 < peak < model_bytes / 4, f"{peak / 1e6:.0f} MB for {model_bytes / 1e6:.0f}"


def test_to_a_bucket_goes_file_after_file(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    network = network_of(outline_tiny_llama())
    module, most = trained_copy(network), 0
    tokenizer = train_tiny_tokenizer(["some text"])
    with s3_bucket() as bucket:
        with folder_for(bucket / "model") as (folder, send):

            def count_and_send(file: Path) -> None:
                nonlocal most
                most = max(most, len(list(folder.glob("*.safetensors"))))
                send(file)

            save_model(
                network.plain,
                ModelWeights(module),
                tokenizer,
                folder,
                torch.float32,
                {},
                file_bytes=20_000,
                on_file=count_and_send,
            )
        names = [entry.name for entry in (bucket / "model").walk()]
        assert sum(name.startswith("model-0") for name in names) > 5
        assert most == 1
        assert not folder.exists()
        for name in names:
            (tmp_path / "copy" / name).parent.mkdir(exist_ok=True)
            (tmp_path / "copy" / name).write_bytes((bucket / "model" / name).read_bytes())
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "copy")
    assert torch.equal(loaded(IDS).logits, module(IDS).logits)

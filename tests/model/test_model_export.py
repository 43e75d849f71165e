"""A saved model is an ordinary Hugging Face folder; a folder that is not one is refused."""

import json
import pickle

import pytest
import torch
import transformers

from raymodel.errors import ArtifactError
from raymodel.modality.text import TextProcessor
from raymodel.model.card import render_card
from raymodel.model.export import save_model
from raymodel.model.initial import InitialWeights
from raymodel.model.load import load_model, open_model, read_config
from raymodel.model.materialise import materialise
from raymodel.storage.uri import Location
from raymodel.tasks import get_task
from raymodel.testing.tiny import (
    ModelWeights,
    build_tiny_bert,
    build_tiny_llama,
    outline_tiny_llama,
    train_tiny_tokenizer,
)

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture(scope="module")
def tokenizer():
    return train_tiny_tokenizer(["some text to learn merges from"])


def save(model, tokenizer, folder, dtype=torch.float32, weights=None, **arguments):
    card = {"name": "tiny", "task": "causal_lm", "metrics": {"perplexity": 12.5}}
    weights = weights or ModelWeights(model)
    save_model(model, weights, TextProcessor(tokenizer), folder, dtype, card, **arguments)


def build_from(folder, task, seed=0):
    """The model that a training on the folder begins with."""
    model, stored = open_model(Location.parse(str(folder)), task)
    return materialise(model, InitialWeights(model, seed, stored), torch.float32).eval()


@pytest.mark.parametrize("tied", [True, False])
def test_transformers_loads_the_folder_and_gives_the_same_logits(tmp_path, tokenizer, tied):
    model = build_tiny_llama(tie_word_embeddings=tied).eval()
    save(model, tokenizer, tmp_path)
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert again("text")["input_ids"] == tokenizer("text")["input_ids"]
    assert again.eos_token_id == 0


@pytest.mark.parametrize("tied", [True, False])
def test_bf16_is_what_the_file_holds_and_what_auto_loads(tmp_path, tokenizer, tied):
    model = build_tiny_llama(tie_word_embeddings=tied)
    save(model, tokenizer, tmp_path, torch.bfloat16)
    assert model.dtype == torch.float32  # the model itself is not touched
    loaded = load_model(tmp_path, get_task("causal_lm")())
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight.bfloat16())
    weights = sum(p.numel() for p in model.parameters())
    size = (tmp_path / "model.safetensors").stat().st_size
    assert 2 * weights < size < 2 * weights + 10_000


def test_given_weights_are_written_in_place_of_the_models_own(tmp_path, tokenizer):
    model, other = build_tiny_llama(seed=1), build_tiny_llama(seed=2).eval()
    save(model, tokenizer, tmp_path, weights=ModelWeights(other))
    loaded = load_model(tmp_path, get_task("causal_lm")())
    assert torch.equal(loaded(IDS).logits, other(IDS).logits)


def test_labels_travel_in_the_configuration(tmp_path, tokenizer):
    save(build_tiny_bert(("a", "b", "c")), tokenizer, tmp_path)
    task = get_task("text_classification")()
    names = read_config(Location.parse(str(tmp_path)), task).id2label
    assert names == {0: "a", 1: "b", 2: "c"}
    assert load_model(tmp_path, task).config.num_labels == 3


def test_a_new_head_is_drawn_from_the_seed_and_the_encoder_is_kept(tmp_path):
    encoder = transformers.AutoModel.from_config(build_tiny_bert().config)
    encoder.save_pretrained(tmp_path)
    task = get_task("text_classification")(labels=("x", "y", "z"))
    one, same, other = (build_from(tmp_path, task, seed=s) for s in (1, 1, 2))
    assert one.classifier.weight.shape == (3, 32)
    assert one.config.id2label == {0: "x", 1: "y", 2: "z"}
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    word = "embeddings.word_embeddings.weight"
    assert torch.equal(one.bert.get_parameter(word), encoder.get_parameter(word))
    with pytest.raises(ArtifactError, match=r"lacks 2 weights.*classifier"):
        load_model(tmp_path, task)


def test_other_labels_than_the_folders_mean_a_new_head(tmp_path, tokenizer):
    save(build_tiny_bert(("a", "b")), tokenizer, tmp_path)
    task = get_task("text_classification")(labels=("x", "y", "z"))
    assert build_from(tmp_path, task).classifier.weight.shape == (3, 32)
    with pytest.raises(ArtifactError, match="classifier"):
        load_model(tmp_path, task)


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match=r"no config\.json"):
        load_model(tmp_path, get_task("causal_lm")())


def test_an_encoder_is_refused_for_causal_lm(tmp_path, tokenizer):
    save(build_tiny_bert(), tokenizer, tmp_path)
    with pytest.raises(ArtifactError, match="both directions"):
        load_model(tmp_path, get_task("causal_lm")())


def test_weights_that_were_cut_short_are_refused(tmp_path, tokenizer):
    save(build_tiny_llama(), tokenizer, tmp_path)
    with open(tmp_path / "model.safetensors", "r+b") as file:
        file.truncate(5000)
    with pytest.raises(ArtifactError, match="not a whole safetensors file"):
        load_model(tmp_path, get_task("causal_lm")())


def test_missing_weights_of_the_body_are_refused_even_where_a_head_may_be_new(tmp_path, tokenizer):
    from safetensors.torch import load_file, save_file

    save(build_tiny_bert(), tokenizer, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(ArtifactError, match=r"lacks 1 weights.*output\.dense"):
        build_from(tmp_path, get_task("text_classification")(labels=("no", "yes")))


def test_pickled_weights_are_never_read(tmp_path, tokenizer):
    save(build_tiny_llama(), tokenizer, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(ArtifactError, match="safetensors"):
        load_model(tmp_path, get_task("causal_lm")())


def test_code_in_the_folder_never_runs(tmp_path, tokenizer):
    save(build_tiny_llama(), tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(ArtifactError):
        load_model(tmp_path, get_task("causal_lm")())
    assert not (tmp_path / "ran").exists()


def test_the_card_has_a_head_for_the_hub_and_a_table_for_each_mapping():
    card = render_card({"name": "m", "pipeline_tag": "text-classification", "metrics": {"f1": 0.5}})
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: text-classification\n")
    assert "\n# m\n" in card
    assert "## Metrics" in card
    assert "| F1 | 0.5 |" in card


def test_a_large_model_is_split_and_its_index_says_where_each_weight_is(tmp_path, tokenizer):
    model, sizes = build_tiny_llama(tie_word_embeddings=True).eval(), {}
    limit = 30_000  # less than the embedding alone
    on_file = lambda file: sizes.update({file.name: file.stat().st_size})  # noqa: E731
    save(model, tokenizer, tmp_path, file_bytes=limit, on_file=on_file)
    assert sizes.keys() == {file.name for file in tmp_path.iterdir()}
    shards = sorted(name for name in sizes if name.startswith("model-"))
    assert shards == [
        f"model-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)
    ]
    assert len(shards) > 2
    assert sum(sizes[name] > limit + 4000 for name in shards) == 1  # the embedding, by itself
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == 4 * sum(p.numel() for p in model.parameters())
    assert set(index["weight_map"].values()) == set(shards)
    assert "lm_head.weight" not in index["weight_map"]
    loaded, found = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert not found["missing_keys"]
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)


def test_a_model_on_the_meta_device_is_written_from_weights_elsewhere(tmp_path, tokenizer):
    model = build_tiny_llama(tie_word_embeddings=True).eval()
    outline = outline_tiny_llama(tie_word_embeddings=True)
    save(outline, tokenizer, tmp_path, weights=ModelWeights(model))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)

"""Parameters of adapters and of tensor-parallel workers, against the libraries that make them."""

import json

import pytest

from raymodel.model.adapters import attach_adapter
from raymodel.model.count import count_model
from raymodel.model.groups import HIDDEN, parameter_groups
from raymodel.model.shape import Adapter, ModelShape
from raymodel.model.spec import AdapterSpec, LoraSpec
from raymodel.tasks import get_task
from raymodel.testing.tiny import build_tiny_bert, build_tiny_llama


@pytest.mark.parametrize("target", ["all-linear", ("q_proj", "down_proj")])
def test_an_adapter_of_a_decoder_is_counted_to_the_last_parameter(target):
    model = build_tiny_llama()
    shape = ModelShape(
        architecture="llama",
        config=model.config.to_dict(),
        adapter=Adapter(rank=3, target=target),
    )
    spec = AdapterSpec(lora=LoraSpec(rank=3, target=target))
    adapted = attach_adapter(model, spec, get_task("causal_lm")())
    assert shape.trained == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert shape.frozen == sum(p.numel() for p in adapted.parameters() if not p.requires_grad)


@pytest.mark.parametrize("target", ["all-linear", ("query", "value")])
def test_an_adapter_of_a_classifier_is_counted_with_its_head(target):
    model = build_tiny_bert()
    shape = ModelShape(
        architecture="bert",
        config=model.config.to_dict(),
        head="classification",
        adapter=Adapter(rank=3, target=target),
    )
    task = get_task("text_classification")(labels=("no", "yes"))
    adapted = attach_adapter(model, AdapterSpec(lora=LoraSpec(rank=3, target=target)), task)
    assert shape.trained == sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert shape.frozen == sum(p.numel() for p in adapted.parameters() if not p.requires_grad)


@pytest.mark.parametrize(("is_tied", "halved"), [(False, 15_360 + 512 * 64), (True, 15_360)])
def test_tensor_parallelism_halves_matrices_and_leaves_embeddings_whole(is_tied, halved):
    # The shapes that AutoTP of DeepSpeed 0.19.8 leaves: seven matrices and an untied head are cut.
    config = {
        "vocab_size": 512,
        "hidden_size": 64,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "tie_word_embeddings": is_tied,
    }
    shape = ModelShape(architecture="llama", config=config)
    parameters = count_model("llama", config).parameters
    assert parameters * shape.tensor_share(2) == pytest.approx(parameters - halved / 2)


def built(kind):
    """A model, its shape, and whether an adapter is trained in its stead."""
    model = build_tiny_bert() if kind == "bert" else build_tiny_llama()
    shape = ModelShape(
        architecture=kind.partition(" ")[0],
        config=model.config.to_dict(),
        head="classification" if kind == "bert" else "causal_lm",
        adapter=Adapter(rank=3, target="all-linear") if "lora" in kind else None,
    )
    if shape.adapter is not None:
        spec = AdapterSpec(lora=LoraSpec(rank=3, target="all-linear"))
        model = attach_adapter(model, spec, get_task("causal_lm")())
    return model, shape


@pytest.mark.parametrize("kind", ["llama", "llama with lora", "bert"])
def test_hidden_matrices_and_the_sides_of_all_are_those_of_the_model(kind):
    model, shape = built(kind)
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = parameter_groups(model, 0.0, apart=True)
    hidden = [p for group in groups if group.get(HIDDEN) for p in group["params"]]
    assert shape.hidden == sum(p.numel() for p in hidden)
    assert shape.sides == sum(sum(p.shape) for p in trained)


def test_a_shape_comes_back_from_json():
    shape = ModelShape(
        architecture="llama",
        config={"vocab_size": 9, "hidden_size": 4},
        adapter=Adapter(rank=2, target=("q_proj",)),
    )
    assert ModelShape.from_dict(json.loads(json.dumps(shape.to_dict()))) == shape

"""Models whose first token does not stand at position 0."""

import pytest
import torch
import transformers

from raymodel.errors import SpecError
from raymodel.modality.base import ModelFields
from raymodel.model.build import build_model
from raymodel.model.initial import InitialWeights
from raymodel.model.materialise import materialise
from raymodel.model.positions import COUNTED_AFTER_PADDING, find_max_tokens, positions_before
from raymodel.model.spec import ModelSpec
from raymodel.tasks import get_task

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
}


def build(architecture: str, padding: int, **config: int):
    needed = ModelFields(
        at_least={"vocab_size": 60, "max_position_embeddings": 16},
        given={"pad_token_id": padding},
    )
    spec = ModelSpec(architecture=architecture, config={**SMALL, **config})
    task = get_task("text_classification")(labels=("no", "yes"))
    model = build_model(spec, task, needed)
    return materialise(model, InitialWeights(model, 0), torch.float32).eval()


@pytest.mark.parametrize("padding", [0, 1, 5])
@pytest.mark.parametrize("architecture", ["bert", "roberta", "xlm-roberta", "mpnet"])
def test_a_fresh_model_takes_the_longest_row_and_says_so(architecture, padding):
    model = build(architecture, padding)
    assert find_max_tokens(model.config.to_dict()) == 16
    ids = torch.arange(10, 26)[None]
    model(input_ids=ids, attention_mask=torch.ones_like(ids))
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=torch.arange(10, 27)[None])


def test_a_job_that_gives_too_few_positions_is_told_how_many():
    with pytest.raises(SpecError, match="max_position_embeddings is 16, but the data needs 18"):
        build("roberta", 1, max_position_embeddings=16)


def test_a_model_that_names_no_limit_has_none():
    assert find_max_tokens({"model_type": "roberta"}) is None
    assert find_max_tokens({"model_type": "roberta", "max_position_embeddings": 514}) == 513


@pytest.mark.parametrize("architecture", COUNTED_AFTER_PADDING)
def test_the_families_are_those_of_transformers(architecture):
    try:
        config = transformers.AutoConfig.for_model(
            architecture, vocab_size=60, num_hidden_layers=1, pad_token_id=3
        )
        with torch.device("meta"):
            model = transformers.AutoModel.from_config(config)
    except (ImportError, AttributeError, TypeError) as error:
        pytest.skip(f"{architecture} cannot be outlined: {error}")
    rows = {
        module.padding_idx
        for name, module in model.named_modules()
        if name.endswith("embeddings.position_embeddings") and "entity" not in name
    }
    assert rows == {positions_before(architecture, 3) - 1}


def test_other_families_count_from_the_first():
    assert positions_before("bert", 5) == positions_before("llama", None) == 0

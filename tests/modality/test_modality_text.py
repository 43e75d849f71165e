"""A byte-level BPE with a token for what is hidden, and what models are told of a tokenizer."""

import pytest
from transformers import AutoTokenizer

from raymodel.modality.characters import train_character_tokenizer
from raymodel.modality.text import MASK, TextProcessor, train_tokenizer

TEXT = "the capital of the country"


def test_the_mask_stands_for_the_space_before_a_token_too(tmp_path):
    trained = train_tokenizer([TEXT] * 9, 300, mask=True)
    trained.save_pretrained(tmp_path)
    for tokenizer in (trained, AutoTokenizer.from_pretrained(tmp_path)):
        whole = tokenizer("the capital of")["input_ids"]
        hidden = tokenizer(f"the {MASK} of")["input_ids"]
        assert len(whole) == 3
        assert hidden == [whole[0], tokenizer.mask_token_id, whole[2]]


def test_a_text_that_spells_the_mask_out_is_text(tmp_path):
    from raymodel.modality.text import load_encoder
    from raymodel.storage.uri import Location

    place = Location.parse(str(tmp_path))
    processor = TextProcessor(train_tokenizer([TEXT], 300, mask=True))
    processor.save(place)
    ids = load_encoder(place).encode(f"a {MASK}", add_special_tokens=False).ids
    assert processor.tokenizer.mask_token_id not in ids
    assert processor.decode(ids) == f"a {MASK}"


@pytest.mark.parametrize("kind", ["bytes", "characters"])
def test_a_model_is_told_the_special_tokens_that_there_are(kind):
    if kind == "bytes":
        tokenizer = train_tokenizer([TEXT], 300, mask=True)
        known = {"cls_token_id": None, "sep_token_id": None, "mask_token_id": 6, "pad_token_id": 1}
    else:
        tokenizer = train_character_tokenizer([TEXT], 300)
        known = {"cls_token_id": 2, "sep_token_id": 3, "mask_token_id": 4, "pad_token_id": 0}
    given = TextProcessor(tokenizer).model_fields(64).given
    assert {name: given[name] for name in known} == known

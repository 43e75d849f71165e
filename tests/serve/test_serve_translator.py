"""What makes paraphrases, against servers of our own: one that translates, and others."""

import pytest
from asked import rules_of
from listening import listening

from raymodel.data.translate import Failed, Translator
from raymodel.errors import RequestError
from raymodel.modality.spec import TranslatorSpec
from raymodel.serve.app import build_app
from raymodel.tasks.base import Limits

TEXTS = [f"def read(line{i}): return {i}" for i in range(19)]


def test_a_served_seq2seq_model_translates_as_it_answers(translation) -> None:
    rows = [translation.row({"source": f"to x: {text}"}, "test") for text in TEXTS]
    limits = Limits(max_new_tokens=5, beams=2)
    expected = [translation._predict([row], limits)[0]["text"].strip() for row in rows]
    with listening(build_app(translation, rules_of())) as url:
        one = Translator(TranslatorSpec(url=url, prompt="to x: {text}"), "there", 10)
        found = one.translate(TEXTS, 2)
        said = [each if isinstance(each, str) else "" for each in found]
        assert said == expected
        empty = {each.reason for each in found if isinstance(each, Failed)}
        assert empty <= {"there: an empty answer"}
        assert any(said), "it does say something"


def test_one_text_that_is_refused_costs_those_asked_with_it_nothing(translation) -> None:
    texts = [*TEXTS[:3], "word " * 100_000, *TEXTS[3:6]]
    with listening(build_app(translation, rules_of())) as url:
        one = Translator(TranslatorSpec(url=url), "back", 10)
        found = one.translate(texts, 2)
        assert [
            i for i, each in enumerate(found) if each == Failed("back: refused by the server")
        ] == [3]
        assert found[:3] + found[4:] == one.translate([*TEXTS[:6]], 1)


def test_a_server_for_another_purpose_is_refused(classification) -> None:
    with (
        listening(build_app(classification, rules_of())) as url,
        pytest.raises(RequestError, match="tiny for text_classification, which translates nothing"),
    ):
        Translator(TranslatorSpec(url=url), "there", 10)


def test_a_served_chat_model_is_asked_in_a_chat(generation) -> None:
    with listening(build_app(generation, rules_of())) as url:
        one = Translator(TranslatorSpec(url=url, prompt="Say {text}"), "there", 5)
        found = one.translate(TEXTS[:3], 2)
    assert len(found) == 3
    assert all(isinstance(each, str) or not each.is_of_server for each in found), found

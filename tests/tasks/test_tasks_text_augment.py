"""Texts changed by chance: which words, which tokens, and who may."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from raymodel.chance import Chance, Draw
from raymodel.data.columns import columns_of
from raymodel.modality.embedding import EmbeddingProcessor
from raymodel.modality.spec import TextAugmentSpec
from raymodel.modality.text import TextProcessor
from raymodel.spec.base import fingerprint
from raymodel.tasks import get_task
from raymodel.tasks.spec import TASK_SPECS, default_spec
from raymodel.tasks.spec.base import AnyChangedText
from raymodel.tasks.text_augment import WordChanger, misspelled
from raymodel.tasks.texts import key_of
from raymodel.testing.tiny import train_pair_tokenizer, train_tiny_tokenizer

TEXTS = [
    "the quick brown fox jumps over a lazy dog",
    "sorting many different kinds of numbers, 1234 of them",
    "unable to find what anybody has written before",
    "one",
]
ALL = {"drop": 0.2, "swap": 0.2, "noise": 0.3}


def word_pieces() -> PreTrainedTokenizerFast:
    letters = "abcdefghijklmnopqrstuvwxyz0123456789,"
    words = ["the", "fox", "dog", "sort", "##ing", "number", "##s", "find", "one", "any"]
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    vocab = {token: index for index, token in enumerate([*names, *words])}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    ends = [("[CLS]", vocab["[CLS]"]), ("[SEP]", vocab["[SEP]"])]
    tokenizer.post_processor = processors.BertProcessing(ends[1], ends[0])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        **{f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")},
    )


@pytest.fixture(scope="module", params=["bytes", "word pieces"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return train_pair_tokenizer(TEXTS) if request.param == "bytes" else word_pieces()


def changer(tokenizer: Any, **spec: float) -> WordChanger:
    return WordChanger(tokenizer, TextAugmentSpec(**spec))


def words_after(tokenizer: Any, text: str, turn: int, **spec: float) -> list[str]:
    found = changer(tokenizer, **spec).change(tokenizer(text)["input_ids"], Chance("test", turn))
    return tokenizer.decode(found.ids, skip_special_tokens=True).split()


# ---- words ---------------------------------------------------------------------------------------


def test_special_tokens_stay_around_every_text_and_one_word_in_it(tokenizer) -> None:
    special = tokenizer.cls_token_id, tokenizer.sep_token_id
    made = changer(tokenizer, drop=0.9, swap=0.5, noise=0.5)
    for turn in range(60):
        for text in TEXTS:
            ids = made.change(tokenizer(text)["input_ids"], Chance("t", turn)).ids
            assert (ids[0], ids[-1]) == special
            assert len(ids) > 2
            assert not set(ids[1:-1]) & {*special}


def test_words_are_left_out_as_often_as_is_said_and_the_others_keep_their_order(tokenizer) -> None:
    before = TEXTS[0].split()
    kept = 0
    for turn in range(300):
        after = words_after(tokenizer, TEXTS[0], turn, drop=0.25)
        places = [before.index(word) for word in after]
        assert places == sorted(places)
        kept += len(after)
    assert kept / (300 * len(before)) == pytest.approx(0.75, abs=0.04)


def test_words_change_places_with_the_next_one_and_the_first_stays(tokenizer) -> None:
    before, moved = TEXTS[0].split(), Counter[int]()
    for turn in range(300):
        after = words_after(tokenizer, TEXTS[0], turn, swap=0.3)
        assert sorted(after) == sorted(before)
        assert after[0] == before[0]
        assert all(abs(after.index(word) - place) <= 1 for place, word in enumerate(before))
        moved[sum(a != b for a, b in zip(after, before, strict=True))] += 1
    assert len(moved) > 3
    assert moved[0] < 150


def is_a_slip_of(word: str, known: str) -> bool:
    """Of the same letters, or with one more or one fewer."""
    ours, theirs = Counter(word), Counter(known)
    return (ours - theirs).total() + (theirs - ours).total() <= 1


def test_a_word_with_a_slip_is_nearly_the_same_and_numbers_stay(tokenizer) -> None:
    before, wrong = TEXTS[1].replace(",", "").split(), 0
    made = changer(tokenizer, drop=0.1, noise=0.5)
    for turn in range(200):
        found = made.change(tokenizer(TEXTS[1])["input_ids"], Chance("t", turn)).ids
        after = tokenizer.decode(found, skip_special_tokens=True).replace(",", " ").split()
        for word in after:
            assert word == "1234" or not word.isdigit()
            assert any(is_a_slip_of(word, known) for known in before), word
            wrong += word not in before
    assert wrong > 200


def test_a_row_gets_no_longer_than_it_is_filled_up_to(tokenizer) -> None:
    text = " ".join(TEXTS[:3])
    before = tokenizer(text)["input_ids"]
    lengths = [
        len(changer(tokenizer, noise=0.9).change(before, Chance("t", turn)).ids)
        for turn in range(30)
    ]
    assert max(lengths) == -(-len(before) // 8) * 8


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("word", {"owrd", "wrod", "wodr", "ord", "wrd", "wod", "wor", "wword", "woord", "worrd",
                  "wordd"}),
        (" it's", {" ti's", " is't", " t's", " i's", " it'", " iit's", " itt's", " it'ss"}),
        ("1234", {"1234"}),
        ("a", {"aa"}),
        ("中", {"中中"}),
        ("", {""}),
    ],
)  # fmt: skip
def test_a_slip_is_one_of_three_at_any_letter(text: str, found: set[str]) -> None:
    numbers = np.linspace(0, 0.999, 60)
    assert {misspelled(text, float(k), float(w)) for k in numbers for w in numbers} == found


def test_what_is_no_whole_character_is_left_as_it_is() -> None:
    tokenizer = train_tiny_tokenizer(["abc"], vocab_size=260)
    for turn in range(20):
        ids = tokenizer("é中")["input_ids"]
        found = changer(tokenizer, noise=0.9).change(ids[:1], Chance("t", turn)).ids
        assert found == ids[:1]


# ---- rows ----------------------------------------------------------------------------------------


def task_of(name: str, processor: Any, augment: Any, *, pairs: bool = False) -> Any:
    kind, spec = get_task(name), default_spec(name)
    spec = type(spec).model_validate({"augment": augment})
    labels = ("a", "b") if kind.class_role() else ()
    roles = kind.fields if pairs else None
    return kind(spec, labels=labels, processor=processor, roles=roles)


def columns_for(task: Any, documents: list[dict[str, Any]]) -> dict[str, Any]:
    import pyarrow as pa

    rows = [task.features(document, 64).features for document in documents]
    return columns_of(pa.Table.from_pylist(rows, schema=task.schema()))


def rows_of(batch: dict[str, torch.Tensor]) -> list[tuple[list[int], list[int]]]:
    """The tokens and types of each row without its padding."""
    types = batch.get("token_type_ids", batch["input_ids"])
    return [
        (ids[mask == 1].tolist(), kinds[mask == 1].tolist())
        for ids, mask, kinds in zip(batch["input_ids"], batch["attention_mask"], types, strict=True)
    ]


CASES = {
    "text_classification": [{"text": text, "label": "ab"[i % 2]} for i, text in enumerate(TEXTS)],
    "text_regression": [{"text": text, "label": 0.5} for text in TEXTS],
    "embedding": [
        {"query": text, "positive": TEXTS[i - 1], "negatives": [TEXTS[i - 2], TEXTS[i - 3]]}
        for i, text in enumerate(TEXTS)
    ],
    "ranking": [
        {"query": text, "document": TEXTS[i - 1], "negatives": [TEXTS[i - 2]]}
        for i, text in enumerate(TEXTS)
    ],
    "pairs": [
        {"text": text, "text_pair": TEXTS[i - 1], "label": "a"} for i, text in enumerate(TEXTS)
    ],
}


@pytest.mark.parametrize("name", CASES)
def test_rows_are_the_same_whoever_collates_them_and_others_at_another_step(name: str) -> None:
    made = EmbeddingProcessor if name == "embedding" else TextProcessor
    processor = made(train_pair_tokenizer(TEXTS))
    kind = "text_classification" if name == "pairs" else name
    task, plain = (
        task_of(kind, processor, augment, pairs=name in ("pairs", "embedding"))
        for augment in (ALL, {})
    )
    columns, draw = columns_for(task, CASES[name]), Draw(7, 3, range(4))

    def texts_by_row(batch: dict[str, torch.Tensor], first: int = 0) -> dict[int, list[Any]]:
        rows: dict[int, list[Any]] = {}
        owners = batch.get("owner", torch.arange(len(batch["input_ids"])))
        for owner, row in zip(owners.tolist(), rows_of(batch), strict=True):
            rows.setdefault(owner + first, []).append(row)
        return rows

    whole = texts_by_row(task.collate(columns, draw))
    for start, stop in ((0, 1), (1, 4), (2, 3)):
        part = {each: column[start:stop] for each, column in columns.items()}
        found = texts_by_row(task.collate(part, draw.part(start, stop)), start)
        assert found == {row: whole[row] for row in range(start, stop)}
    unchanged = texts_by_row(plain.collate(columns, draw))
    assert texts_by_row(task.collate(columns)) == unchanged, "without chance nothing is changed"
    assert whole != unchanged
    assert texts_by_row(task.collate(columns, Draw(7, 4, range(4)))) != whole
    if name in ("pairs", "ranking"):
        for ids, types in (row for rows in whole.values() for row in rows):
            first = ids.index(processor.tokenizer.sep_token_id) + 1
            assert types == [0] * first + [1] * (len(ids) - first)


def test_texts_that_were_changed_are_still_the_same_texts_to_one_another() -> None:
    """Else a query would be pushed away from what it looks for, where another row has it too."""
    processor = EmbeddingProcessor(train_pair_tokenizer(TEXTS))
    task = task_of("embedding", processor, ALL)
    documents = [{"query": text, "positive": TEXTS[0]} for text in TEXTS[1:]]
    batch = task.collate(columns_for(task, documents), Draw(7, 3, range(3)))
    keys = batch["key"][batch["side"] == 1]
    assert keys.tolist() == [key_of(processor.encode(TEXTS[0], None)[0])] * 3
    rows = rows_of(batch)
    assert rows[3] != rows[4], "and yet each was changed by itself"


# ---- who may -------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", TASK_SPECS, ids=lambda spec: spec.model_fields["name"].default)
def test_every_task_of_text_takes_changes_or_says_why_not(spec: Any) -> None:
    name = spec.model_fields["name"].default
    if "augment" in spec.model_fields:
        return
    assert spec.why_unchanged
    with pytest.raises(ValidationError, match=f"{name} has no `augment`: "):
        spec.model_validate({"name": name, "augment": {"drop": 0.1}})


def test_changes_that_are_off_leave_fingerprints_as_they_were_and_examples_in_any_case() -> None:
    known = default_spec("text_classification")
    assert known.identity() == {"name": "text_classification"}
    on = type(known).model_validate({"augment": {"drop": 0.1}})
    assert fingerprint(on.identity()) != fingerprint(known.identity())
    assert on.examples_identity() == known.examples_identity()


def test_a_tokenizer_that_does_not_tell_words_is_refused_where_they_are_changed() -> None:
    tokenizer = train_tiny_tokenizer(["ab"])
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()
    for name in ("text_classification", "embedding"):
        assert isinstance(default_spec(name), AnyChangedText)
        processor = (EmbeddingProcessor if name == "embedding" else TextProcessor)(tokenizer)
        task_of(name, processor, {}).check_processor(processor)
        with pytest.raises(ValueError, match="augment changes whole words"):
            task_of(name, processor, ALL).check_processor(processor)

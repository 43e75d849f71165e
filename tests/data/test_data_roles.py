"""Roles, splits and groups: what a source says of its records."""

import json
from pathlib import Path

import numpy as np
import pytest
from labelled import classes, documents, labelled, texts_of, write_records

from raymodel.data.account import Account
from raymodel.data.cleaning.cleaner import Cleaner
from raymodel.data.document import make_document
from raymodel.data.prepare import prepare_dataset
from raymodel.data.record import RawRecord
from raymodel.data.sides import Sides
from raymodel.data.spec import CleanSpec, SourceSpec
from raymodel.errors import SourceError
from raymodel.storage.uri import Location
from raymodel.tasks.fields import Field

IMAGES = {"image": Field(kind="image", default="image")}


def records(count, **more):
    return [{"text": f"text {i}", "label": "xy"[i % 2], **more} for i in range(count)]


def prepared(one, place, execute):
    return prepare_dataset(one, place, execute, lambda text: None)


# ---- what comes split ----------------------------------------------------------------------------


@pytest.mark.parametrize("has_validation", [True, False])
def test_data_that_comes_split_stays_so(
    tmp_path: Path, place: Location, execute, tokenizer, has_validation: bool
) -> None:
    sources = []
    for split in ("train", "validation", "test") if has_validation else ("train", "test"):
        file = tmp_path / f"{split}.jsonl"
        path = write_records(file, [r | {"text": f"{split} {r['text']}"} for r in records(60)])
        sources.append(classes(path).model_copy(update={"split": split}))
    one = labelled(sources[0], "text_classification", tokenizer, holdout=0.2)
    content = prepared(one.__class__(**{**vars(one), "sources": tuple(sources)}), place, execute)
    found = {split: texts_of(place, content, split) for split in ("train", "holdout", "test")}
    assert len(found["test"]) == 60
    assert {text.split()[0] for text, _ in found["test"]} == {"test"}
    if has_validation:
        assert {text.split()[0] for text, _ in found["holdout"]} == {"validation"}
        assert len(found["train"]) == 60
    else:
        assert {text.split()[0] for text, _ in found["holdout"]} == {"train"}, "its own share"
        assert 2 < len(found["holdout"]) < 30
    assert documents(content) == 60 * len(sources)


def test_what_a_source_names_as_group_falls_on_one_side(
    tmp_path: Path, place: Location, execute, tokenizer
) -> None:
    lines = [{"text": f"{i // 5} {i}", "label": "xy"[i % 2], "user": i // 5} for i in range(200)]
    source = classes(write_records(tmp_path / "d.jsonl", lines))
    grouped = source.model_copy(update={"group": "user"})
    content = prepared(
        labelled(grouped, "text_classification", tokenizer, holdout=0.3), place, execute
    )
    sides = [
        {text.split()[0] for text, _ in texts_of(place, content, split)}
        for split in ("train", "holdout")
    ]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_a_record_without_a_group_is_left_out(
    tmp_path: Path, place: Location, execute, tokenizer
) -> None:
    lines = [r | {"user": 1} for r in records(20)] + [{"text": "alone", "label": "x"}]
    source = classes(write_records(tmp_path / "d.jsonl", lines))
    one = labelled(source.model_copy(update={"group": "user"}), "text_classification", tokenizer)
    assert prepared(one, place, execute)["left_out"] == {"record without a value in 'user'": 1}


# ---- rare classes --------------------------------------------------------------------------------


def test_a_class_of_two_records_is_on_both_sides_and_the_others_stay(
    tmp_path: Path, place: Location, execute, tokenizer
) -> None:
    rare = [{"text": f"rare {name} {i}", "label": name} for name in "abcdefgh" for i in range(2)]
    lone = [{"text": "lone", "label": "lone"}]
    sides = []
    for number, more in enumerate(([], rare + lone)):
        path = write_records(tmp_path / f"{number}.jsonl", records(80) + more)
        one = labelled(classes(path), "text_classification", tokenizer, holdout=0.1)
        here = place / str(number)
        content = prepared(one, here, execute)
        sides.append({split: texts_of(here, content, split) for split in ("train", "holdout")})
        for name in "abcdefgh" if more else "":
            assert content["classes"]["train"][name] == content["classes"]["holdout"][name] == 1
    common = [set(sides[0]["holdout"]), {t for t in sides[1]["holdout"] if t[1] in "xy"}]
    assert common[0] == common[1], "the classes that were on both sides did not move"


def test_what_moves_is_nearest_to_the_border_and_something_stays():
    whole, first, second = Sides(), Sides(), Sides()
    seen = [("a", "train", 9, "g9"), ("a", "train", 5, "g5"), ("a", "train", 7, "g7")]
    seen += [("b", "holdout", 1, "h1"), ("b", "holdout", 3, "h3"), ("c", "train", 4, "c4")]
    seen += [("d", "train", 6, "d6"), ("d", "holdout", 2, "d2"), ("c", "train", 4, "c4")]
    for index, document in enumerate(seen):
        whole.add(*document)
        (first, second)[index % 2].add(*document)
    assert whole.moves() == {"g5": "holdout", "h3": "train"}
    joined = Sides()
    for part in (second, first):
        joined.add_summary(json.loads(json.dumps(part.summary())))
    assert joined.moves() == whole.moves(), "however the records were cut into partitions"


# ---- values --------------------------------------------------------------------------------------


def document_of(record, roles, tmp_path, **source):
    account = Account()
    account.begin("x")
    spec = SourceSpec(path="x", format="jsonl", **source)
    root = Location.parse(str(tmp_path))
    raw, cleaner = RawRecord(record, b"0" * 16), Cleaner(CleanSpec())
    made = make_document(raw, spec, root, roles, cleaner, account)
    return made, dict(account.left_out)


def test_an_image_is_bytes_or_the_path_of_a_file_below_the_source(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/cat.png").write_bytes(b"pixels")
    by_path, _ = document_of({"image": "a/cat.png"}, IMAGES, tmp_path)
    by_bytes, _ = document_of({"image": b"pixels"}, IMAGES, tmp_path)
    packed, _ = document_of({"photo": {"bytes": b"pixels"}}, IMAGES, tmp_path,
                            fields={"image": "photo"})  # fmt: skip
    assert by_path.values == by_bytes.values == packed.values == {"image": b"pixels"}
    assert by_path.key == by_bytes.key
    assert by_path.num_bytes == 6


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("../secret.png", "path outside the source in 'image'"),
        ("/etc/passwd", "path outside the source in 'image'"),
        ("s3://bucket/x.png", "path outside the source in 'image'"),
        ("none.png", "file that does not exist in 'image'"),
        (None, "record without a value in 'image'"),
    ],
)
def test_an_image_that_cannot_be_read_leaves_its_record_out(tmp_path: Path, value, reason) -> None:
    assert document_of({"image": value}, IMAGES, tmp_path) == (None, {reason: 1})


def test_a_field_that_no_image_or_list_of_words_can_be_is_an_error_of_the_job(tmp_path) -> None:
    with pytest.raises(SourceError, match="the role's image is the encoded bytes"):
        document_of({"image": 3}, IMAGES, tmp_path)
    words = {"tokens": Field(kind="words", default="tokens")}
    made, _ = document_of({"tokens": ["a", "b\r\n"]}, words, tmp_path)
    assert made.values == {"tokens": ["a", "b\n"]}
    for wrong in ("a b", ["a", 1]):
        with pytest.raises(SourceError, match="takes a list of texts"):
            document_of({"tokens": wrong}, words, tmp_path)


def test_keys_tell_lists_from_what_they_are_joined_to(tmp_path) -> None:
    words = {"tokens": Field(kind="words", default="tokens")}
    keys = {
        document_of({"tokens": tokens}, words, tmp_path)[0].key
        for tokens in (["a", "b"], ["ab"], ["a", "b", ""], ["b", "a"])
    }
    assert len(keys) == 4
    assert np.unique([len(key) for key in keys]).tolist() == [16]


# ---- several texts -------------------------------------------------------------------------------

PAIR = {"query": Field(kind="text"), "others": Field(kind="texts")}


def test_each_of_several_texts_is_cut() -> None:
    record, account = RawRecord({"q": "a", "o": ["bcde", "f"]}, b"0" * 16), Account()
    account.begin("x")
    source = SourceSpec(path="x", format="jsonl", fields={"query": "{q}", "others": "o"})
    made = make_document(
        record, source, Location.parse("/nowhere"), PAIR, Cleaner(CleanSpec(max_chars=2)), account
    )
    assert (made.values["others"], made.cut) == (["bc", "f"], ("others",))

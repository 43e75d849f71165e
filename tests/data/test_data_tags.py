"""What a record must hold so that its roles have values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raymodel.data.record import whole_record
from raymodel.data.roles import read_roles
from raymodel.data.spec import SourceSpec
from raymodel.storage.uri import Location
from raymodel.tasks.fields import Field
from raymodel.tasks.template import RecordError

FIELDS = {
    "tokens": Field(kind="words", default="tokens"),
    "tags": Field(kind="tags", default="tags", is_target=True),
}


def read(root: Path, **fields: Any) -> Any:
    place = Location.parse(str(root))
    return read_roles(whole_record(fields), SourceSpec(path=str(root)), place, FIELDS)


def test_words_have_a_tag_each(tmp_path: Path) -> None:
    assert read(tmp_path, tokens=["Ann", "\ud800"], tags=["B-PER", "O"]) == {
        "tokens": ["Ann", "?"],
        "tags": ["B-PER", "O"],
    }


def test_white_space_around_a_tag_makes_no_class_of_its_own(tmp_path: Path) -> None:
    assert read(tmp_path, tokens=["Ann ", "ran"], tags=[" B-PER", "O\r\n"]) == {
        "tokens": ["Ann ", "ran"],
        "tags": ["B-PER", "O"],
    }


@pytest.mark.parametrize(
    ("tokens", "tags", "reason"),
    [
        (["Ann", "ran"], ["B-PER"], "record with more or fewer tags than words"),
        (["Ann"], ["B-PER", "O"], "record with more or fewer tags than words"),
        ([], [], "record without words"),
        (["Ann"], [""], "record with an empty tag"),
    ],
)
def test_tags_that_are_not_those_of_the_words_are_no_classes(
    tmp_path: Path, tokens: list[str], tags: list[str], reason: str
) -> None:
    with pytest.raises(RecordError) as caught:
        read(tmp_path, tokens=tokens, tags=tags)
    assert caught.value.reason == reason

"""Files that grow, are rotated and emptied: each line once, and in bounded memory."""

import os
import time
from pathlib import Path

import pytest

from raymodel.errors import StorageError
from raymodel.monitor.follow import Source
from raymodel.monitor.lines import SETTLED_S
from raymodel.monitor.reading import UnreadError, read_line, time_of
from raymodel.monitor.spec import FollowSpec, ReadingSpec
from raymodel.monitor.state import State

LATER_S = 1000.0


class Following:
    """A source that is asked again and again, and started anew at will."""

    def __init__(self, folder: Path, path: str, **spec) -> None:
        self.folder, self.spec = folder, FollowSpec(path=path, **spec)
        self.said: list[str] = []
        self.state = State(folder / "state/state.sqlite")
        self.restart()

    def restart(self) -> None:
        self.state.close()
        self.state = State(self.folder / "state/state.sqlite")
        self.source = Source(self.spec, self.folder, self.state, 1000, self.said.append)

    def read(self, most=100, keep=True, now_s=None):
        lines, marks = self.source.take(most, time.time() if now_s is None else now_s)
        if keep:
            self.source.keep(marks)
        return [line.raw for line in lines]


def append(path: Path, text: str) -> None:
    with open(path, "a") as file:
        file.write(text)


@pytest.fixture
def following(tmp_path):
    made = []

    def make(path, **spec):
        made.append(Following(tmp_path, path, **spec))
        return made[-1]

    yield make
    for each in made:
        each.state.close()


def test_a_file_is_read_line_by_line_as_it_grows(tmp_path, following):
    log = following("app.log")
    assert log.read() == []
    assert log.said == [f"waits for {tmp_path}/app.log, which is not there"]
    append(tmp_path / "app.log", "one\ntwo\nthr")
    assert log.read() == [b"one", b"two"]
    append(tmp_path / "app.log", "ee\nfour\n")
    assert log.read(most=1) == [b"three"]
    assert log.read() == [b"four"]
    assert log.read() == []


def test_after_a_restart_it_goes_on_where_it_was(tmp_path, following):
    log = following("app.log")
    append(tmp_path / "app.log", "one\ntwo\n")
    assert log.read(most=1) == [b"one"]
    log.restart()
    assert log.read(keep=False) == [b"two"]  # killed before it was dealt with
    log.restart()
    assert log.read() == [b"two"]
    log.restart()
    assert log.read() == []


def test_a_rotated_file_is_read_to_its_end_and_then_the_new_one(tmp_path, following):
    log = following("app.log")
    append(tmp_path / "app.log", "one\n")
    assert log.read() == [b"one"]
    append(tmp_path / "app.log", "two\n")
    os.rename(tmp_path / "app.log", tmp_path / "app.log.1")
    append(tmp_path / "app.log", "three\n")
    log.restart()
    assert log.read() == [b"two", b"three"]
    append(tmp_path / "app.log.1", "late\n")
    append(tmp_path / "app.log", "four\n")
    assert log.read() == [b"late", b"four"]


def test_a_file_that_is_emptied_begins_anew(tmp_path, following):
    log = following("app.log")
    append(tmp_path / "app.log", "one\ntwo\n")
    assert log.read() == [b"one", b"two"]
    (tmp_path / "app.log").write_text("x\n")
    assert log.read() == [b"x"]
    assert "begins anew" in log.said[-1]


def test_a_file_that_is_emptied_and_has_grown_past_the_mark_is_told_by_its_beginning(
    tmp_path, following
):
    log = following("app.log")
    append(tmp_path / "app.log", "one\ntwo\n")
    assert log.read() == [b"one", b"two"]
    (tmp_path / "app.log").write_text("another\nand more\n")
    assert log.read() == [b"another", b"and more"]


def test_a_file_that_goes_before_it_is_read_is_told(tmp_path, following):
    log = following("app.log")
    append(tmp_path / "app.log", "one\ntwo\n")
    assert log.read(most=1) == [b"one"]
    os.remove(tmp_path / "app.log")
    assert log.read() == []
    assert any("4 bytes were not read" in said for said in log.said)


def test_the_files_of_a_folder_take_turns_and_others_are_told(tmp_path, following):
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for name in ("a.txt", "b.log", "c.jsonl"):
        append(inbox / name, "".join(f"{name}{i}\n" for i in range(5)))
    append(inbox / ".hidden.txt", "no\n")
    append(inbox / "table.csv", "no\n")
    folder = following("inbox")
    batches = [folder.read(most=3) for _ in range(5)]
    assert {batch[0][:1] for batch in batches[:3]} == {b"a", b"b", b"c"}
    assert sorted(line for batch in batches for line in batch) == sorted(
        f"{name}{i}".encode() for name in ("a.txt", "b.log", "c.jsonl") for i in range(5)
    )
    assert any(".csv" in said for said in folder.said)
    append(inbox / "d.txt", "new\n")
    folder.restart()
    assert folder.read() == [b"new"]


def test_a_last_line_without_an_end_is_taken_when_its_file_has_settled(tmp_path, following):
    log = following("app.log")
    append(tmp_path / "app.log", "one\ntwo")
    now_s = (tmp_path / "app.log").stat().st_mtime
    assert log.read(now_s=now_s + SETTLED_S - 1) == [b"one"]
    assert log.source.take(9, now_s) == ([], {})  # nothing to deal with until then
    assert log.read(now_s=now_s + SETTLED_S + 1) == [b"two"]
    assert log.read(now_s=now_s + LATER_S) == []


def test_a_line_of_any_length_is_passed_over_in_bounded_memory(tmp_path, following):
    log = following("app.log")
    append(tmp_path / "app.log", "one\n" + "x" * 300_000)
    assert log.read(most=2) == [b"one", None]
    log.restart()
    append(tmp_path / "app.log", "y" * 200_000 + "\ntwo\n")
    assert [line for _ in range(3) for line in log.read(most=1)] == [b"two"]
    append(tmp_path / "app.log", "z" * 1001 + "\n" + "z" * 1000 + "\n")
    assert log.read() == [None, b"z" * 1000]


def test_a_folder_of_too_many_files_is_refused(tmp_path, following, monkeypatch):
    monkeypatch.setattr("raymodel.monitor.follow._MOST_FILES", 2)
    (tmp_path / "inbox").mkdir()
    for i in range(3):
        append(tmp_path / f"inbox/{i}.txt", "text\n")
    with pytest.raises(StorageError, match="3 files"):
        following("inbox").read()


# ---- from lines to texts -------------------------------------------------------------------------


def reading(raw, is_record=True, **fields):
    from raymodel.monitor.follow import Line

    return read_line(Line(raw, is_record), ReadingSpec(**fields), 1000.0)


def test_a_record_is_read_by_its_fields():
    line = b'{"title": "A", "body": "b", "at": "1970-01-01T00:01:00+00:00"}'
    found = reading(line, text="{title}: {body}", time="at")
    assert found == ("A: b", 60.0)
    assert reading(b"  ") is None
    assert reading(b"plain", is_record=False) == ("plain", 1000.0)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "JSON that is no object"),
        (b'{"txt": "a"}', "record without the field 'text'"),
        (b'{"text": ["a"]}', "a field that holds no text"),
        (b'{"text": " "}', "an empty text"),
        (b"\xff", "not UTF-8"),
        (None, "longer than max_text"),
    ],
)
def test_what_is_no_text_has_a_reason(raw, reason):
    with pytest.raises(UnreadError) as caught:
        reading(raw)
    assert str(caught.value) == reason


def test_times_are_read_as_programs_write_them():
    assert time_of("1970-01-01T01:00:00", 1e10) == 3600.0
    assert time_of("1970-01-01T01:00:00+01:00", 1e10) == 0.0
    assert time_of(12.5, 1e10) == 12.5
    assert time_of(1_700_000_000_000, 2e9) == 1_700_000_000.0
    for wrong in (None, True, "soon", float("nan"), -1, [1]):
        with pytest.raises(UnreadError, match="without a time"):
            time_of(wrong, 1e10)
    with pytest.raises(UnreadError, match="not yet"):
        time_of(2000, 1000.0)

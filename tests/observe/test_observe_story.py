"""What the user reads, with and without a terminal."""

import io
import threading
import time

import pytest

from raymodel.observe import story as story_module
from raymodel.observe.story import Story, progress_text
from raymodel.observe.text import count_text, duration_text, listed, table_text

RECORD = {"step": 50, "loss": 2.5, "tokens_per_s": 12_345.0, "mfu": None, "step_time_s": 2.0}


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_progress_line_says_step_loss_rate_and_time_left() -> None:
    line = progress_text("pretrain", RECORD, 100)
    assert line == "pretrain  step 50/100 · loss 2.5000 · 12.3K tokens/s · 1m40s left"
    assert "MFU 41.2%" in progress_text("pretrain", RECORD | {"mfu": 0.412}, 100)
    assert "left" not in progress_text("pretrain", RECORD | {"step": 100}, 100)
    assert progress_text("finetune", {"step": 3, "loss": None}, None) == "finetune  step 3"


def test_plain_progress_is_rare_but_always_shows_the_last_step(stream: io.StringIO) -> None:
    story = Story(stream)
    for step in range(1, 101):
        story.progress("pretrain", RECORD | {"step": step}, 100)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert "step 1/100" in lines[0]
    assert "step 100/100" in lines[1]


def test_plain_lines_are_never_wrapped_nor_read_as_markup(stream: io.StringIO) -> None:
    text = "artifact [bold]x[/bold] " + "/long" * 60
    Story(stream).say(text)
    assert stream.getvalue() == text + "\n"


def test_a_terminal_gets_one_live_line_and_keeps_what_is_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    story = Story(terminal)
    for step in range(1, 4):
        story.progress("pretrain", RECORD | {"step": step}, 100)
    story.say("checkpoint at step 3")
    story.stage("finetune", "starts")
    shown = terminal.getvalue()
    assert "step 2/100" in shown  # drawn at once, not every ten seconds
    assert "\r" in shown
    assert shown.index("checkpoint at step 3") < shown.index("finetune")


def test_short_waits_are_silent(stream: io.StringIO) -> None:
    with Story(stream).waiting("the cluster"):
        pass
    assert stream.getvalue() == ""


def test_long_waits_say_what_for_and_that_they_ended(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(story_module, "WAIT_BEFORE_SAYING_S", 0.05)
    monkeypatch.setattr(story_module, "WAIT_BETWEEN_SAYING_S", 60.0)
    with Story(stream).waiting("two workers"):
        while "waiting for" not in stream.getvalue():
            time.sleep(0.01)
    said = stream.getvalue()
    assert said.count("waiting for two workers (") == 1
    assert "two workers: there after" in said


def test_a_wait_that_fails_still_ends_its_thread(stream: io.StringIO) -> None:
    before = threading.active_count()
    with pytest.raises(KeyError), Story(stream).waiting("x"):
        raise KeyError
    assert threading.active_count() == before


def test_warnings_are_marked(stream: io.StringIO) -> None:
    Story(stream).warn("the bucket is slow")
    assert stream.getvalue() == "warning: the bucket is slow\n"


def test_tables_align_and_show_what_is_missing(stream: io.StringIO) -> None:
    Story(stream).table([{"stage": "prepare", "loss": None}, {"stage": "pretrain", "loss": 2.5}])
    assert stream.getvalue() == "stage     loss\nprepare   –\npretrain  2.5\n"
    assert table_text([{"a": 1}, {"b": 2}]).splitlines()[0] == "a  b"


def test_a_wide_table_goes_on_below_itself_and_cuts_no_word() -> None:
    names = ["first", *(f"column-{letter}" for letter in "abcdefgh")]
    lines = table_text([dict.fromkeys(names, "x" * 12)]).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines] == ["first", "x" * 12] * 2
    words = "an answer in more words than there is room for, and /one/path/" + "x" * 80
    rows = table_text([{"check": "clocks", "seen": words}]).splitlines()
    assert " ".join(row[8:] for row in rows[1:]) == words
    assert [len(row) <= 80 for row in rows] == [True] * (len(rows) - 1) + [False], "a whole path"


def test_listed_parts_stay_whole() -> None:
    parts = [f"measure_{letter} {letter * 12}" for letter in "abcdef"]
    lines = listed(parts, "evaluate  ").splitlines()
    assert max(map(len, lines)) <= 80
    assert all(any(part in line for line in lines) for part in parts)


def test_numbers_and_times_are_short() -> None:
    assert [count_text(x) for x in (0, 999, 1234, 2_000_000, 12.345)] == [
        "0", "999", "1.23K", "2M", "12.3",
    ]  # fmt: skip
    assert [duration_text(x) for x in (0.25, 59.6, 83.2, 7260)] == [
        "0.2s", "1m00s", "1m23s", "2h01m",
    ]  # fmt: skip

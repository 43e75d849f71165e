"""What a person reads while data is prepared."""

from dataclasses import dataclass
from typing import Any

from raymodel.data.progress import DOING, StepProgress
from raymodel.data.record import FileSlice
from raymodel.data.step import Partition, SourceSize, Step
from raymodel.storage.uri import Location

MB = 10**6


@dataclass
class Sized:
    """A step of which only the sizes count."""

    sizes: list[SourceSize]
    name: str = "read"
    work: Location = Location.parse("nowhere")  # noqa: RUF009 (a frozen value)

    @property
    def num_items(self) -> int:
        return len(self.sizes)

    def source_size(self, item: int) -> SourceSize:
        return self.sizes[item]

    def run(self, item: int) -> dict[str, Any]:
        raise AssertionError("only its sizes are asked for")


def progress(sizes: list[SourceSize], missing: list[int], seconds: list[float]) -> StepProgress:
    return StepProgress(Sized(sizes), missing, clock=lambda: seconds[0])


def test_files_bytes_rate_and_time_left() -> None:
    now = [100.0]
    shown = progress([SourceSize(3, 2 * MB), SourceSize(1, 6 * MB)], [0, 1], now)
    assert shown.text() == "reading 0 of 4 files · 0.0 of 8.0 MB"
    now[0] += 4
    shown.add([0])
    assert shown.text() == "reading 3 of 4 files · 2.0 of 8.0 MB · 0.5 MB/s · 12s left"
    now[0] += 4
    shown.add([1])
    assert shown.is_complete
    assert shown.text() == "reading 4 of 4 files · 8.0 of 8.0 MB · 1.0 MB/s"


def test_what_an_earlier_attempt_did_counts_as_done_but_not_as_speed() -> None:
    now = [0.0]
    shown = progress([SourceSize(1, 6 * MB), SourceSize(1, MB), SourceSize(1, MB)], [1, 2], now)
    now[0] = 2
    shown.add([1])
    assert shown.text() == "reading 2 of 3 files · 7.0 of 8.0 MB · 0.5 MB/s · 2.0s left"


def test_a_step_that_reads_no_source_counts_its_items() -> None:
    shown = StepProgress(Sized([SourceSize()] * 3, name="shards"), [0, 1, 2])
    shown.add([0])
    assert shown.text() == "writing shards: 1 of 3"


def test_a_file_in_several_slices_is_counted_where_it_begins() -> None:
    pieces = [FileSlice("a", 0, 10, 15), FileSlice("a", 10, 15, 15), FileSlice("b", 0, 5, 5)]
    sizes = [Partition(0, (pieces[0],)).size, Partition(0, tuple(pieces[1:])).size]
    assert sizes == [SourceSize(1, 10), SourceSize(1, 10)]


def test_each_step_says_what_it_does() -> None:
    from raymodel.data import paraphrases, read_step, references, steps, tokenizer_step
    from raymodel.data.dedup import contamination, repeated
    from raymodel.data.dedup import steps as near_steps

    of_rows = (read_step, steps, tokenizer_step, references, paraphrases)
    modules = (*of_rows, contamination, repeated, near_steps)
    names = {cls.name for module in modules for cls in vars(module).values() if _is_step(cls)}
    assert names == DOING.keys()


def _is_step(value: object) -> bool:
    return isinstance(value, type) and value is not Step and value.__name__.endswith("Step")

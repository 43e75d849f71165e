"""The books of real runs: every second is booked, also those between two attempts."""

import time
from pathlib import Path

import pytest
from tiny_runs import events, fragments, losses, make_dataset, make_work, records, train_here

from raymodel.observe.goodput import Ledger
from raymodel.storage.artifact import Artifact
from raymodel.testing.distributed import RankError, run_distributed
from raymodel.train import loop
from raymodel.train.checkpoint.state import committed_steps
from raymodel.train.work import TrainWork, read_ledger


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return make_dataset(tmp_path_factory.mktemp("data"))


def die_at_step(rank: int, world_size: int, work: TrainWork, step: int) -> None:
    """Rank 0 fails after so many steps; it still closes its books, as a killed one cannot."""
    check = loop._check_rows

    def check_or_die(t, rows) -> None:
        check(t, rows)
        if rank == 0 and rows.step == step:
            while not committed_steps(work.run):
                time.sleep(0.01)  # it is written beside training
            raise RuntimeError("died on purpose")

    loop._check_rows = check_or_die
    train_here(rank, world_size, work)


def test_the_books_of_an_interrupted_run_add_up_to_wall_time(
    dataset: Artifact, tmp_path: Path
) -> None:
    work = make_work(dataset, tmp_path / "run")
    started = time.time()
    work = TrainWork(**vars(work) | {"started_at": started})
    with pytest.raises(RankError, match="died on purpose"):
        run_distributed(die_at_step, 2, work, 6, init=False)
    run_distributed(train_here, 2, work, init=False)
    ledger = read_ledger(work.run)
    books = ledger.books()
    until = max(event["time_s"] for event in records(work, "events"))
    assert books.total_s == pytest.approx(until - started, abs=0.2)
    assert [attempt.start_step for attempt in ledger.attempts] == [0, 4]
    assert books.seconds["lost_work"] > 0
    assert books.seconds["restart"] > 0.1
    assert all(spent_s >= 0 for spent_s in books.seconds.values())
    told = [record["goodput"] for record in records(work, "metrics") if "goodput" in record][-1]
    ledger = Ledger()
    shares = []
    for event in records(work, "events"):
        ledger.add(event)
        shares.append(ledger.books().goodput)
    assert told in [pytest.approx(share, abs=1e-3) for share in shares], "not of the books"


def test_an_interrupted_run_ends_as_an_unbroken_one(dataset: Artifact, tmp_path: Path) -> None:
    whole, broken = (make_work(dataset, tmp_path / name) for name in ("whole", "broken"))
    run_distributed(train_here, 2, whole, init=False)
    with pytest.raises(RankError):
        run_distributed(die_at_step, 2, broken, 6, init=False)
    run_distributed(train_here, 2, broken, init=False)
    assert losses(broken) == losses(whole)
    assert fragments(broken, 12) == fragments(whole, 12)
    digests = [records(work, "metrics")[-1]["data_digest"] for work in (whole, broken)]
    assert digests[0] == digests[1]


def test_an_attempt_says_who_trained(dataset: Artifact, tmp_path: Path) -> None:
    work = make_work(dataset, tmp_path / "run")
    run_distributed(train_here, 2, work, init=False)
    (attempt,) = events(work, "attempt")
    assert len(set(attempt["pids"])) == 2
    assert (attempt["zero"], attempt["micro_batch"], attempt["workers"]) == (1, 4, 2)
    assert attempt["parameters"] > 10_000

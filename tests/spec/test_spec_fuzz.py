"""Whatever a job file holds, it is a job or one short message: never a traceback, never a wait."""

import re
from pathlib import Path

import pytest
from calls import few_calls
from mutants import mutant

from raymodel.errors import SpecError
from raymodel.job.check import check_job
from raymodel.job.outline import outline
from raymodel.job.spec import Job
from raymodel.spec.base import fingerprint
from raymodel.spec.load import load_job

MOST_CHARS = 25_000
WITHOUT_LINE = ("nothing is written here", "more than 128 KiB", " is not a job; write sections")


def test_a_hundred_mutated_job_files_are_jobs_or_short_messages(tmp_path):
    outcomes = _outcomes(range(100), tmp_path)
    # Files that all failed at their first line would prove little.
    accepted = sum(outcome is None for outcome in outcomes)
    bad_syntax = sum("not YAML" in (outcome or "") for outcome in outcomes)
    assert min(accepted, bad_syntax, len(outcomes) - accepted - bad_syntax) > 5


@pytest.mark.slow
@pytest.mark.parametrize("start", range(100, 2100, 500))
def test_two_thousand_mutated_job_files_are_jobs_or_short_messages(start, tmp_path):
    _outcomes(range(start, start + 500), tmp_path)


def test_a_mutant_follows_from_its_seed():
    assert [mutant(seed) for seed in range(20)] == [mutant(seed) for seed in range(20)]


def _outcomes(seeds: range, folder: Path) -> list[str | None]:
    outcomes = []
    for seed in seeds:
        try:
            outcomes.append(_outcome(seed, folder))
        except BaseException as error:
            error.add_note(f"the mutant of seed {seed}: {folder / f'{seed}.yaml'}")
            raise
    return outcomes


def _outcome(seed: int, folder: Path) -> str | None:
    """The message that the mutant is refused with; None for a job. Anything else fails."""
    path = folder / f"{seed}.yaml"
    path.write_bytes(mutant(seed))
    try:
        with few_calls():
            loaded = load_job(path)
            check_job(loaded)
    except SpecError as error:
        message = str(error)
    else:
        message = None
    if message is None:
        _check_accepted(loaded.job)
    else:
        _check_message(message, path)
        path.unlink()
    return message


def _check_accepted(job: Job) -> None:
    """What `check` accepts can be printed, named by its content, and read back."""
    assert Job(**job.to_dict()) == job
    fingerprint(job.identity())
    assert all("\n" not in words and len(words) < 1000 for _, words in outline(job))


def _check_message(message: str, path: Path) -> None:
    assert len(message) < MOST_CHARS
    lines = message.split("\n")
    if len(lines) > 1:
        assert re.fullmatch(r"[0-9,]+ problems", lines.pop(0))
        if re.fullmatch(r"and [0-9,]+ more", lines[-1]):
            lines.pop()
    for line in lines:
        assert line.isprintable()
        assert line.startswith(f"{path}:")
        has_line = re.match(r":[0-9]+: ", line.removeprefix(str(path)))
        assert has_line or any(words in line for words in WITHOUT_LINE), line

"""What the doctor measures on a node, without Ray."""

import shutil
from pathlib import Path

import pytest

import raymodel
from raymodel.cluster import probe
from raymodel.cluster.probe import Rank, read_facts, source_digest, try_storage
from raymodel.storage.uri import Location
from raymodel.testing.distributed import free_port, run_distributed


def test_facts_are_those_of_this_machine(tmp_path: Path) -> None:
    facts = read_facts([str(tmp_path / "not" / "there" / "yet")])
    assert facts.versions["torch"].startswith("2.")
    assert facts.versions["raymodel"].startswith(raymodel.__version__)
    ((free, total),) = facts.disks.values()
    assert total == shutil.disk_usage(tmp_path).total
    assert 0 < free < total


def test_a_changed_source_is_told_apart_at_the_same_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "raymodel"
    copy.mkdir()
    (copy / "__init__.py").write_text("a = 1\n")
    monkeypatch.setattr(raymodel, "__file__", str(copy / "__init__.py"))
    before = source_digest()
    (copy / "__init__.py").write_text("a = 2\n")
    assert source_digest() != before


def test_a_storage_is_written_and_read_back(tmp_path: Path) -> None:
    folder = Location.parse(str(tmp_path))
    (folder / "driver").write_bytes(b"seen")
    trial = try_storage(folder, "node", "driver", 2**20)
    assert trial.error == ""
    assert trial.sees_others
    assert trial.write_bytes_per_s > 0 < trial.read_bytes_per_s
    assert (folder / "node").size() == 2**20
    assert not try_storage(folder, "node", "another", 10).sees_others


def test_a_storage_that_cannot_be_written_gives_its_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    trial = try_storage(Location.parse(str(tmp_path / "file")), "node", "driver", 10)
    assert "file" in trial.error


def reduce(rank: int, num_workers: int, port: int) -> tuple[float, bool]:
    member = Rank()
    if rank == 0:
        # The store has a port of its own choice; here it is told through another store.
        from torch.distributed import TCPStore

        meeting = TCPStore("127.0.0.1", port, num_workers, True, wait_for_workers=False)
        chosen = member.open_store("127.0.0.1", num_workers, 30.0)
        meeting.set("port", str(chosen))
        member.join("127.0.0.1", chosen, rank, num_workers, "gloo", 30.0)
    else:
        from torch.distributed import TCPStore

        meeting = TCPStore("127.0.0.1", port, num_workers, False)
        member.join("127.0.0.1", int(meeting.get("port")), rank, num_workers, "gloo", 30.0)
    return member.reduce(2**20, 3)


def test_two_processes_sum_over_the_network() -> None:
    results = run_distributed(reduce, 2, free_port(), init=False)
    assert all(seconds > 0 and right for seconds, right in results)


def test_processes_that_find_nobody_give_up() -> None:
    with pytest.raises(RuntimeError, match=r"127\.0\.0\.1"):
        Rank().join("127.0.0.1", free_port(), 1, 2, "gloo", 0.5)


def test_packages_that_are_not_installed_are_absent() -> None:
    assert probe._version("no-such-package-anywhere") == "absent"

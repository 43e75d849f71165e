"""Against a Hub on this machine that refuses, breaks connections off and whose branches move."""

import random
from collections.abc import Iterator

import huggingface_hub.utils._http as hub_client
import pytest

from raymodel.errors import LocationError, MissingSourceError, StorageError, StorageUnavailableError
from raymodel.storage import retry
from raymodel.storage.hub_ask import pin
from raymodel.storage.hub_place import HubPlace, Kind, check_can_ask
from raymodel.storage.uri import Location
from raymodel.testing.hub import Hub, hub
from raymodel.testing.s3 import Fault

DATA = "owner/data"
FILES = {
    "README.md": b"# about",
    "data/a/1.txt": b"one",
    "data/a/2.txt": b"two",
    "data/b/3.txt": b"three",
    "data/c/4.txt": b"four",
    "data/d.txt": b"five",
}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0.01)
    monkeypatch.setattr(retry, "TRIES", 3)
    monkeypatch.setattr(hub_client.time, "sleep", lambda seconds: None)  # between its own tries
    with hub() as made:
        yield made


def at(uri: str) -> Location:
    return Location.parse(pin(uri, "dataset"))


@pytest.mark.parametrize(
    ("uri", "repository", "revision", "path"),
    [
        ("hf://datasets/a/b", "a/b", "main", ""),
        ("hf://datasets/a/b@v1.0/x/*.json", "a/b", "v1.0", "x/*.json"),
        ("hf://datasets/a/b@refs/convert/parquet/x", "a/b", "refs/convert/parquet", "x"),
        ("hf://datasets/a/b@topic%2Fone/x", "a/b", "topic%2Fone", "x"),
        ("hf://datasets/a.b/c-d_e/x@2/y", "a.b/c-d_e", "main", "x@2/y"),
        ("hf://a/b", "a/b", "main", ""),
        ("hf://a/b@refs/pr/1", "a/b", "refs/pr/1", ""),
        ("hf://a.b/c-d_e@v2/sub/folder", "a.b/c-d_e", "v2", "sub/folder"),
    ],
)
def test_what_a_person_writes_is_read(uri: str, repository: str, revision: str, path: str) -> None:
    kind: Kind = "dataset" if uri.startswith("hf://datasets/") else "model"
    assert HubPlace.parse(uri, kind) == HubPlace(repository, revision, path, kind)
    assert HubPlace.parse(uri) == HubPlace.parse(HubPlace.parse(uri).uri)


@pytest.mark.parametrize(
    "uri",
    [
        "hf://a/b",
        "hf://datasets/a",
        "hf://spaces/a/b",
        "hf://datasets/a/b@/x",
        "hf://datasets/hf_secret@a/b",
        "hf://datasets/a/b?token=x",
    ],
)
def test_what_names_no_data_set_is_told(uri: str) -> None:
    with pytest.raises(LocationError, match="write hf://datasets/OWNER/NAME/path"):
        pin(uri, "dataset")


def test_files_are_listed_and_read_as_elsewhere(server: Hub) -> None:
    server.push(DATA, FILES)
    root = at(f"hf://datasets/{DATA}")
    assert [entry.name for entry in root.list()] == ["README.md", "data"]
    assert {entry.name: entry.bytes for entry in root.walk()} == {
        name: len(content) for name, content in FILES.items()
    }
    assert [entry.name for entry in (root / "data/a").walk()] == ["1.txt", "2.txt"]
    assert (root / "data/b/3.txt").read_bytes() == b"three"
    assert (root / "data/b/3.txt").read_range(1, 3) == b"hre"
    assert (root / "data").exists()
    assert not (root / "data/x.txt").exists()
    assert not (root / "no/such/folder").exists()
    assert (root / "no").list() == []
    with pytest.raises(StorageError, match="does not exist"):
        (root / "data/x.txt").read_bytes()
    with pytest.raises(StorageError, match="nothing is written there"):
        (root / "new").write_bytes(b"x")
    assert not any(request.startswith(("PUT", "DELETE")) for request in server.requests)


def test_a_large_file_is_read_in_ranges(server: Hub) -> None:
    content = random.Random(0).randbytes(12_000_000)
    server.push(DATA, {"x.bin": content})
    with at(f"hf://datasets/{DATA}/x.bin").open_input() as stream:
        stream.seek(-8, 2)
        assert stream.read() == content[-8:]
        assert stream.read_at(1000, 5_000_000) == content[5_000_000:5_001_000]
        stream.seek(0)
        assert stream.read(100) == content[:100]


def test_a_pinned_place_stays_what_it_is_when_its_branch_moves(server: Hub) -> None:
    first = server.push(DATA, {"x.txt": b"old"})
    place = pin(f"hf://datasets/{DATA}/x.txt", "dataset")
    assert place == f"hf://datasets/{DATA}@{first}/x.txt"
    second = server.push(DATA, {"x.txt": b"newer", "y.txt": b"y"})
    assert Location.parse(place).read_bytes() == b"old"
    assert pin(place, "dataset") == place, "of a commit nothing is asked"
    assert second in pin(f"hf://datasets/{DATA}@main/x.txt", "dataset")
    assert at(f"hf://datasets/{DATA}/x.txt").read_bytes() == b"newer"


def test_other_branches_are_read(server: Hub) -> None:
    commit = server.push(DATA, {"x.txt": b"x"}, branch="topic/one")
    server.push(DATA, {"x.txt": b"p"}, branch="refs/convert/parquet")
    assert commit in pin(f"hf://datasets/{DATA}@topic%2Fone/x.txt", "dataset")
    assert at(f"hf://datasets/{DATA}@refs/convert/parquet/x.txt").read_bytes() == b"p"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(does="refuse", status=503, times=2),
        Fault(does="refuse", status=429, times=2),
        Fault(does="reset", times=2),
        Fault(does="cut", where="resolve", every=2),
        Fault(does="refuse", status=500, every=3),
    ],
    ids=lambda fault: f"{fault.does}-{fault.status}",
)
def test_reading_outlasts_a_fault(server: Hub, fault: Fault) -> None:
    server.push(DATA, FILES | {"x.bin": bytes(range(256)) * 1000})
    server.fail(fault)
    root = at(f"hf://datasets/{DATA}")
    assert len(root.walk()) == len(FILES) + 1
    with (root / "x.bin").open_input() as stream:
        assert stream.read(4) == bytes([0, 1, 2, 3])
        assert stream.read_at(3, 100_000) == bytes([160, 161, 162])
    assert fault.hits, "it did go wrong"


def test_a_hub_that_does_not_recover_is_no_empty_folder(server: Hub) -> None:
    server.push(DATA, FILES)
    root = at(f"hf://datasets/{DATA}")
    server.fail(Fault(does="refuse", status=500))
    for ask in (root.exists, root.list, root.walk, (root / "data/d.txt").read_bytes):
        with pytest.raises(StorageUnavailableError, match="failed 3 times"):
            ask()
    with pytest.raises(StorageUnavailableError, match="asking for hf://datasets/owner/data@main"):
        pin(f"hf://datasets/{DATA}", "dataset")
    server.faults.clear()
    assert root.exists(), "what could not be looked for is looked for again"


def test_what_is_not_there_is_told_at_once(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.push(DATA, FILES)
    server.tokens["owner/other"] = "hf_right"
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    with pytest.raises(LocationError, match="has no data set 'owner/nothing'; check its name"):
        pin("hf://datasets/owner/nothing", "dataset")
    with pytest.raises(LocationError, match="owner/data on the Hugging Face Hub has no revision"):
        pin(f"hf://datasets/{DATA}@v9", "dataset")
    gone = Location.parse(f"hf://datasets/{DATA}@{'0' * 40}/x")
    with pytest.raises(LocationError, match="has no revision '0000000"):
        gone.exists()
    assert len(server.requests) == 3, "nothing was tried twice"


@pytest.mark.parametrize(
    ("token", "why"),
    [
        (None, "it does not exist or is private, and there is no token"),
        ("hf_wrong", "the token is wrong, or may not read this"),
    ],
)
def test_a_token_that_does_not_do_is_told_and_never_shown(
    server: Hub, monkeypatch: pytest.MonkeyPatch, token: str | None, why: str
) -> None:
    commit = server.push(DATA, FILES)
    server.tokens[DATA] = "hf_right"
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    for ask in (
        lambda: pin(f"hf://datasets/{DATA}", "dataset"),
        lambda: Location.parse(f"hf://datasets/{DATA}@{commit}/data").walk(),
    ):
        with pytest.raises(StorageError, match=why) as told:
            ask()
        assert "Set HF_TOKEN" in str(told.value)
        assert "hf_wrong" not in str(told.value)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert at(f"hf://datasets/{DATA}/data/d.txt").read_bytes() == b"five", "in the same process"


def test_conditions_of_an_owner_are_told(server: Hub) -> None:
    commit = server.push(DATA, FILES)
    server.gated.add(DATA)
    told = "asks who reads it to accept conditions on its page"
    with pytest.raises(StorageError, match=told):
        pin(f"hf://datasets/{DATA}", "dataset")
    named = Location.parse(f"hf://datasets/{DATA}@{commit}/data/d.txt")
    assert named.size() == 4, "which files there are, anybody may know"
    with pytest.raises(StorageError, match=told):
        named.read_bytes()


@pytest.mark.parametrize("is_off", [True, False])
def test_without_a_network_it_is_said_how_to_fetch_it(
    server: Hub, monkeypatch: pytest.MonkeyPatch, is_off: bool
) -> None:
    place = HubPlace.parse(f"hf://datasets/{DATA}/x")
    check_can_ask(place)
    if is_off:
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    else:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MissingSourceError, match="hf download owner/data --repo-type dataset"):
        check_can_ask(place)
    if is_off:
        with pytest.raises(MissingSourceError, match="while HF_HUB_OFFLINE is set"):
            pin(place.uri, "dataset")

"""A model folder in a bucket is copied for the time of its use; a local one is not."""

import pytest
from pyarrow import fs

from raymodel.errors import ArtifactError
from raymodel.model.folder import local_model_folder
from raymodel.storage import uri
from raymodel.storage.uri import Location


def test_a_local_folder_is_used_where_it_is(tmp_path):
    with local_model_folder(Location.parse(str(tmp_path))) as folder:
        assert folder == tmp_path


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """An s3:// address that is answered from a folder, so that no server is needed."""
    store = fs.LocalFileSystem()
    monkeypatch.setattr(uri, "open_filesystem", lambda root: (store, str(tmp_path)))
    return Location.parse("s3://bucket/run/model")


def test_a_remote_folder_is_copied_and_the_copy_deleted(bucket, tmp_path):
    for name in ("config.json", "nested/file.bin"):
        path = tmp_path / "run/model" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    with local_model_folder(bucket) as folder:
        assert (folder / "config.json").read_text() == "config.json"
        assert (folder / "nested/file.bin").read_text() == "nested/file.bin"
    assert not folder.exists()


def test_an_empty_remote_folder_is_no_model(bucket):
    with pytest.raises(ArtifactError, match="empty or does not exist"), local_model_folder(bucket):
        pass

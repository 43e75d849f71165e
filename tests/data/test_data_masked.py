"""Folders of images with their masks: every file is in the account, or belongs to one that is."""

from pathlib import Path

from reading import read_source, write

from raymodel.data.sources import resolve_source
from raymodel.data.spec import SourceSpec


def test_each_image_has_the_mask_of_its_name(tmp_path: Path) -> None:
    write(
        tmp_path,
        images__a_dot_jpg=b"A",
        masks__a_dot_png=b"a",
        images__deep__b_dot_png=b"B",
        masks__deep__b_dot_tif=b"b",
        train__images__c_dot_webp=b"C",
        train__masks__c_dot_PNG=b"c",
        images__alone_dot_png=b"D",
        masks__lost_dot_png=b"e",
        other__f_dot_png=b"f",
        images__notes_dot_txt=b"no image",
    )
    records, account = read_source(SourceSpec(path=str(tmp_path), format="mask_folders"))
    assert [record.fields for record in records] == [
        {"image": b"A", "mask": b"a", "path": "images/a.jpg"},
        {"image": b"B", "mask": b"b", "path": "images/deep/b.png"},
        {"image": b"C", "mask": b"c", "path": "train/images/c.webp"},
    ]
    assert account.left_out == {
        "image without a mask": 1,
        "mask without its image": 1,
        "file neither in a folder `images` nor in `masks`": 1,
    }
    assert account.read == 6


def test_a_mask_that_changes_is_other_data(tmp_path: Path) -> None:
    write(tmp_path, images__a_dot_jpg=b"A", masks__a_dot_png=b"a")
    spec = SourceSpec(path=str(tmp_path), format="mask_folders")
    before = resolve_source(spec).identity
    write(tmp_path, masks__a_dot_png=b"longer")
    assert resolve_source(spec).identity != before

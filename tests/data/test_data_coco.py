"""COCO's files: every image is a record, and what of an annotation cannot be used is counted."""

import json
from pathlib import Path
from typing import Any

from reading import read_file, read_source, write

from raymodel.data.spec import SourceSpec

CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "cat "}]


def annotation(**said: Any) -> dict[str, Any]:
    return {"image_id": 1, "category_id": 18, "bbox": [1, 2, 3, 4.5], "iscrowd": 0} | said


def image(number: int, name: str, **said: Any) -> dict[str, Any]:
    return {"id": number, "file_name": name, "width": 20, "height": 10} | said


def content(images: list[Any], annotations: list[Any]) -> str:
    return json.dumps({"images": images, "annotations": annotations, "categories": CATEGORIES})


def test_each_image_is_a_record_with_its_objects_and_some_have_none(tmp_path: Path) -> None:
    text = content(
        [image(1, "a.jpg", license=4), image(7, "b.jpg")],
        [annotation(), annotation(category_id=3, bbox=[0, 0, 20.5, 10])],
    )
    write(tmp_path, images__a_dot_jpg=b"A", images__b_dot_jpg=b"B")
    records, account = read_file(tmp_path, "all.json", text, format="coco")
    first, second = (record.fields for record in records)
    assert first["image"] == "images/a.jpg"
    assert first["objects"] == [
        {"label": "dog", "box": [1.0, 2.0, 3.0, 4.5]},
        {"label": "cat", "box": [0.0, 0.0, 20.5, 10.0]},
    ]
    assert (first["license"], second["id"]) == (4, 7)
    assert second["objects"] == []
    assert account.read == 2


def test_what_of_an_annotation_cannot_be_used_is_counted_by_its_reason(tmp_path: Path) -> None:
    wrong = [
        annotation(iscrowd=1),
        annotation(image_id=2),
        annotation(category_id=[18]),
        annotation(category_id=5),
        annotation(bbox=[1, 2, 0, 4]),
        annotation(bbox=[15, 2, 9, 4]),
        annotation(bbox=[-40, 2, 9, 4]),
        annotation(bbox=[1, 2, 3]),
    ]
    text = content([image(1, "a.jpg"), {"id": 9}], [annotation(), *wrong])
    records, account = read_file(tmp_path, "all.json", text, format="coco")
    [record] = records
    assert len(record.fields["objects"]) == 1
    assert account.left_out == {
        "annotation of a crowd": 1,
        "annotation of an image that is not there": 1,
        "annotation of a category that is not there": 2,
        "annotation with a box without an area": 1,
        "annotation with a box that reaches out of its image": 2,
        "annotation without a `bbox` of four numbers": 1,
        "image without a `file_name`": 1,
    }
    assert account.read == 2 + len(wrong)


def test_images_lie_where_coco_and_its_kin_have_them(tmp_path: Path) -> None:
    text = content([image(1, "a.jpg")], [])
    for folder, name, expected in (
        ("one", "annotations/instances_val2017.json", "one/val2017/a.jpg"),
        ("two", "annotations/instances_val2017.json", "two/images/val2017/a.jpg"),
        ("three", "train/_annotations.coco.json", "three/train/a.jpg"),
    ):
        for path, data in ((f"{folder}/{name}", text.encode()), (expected, b"A")):
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_bytes(data)
    records, _ = read_source(SourceSpec(path=str(tmp_path), format="coco"))
    assert [record.fields["image"] for record in records] == [
        "one/val2017/a.jpg", "three/train/a.jpg", "two/images/val2017/a.jpg",
    ]  # fmt: skip


def test_another_json_file_is_left_out(tmp_path: Path) -> None:
    for text in ('{"images": [], "annotations": [], "categories": []}', "[1]", '{"images": 3}'):
        records, account = read_file(tmp_path, "all.json", text, format="coco")
        assert (records, account.read, account.left_out.total()) == ([], 1, 1)

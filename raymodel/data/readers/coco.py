"""COCO's files of objects: images, the categories, and an annotation for each object.

`{"images": [{"id": 1, "file_name": "a.jpg", "width": 640, "height": 480}], "categories":
[{"id": 18, "name": "dog"}], "annotations": [{"image_id": 1, "category_id": 18, "bbox": [x, y,
width, height], "iscrowd": 0}]}`. Source: https://cocodataset.org/#format-data
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from raymodel.data.account import Account
from raymodel.data.readers.beside import name_beside
from raymodel.data.readers.json_object import Misfit, parse_object
from raymodel.data.readers.text import read_document
from raymodel.data.record import FileSlice, RawRecord, whole_record
from raymodel.data.spec import SourceSpec
from raymodel.storage.uri import Location
from raymodel.tasks.objects import find_wrong_box

_LISTS = ("images", "annotations", "categories")


def read_coco(
    root: Location, piece: FileSlice, spec: SourceSpec, account: Account
) -> Iterator[RawRecord]:
    """The images of a file, each with its objects; some have none.

    An annotation that cannot be used is entered in the account as a record of its own that is left
    out: of a crowd, of an image or a category that is not there, without a box in its image.
    """
    read = read_document(root, piece, account, lambda _: spec.encoding)
    if read is None:
        return
    try:
        file = parse_object(read[1].strip())
    except Misfit as misfit:
        account.leave_out(f"file {misfit}", read[1])
        return
    lists = {name: file.get(name) for name in _LISTS}
    if not all(_is_list_of_mappings(each) for each in lists.values()) or not lists["images"]:
        account.leave_out(f"JSON file without the lists {', '.join(_LISTS)} of COCO", read[1])
        return
    # The first record is the one that was met with the file.
    begun = _Begun(account, piece.name)
    objects = _objects_by_image(lists, begun)
    folders = _Folders(root, piece.name)
    for image in lists["images"]:
        begun.next()
        name = image.get("file_name")
        if not isinstance(name, str) or not name:
            account.leave_out("image without a `file_name`", image)
            continue
        told = {key: value for key, value in image.items() if key not in ("image", "objects")}
        found = {"image": folders.find(name), "objects": objects.get(image.get("id"), [])}
        yield whole_record(told | found)


class _Begun:
    """Meets one record after another; the file itself was the first."""

    def __init__(self, account: Account, name: str) -> None:
        self.account, self._name, self._count = account, name, 0

    def next(self) -> None:
        self._count += 1
        self.account.begin(self._name, self._count, records=1 if self._count > 1 else 0)

    def leave_out(self, reason: str, annotation: Mapping[str, Any]) -> None:
        self.next()
        self.account.leave_out(reason, annotation)


def _objects_by_image(lists: Mapping[str, Any], begun: _Begun) -> dict[Any, list[dict[str, Any]]]:
    images = {image.get("id"): image for image in lists["images"]}
    names = {each.get("id"): str(each.get("name", "")).strip() for each in lists["categories"]}
    found: dict[Any, list[dict[str, Any]]] = {}
    for annotation in lists["annotations"]:
        image = annotation.get("image_id")
        reason = _wrong(annotation, images, names)
        if reason is not None:
            begun.leave_out(reason, annotation)
            continue
        box = [float(number) for number in annotation["bbox"]]
        found.setdefault(image, []).append({"label": names[annotation["category_id"]], "box": box})
    return found


def _wrong(
    annotation: Mapping[str, Any], images: Mapping[Any, Any], names: Mapping[Any, str]
) -> str | None:
    """Why an annotation is left out."""
    image, category, box = (annotation.get(n) for n in ("image_id", "category_id", "bbox"))
    if not (_is_id(image) and image in images):
        return "annotation of an image that is not there"
    if not (_is_id(category) and names.get(category)):
        return "annotation of a category that is not there"
    if annotation.get("iscrowd"):
        return "annotation of a crowd"
    if not (isinstance(box, list) and len(box) == 4 and all(map(_is_number, box))):
        return "annotation without a `bbox` of four numbers"
    size = images[image].get("width"), images[image].get("height")
    known = (float(size[0]), float(size[1])) if all(map(_is_number, size)) else None
    problem = find_wrong_box(box, known)
    return problem and f"annotation with a {problem}"


class _Folders:
    """Where the images of a file lie: beside it, in `images` there or one above, or, of
    `annotations/instances_NAME.json`, in `NAME` or `images/NAME` beside that folder."""

    def __init__(self, root: Location, name: str) -> None:
        self._root = root
        split = name.rpartition("/")[2].rpartition(".")[0].rpartition("_")[2]
        above = name_beside(name, "").rstrip("/").rpartition("/")[0]
        above = f"{above}/" if above else ""
        here = name_beside(name, "")
        self._places = list(
            dict.fromkeys((
                here, f"{here}images/", f"{above}{split}/", f"{above}images/{split}/",
                f"{above}images/", above,
            ))
        )  # fmt: skip

    def find(self, file: str) -> str:
        """The path below the root; the first that there could be where there is none."""
        for place in self._places:
            if ".." not in file.split("/") and (self._root / (place + file)).exists():
                self._places.remove(place)
                self._places.insert(0, place)  # most likely that of the next one too
                return place + file
        return self._places[0] + file


def _is_list_of_mappings(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, Mapping) for each in value)


def _is_id(value: object) -> bool:
    return isinstance(value, int | str)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)

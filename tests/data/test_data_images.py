"""Reading images: the same ones whatever they come in, and damage that costs what it must."""

import gzip
import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from damage import check_damage, outcome
from images import (
    NAMES,
    Images,
    binary_batch,
    digits,
    idx_images,
    idx_labels,
    pickled_batch,
    python2_pickle,
    write_idx,
)
from PIL import Image
from reading import lines_left_out, read_file, read_source, write

from raymodel.data.readers.png import encode_png
from raymodel.data.record import RawRecord, digest_of
from raymodel.data.sources import resolve_source
from raymodel.data.spec import SourceSpec
from raymodel.errors import SourceError

WRONG_SIZE_IDX = "images of an IDX file whose size is not the one that its header gives"
WRONG_SIZE_CIFAR = "images of a CIFAR file whose size is no number of images"


OTHER_COUNT = "CIFAR batch with more labels or names than images, or fewer"


def read(path: Path, **spec: Any) -> list[RawRecord]:
    """The records, all of which are kept."""
    records, account = read_source(SourceSpec(path=str(path), **spec))
    assert not account.left_out
    return records


def decoded(records: list[RawRecord]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(io.BytesIO(r.fields["image"]))) for r in records])


def labels(records: list[RawRecord]) -> list[Any]:
    return [record.fields["label"] for record in records]


def write_folders(folder: Path, images: Images) -> Path:
    for index, (pixels, label) in enumerate(zip(images.pixels, images.labels, strict=True)):
        place = folder / str(label) / f"{index:04d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encode_png(pixels))
    return folder


# ---- the same images -----------------------------------------------------------------------------


def test_all_formats_give_the_same_images_and_labels(tmp_path: Path) -> None:
    images = digits(300)
    (tmp_path / "data_batch_1.bin").write_bytes(binary_batch(images))
    (tmp_path / "data_batch_1").write_bytes(pickled_batch(images))
    idx = read(write_idx(tmp_path, images), format="idx")
    binary = read(tmp_path / "data_batch_1.bin", format="cifar")
    pickled = read(tmp_path / "data_batch_1", format="cifar")
    for records in (idx, binary, pickled):
        assert labels(records) == images.labels
        assert [record.fields["index"] for record in records] == list(range(300))
        assert [r.fields["image"] for r in records] == [r.fields["image"] for r in idx]
        assert [r.document for r in records] == [r.document for r in idx]
    assert (decoded(idx) == images.pixels).all()
    assert pickled[7].fields["filename"] == "digit_s_000007.png"
    folders = read(write_folders(tmp_path / "folders", images), format="class_folders")
    by_path = {record.fields["path"]: record for record in folders}
    for index, (record, label) in enumerate(zip(idx, images.labels, strict=True)):
        same = by_path[f"{label}/{index:04d}.png"]
        assert same.fields["image"] == record.fields["image"]
        assert same.fields["label"] == str(label)
        assert same.document == record.document


def test_colours_are_red_green_blue(tmp_path: Path) -> None:
    planes = np.repeat(np.array([250, 20, 3], np.uint8), 1024)
    planes[5] = 7  # red, first row, sixth column
    (tmp_path / "x.bin").write_bytes(b"\x04" + planes.tobytes())
    (pixels,) = decoded(read(tmp_path / "x.bin", format="cifar"))
    assert pixels[0, 5].tolist() == [7, 20, 3]
    assert pixels[5, 0].tolist() == [250, 20, 3]


def test_an_image_of_three_equal_colours_is_a_grey_one_and_no_other_is() -> None:
    grey = digits(1).pixels[0]
    colours = np.stack([grey] * 3, axis=-1)
    assert encode_png(colours) == encode_png(grey)
    colours[3, 4, 2] ^= 1
    assert (np.asarray(Image.open(io.BytesIO(encode_png(colours)))) == colours).all()


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_what_python_3_pickles_is_read_too(tmp_path: Path, protocol: int) -> None:
    images = digits(30)
    planes = np.asfortranarray(images.planes)
    batch = {b"data": planes, b"labels": images.labels, "filenames": ["é.png"] * 30}
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps(batch, protocol))
    records = read(tmp_path / "data_batch_1", format="cifar")
    assert (decoded(records) == images.pixels).all()
    assert labels(records) == images.labels
    assert records[0].fields["filename"] == "é.png"


def test_the_pickles_of_the_tests_are_ones_of_python_2() -> None:
    images = digits(300)
    batch = pickle.loads(pickled_batch(images), encoding="bytes")
    assert batch[b"labels"] == images.labels
    assert (batch[b"data"] == images.planes).all()
    assert batch[b"filenames"][3] == b"digit_s_000003.png"


@pytest.mark.parametrize("packed", [False, True])
def test_slices_give_each_image_once(tmp_path: Path, packed: bool) -> None:
    images = digits(40)
    path = write_idx(tmp_path, images, packed)
    whole = outcome(path, {"format": "idx"})
    (tmp_path / "x.bin").write_bytes(binary_batch(images))
    binary = outcome(tmp_path / "x.bin", {"format": "cifar"})
    assert (len(whole[0]), len(binary[0])) == (40, 40)
    for size in (300, 1024, 3073, 5000):
        assert outcome(path, {"format": "idx"}, size) == whole
        assert outcome(tmp_path / "x.bin", {"format": "cifar"}, size) == binary


def test_no_version_changes_the_bytes_of_an_image() -> None:
    """They decide which images are equal, and on which side of the holdout one falls."""
    y, x = np.mgrid[:32, :32]
    grey, colour = (x * 2 + y) % 256, np.stack([x * 3, y * 3, x + y], -1) % 256
    files = [encode_png(pixels.astype(np.uint8)) for pixels in (grey, colour)]
    assert [digest_of(file).hex() for file in files] == [
        "dd7ea3b6b747e1cc59233e82fc31ff36",
        "9f0b68456c21f0d4b294abe4ca7a35e8",
    ]


# ---- folders -------------------------------------------------------------------------------------


def test_only_images_are_files_of_class_folders(tmp_path: Path) -> None:
    write(tmp_path, cat__a_dot_PNG=b"\x89PNG", cat__b_dot_jpeg=b"any", cat__notes_dot_txt="x")
    write(tmp_path, dog__c_dot_gif=b"GIF", dog__thumbs_dot_db=b"x", loose_dot_png=b"x")
    records, account = read_source(SourceSpec(path=str(tmp_path), format="class_folders"))
    assert [(r.fields["path"], r.fields["label"], r.fields["image"]) for r in records] == [
        ("cat/a.PNG", "cat", b"\x89PNG"),
        ("cat/b.jpeg", "cat", b"any"),
        ("dog/c.gif", "dog", b"GIF"),
    ]
    assert account.left_out == {"file not in a folder": 1}
    spec = SourceSpec(path=str(tmp_path / "cat/notes.txt"), format="class_folders")
    _, account = read_source(spec)
    assert account.left_out == {"file that is neither image nor sound by its suffix": 1}


def test_a_folder_without_images_says_what_they_are_called(tmp_path: Path) -> None:
    write(tmp_path, cat__a_dot_txt="x")
    with pytest.raises(SourceError, match=r"'class_folders' reads files called \*\.png, .*\.txt"):
        read(tmp_path, format="class_folders")


# ---- IDX -----------------------------------------------------------------------------------------


def test_a_folder_of_idx_files_is_read_by_its_images(tmp_path: Path) -> None:
    images = digits(20)
    write_idx(tmp_path, images, packed=True)
    (tmp_path / "t10k-images.idx3-ubyte").write_bytes(idx_images(images))
    (tmp_path / "t10k-labels.idx1-ubyte").write_bytes(idx_labels(images))
    assert labels(read(tmp_path, format="idx")) == images.labels * 2


def test_other_labels_make_another_identity(tmp_path: Path) -> None:
    path = write_idx(tmp_path, digits(20))
    for place in (tmp_path, path):
        before = resolve_source(SourceSpec(path=str(place), format="idx")).identity
        beside = tmp_path / "train-labels-idx1-ubyte"
        beside.write_bytes(beside.read_bytes() + b"x")
        assert resolve_source(SourceSpec(path=str(place), format="idx")).identity != before


@pytest.mark.parametrize(
    ("data", "left_out"),
    [
        (b"\0\0\x08\x02" + idx_images(digits(3))[4:], {"not an IDX file of images": 1}),
        (b"\0\0\x08", {"not an IDX file of images": 1}),
        (idx_labels(digits(3)), {"IDX file of labels where one of images is needed": 1}),
        (idx_images(digits(3))[:-1], {WRONG_SIZE_IDX: 3}),
        (idx_images(digits(3)) + b"x", {WRONG_SIZE_IDX: 3}),
        (struct.pack(">IIII", 0x803, 3, 2**32 - 1, 2**32 - 1) + b"x" * 99, {WRONG_SIZE_IDX: 3}),
        (struct.pack(">IIII", 0x803, 3, 0, 0), {WRONG_SIZE_IDX: 3}),
    ],
    ids=["magic", "short", "labels", "cut", "long", "huge", "no-pixels"],
)
def test_a_damaged_idx_file_is_left_out_with_its_images(
    tmp_path: Path, data: bytes, left_out: dict[str, int]
) -> None:
    path = write_idx(tmp_path, digits(3))
    path.write_bytes(data)
    records, account = read_source(SourceSpec(path=str(path), format="idx"))
    assert (records, account.left_out) == ([], left_out)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (None, "has no labels beside it"),
        (b"", "begins with 0x; a file of labels begins with 0x00000801"),
        (idx_images(digits(3)), "begins with 0x00000803"),
        (idx_labels(digits(4)), "holds 4 labels and holds 4, for 3 images"),
        (idx_labels(digits(3))[:-1], "holds 3 labels and holds 2, for 3 images"),
        (struct.pack(">II", 0x801, 2**32 - 1), "4,294,967,295 labels and holds 0"),
    ],
    ids=["none", "empty", "images", "other-count", "cut", "huge"],
)
def test_labels_that_do_not_fit_are_an_error(
    tmp_path: Path, data: bytes | None, error: str
) -> None:
    path = write_idx(tmp_path, digits(3))
    beside = tmp_path / "train-labels-idx1-ubyte"
    beside.unlink() if data is None else beside.write_bytes(data)
    with pytest.raises(SourceError, match=error):
        read(path, format="idx")


def test_a_damaged_packed_file_of_labels_is_an_error(tmp_path: Path) -> None:
    path = write_idx(tmp_path, digits(3), packed=True)
    beside = tmp_path / "train-labels-idx1-ubyte.gz"
    beside.write_bytes(beside.read_bytes()[:-6])
    with pytest.raises(SourceError, match=r"idx1-ubyte\.gz is a damaged gzip file"):
        read(path, format="idx")


# ---- CIFAR ---------------------------------------------------------------------------------------


def test_a_folder_of_batches_is_read_without_what_lies_beside(tmp_path: Path) -> None:
    images = digits(20)
    meta = "".join(name + "\n" for name in NAMES) + "\n"
    write(tmp_path, batches_dot_meta_dot_txt=meta, readme_dot_html="<p>")
    for index in (1, 2):
        (tmp_path / f"data_batch_{index}.bin").write_bytes(binary_batch(images))
    named = [NAMES[label] for label in images.labels]
    assert labels(read(tmp_path, format="cifar")) == named * 2
    spec = SourceSpec(path=str(tmp_path), format="cifar")
    before = resolve_source(spec).identity
    (tmp_path / "batches.meta.txt").write_text(meta + "ten\n")
    assert resolve_source(spec).identity != before


def test_pickled_batches_are_named_by_their_pickle(tmp_path: Path) -> None:
    images = digits(20)
    (tmp_path / "batches.meta").write_bytes(python2_pickle({"label_names": NAMES, "num_vis": 3072}))
    (tmp_path / "data_batch_1").write_bytes(pickled_batch(images))
    (tmp_path / "test_batch").write_bytes(pickled_batch(images))
    named = [NAMES[label] for label in images.labels]
    assert labels(read(tmp_path, format="cifar")) == named * 2
    damaged = [{"x": NAMES}, {"label_names": [1]}, {"label_names": 1}, NAMES]
    for damage in (*map(python2_pickle, damaged), b"\x80"):
        (tmp_path / "batches.meta").write_bytes(damage)
        with pytest.raises(SourceError, match=r"batches\.meta is no file of names of classes"):
            read(tmp_path, format="cifar")


def test_cifar_100_has_two_labels_in_both_layouts(tmp_path: Path) -> None:
    images, coarse = digits(20), ["animals", "things"]
    fine = [f"fine {i}" for i in range(100)]
    binary, pickled = tmp_path / "binary", tmp_path / "pickled"
    write(binary, train_dot_bin=binary_batch(images, 1))
    names = {"coarse_label_names": coarse, "fine_label_names": fine}
    for name, each in names.items():
        (binary / f"{name}.txt").write_text("\n".join(each))
    columns = {"fine_labels": images.labels, "coarse_labels": [1] * 20}
    write(pickled, train=pickled_batch(images, **columns), meta=python2_pickle(names))
    for folder in (binary, pickled):
        records = read(folder, format="cifar")
        assert {record.fields["coarse_label"] for record in records} == {"things"}
        assert labels(records) == [f"fine {label}" for label in images.labels]


def test_sets_of_the_same_size_are_told_by_their_names(tmp_path: Path) -> None:
    zeros = bytes(3073 * 3074)
    records, _ = read_file(tmp_path, "train.bin", zeros, format="cifar")
    assert (len(records), "coarse_label" in records[0].fields) == (3074, False)
    (tmp_path / "fine_label_names.txt").write_text("only\n")
    records, _ = read_file(tmp_path, "train.bin", zeros, format="cifar")
    assert (len(records), records[0].fields["coarse_label"]) == (3073, 0)


def test_a_label_beyond_the_classes_costs_its_image(tmp_path: Path) -> None:
    data = bytearray(binary_batch(digits(5)))
    data[3073 * 2] = 10
    records, account = read_file(tmp_path, "x.bin", bytes(data), format="cifar")
    assert len(records) == 4
    assert lines_left_out(account) == {"image with a label beyond the classes": [3]}


@pytest.mark.parametrize("packed", [False, True])
def test_a_cut_binary_batch_is_left_out_with_its_images(tmp_path: Path, packed: bool) -> None:
    data = binary_batch(digits(5))[:-1]
    name, data = ("x.bin.gz", gzip.compress(data)) if packed else ("x.bin", data)
    records, account = read_file(tmp_path, name, data, format="cifar")
    assert (records, account.left_out) == ([], {WRONG_SIZE_CIFAR: 4})


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        ([1], "pickle that is no CIFAR batch"),
        ({"labels": [1]}, "pickle that is no CIFAR batch"),
        ({"data": b"x", "labels": [1]}, "pickle that is no CIFAR batch"),
        ({"data": digits(2).planes}, "pickle without a list of numbers in 'labels'"),
        ({"data": digits(2).planes, "labels": [1]}, OTHER_COUNT),
        ({"data": digits(2).planes, "labels": [1, 2, 3]}, OTHER_COUNT),
        ({"data": digits(2).planes, "labels": [1, 2], "filenames": ["a"]}, OTHER_COUNT),
        (
            {"data": digits(2).planes, "labels": [1, "x"]},
            "pickle without a list of numbers in 'labels'",
        ),
        (
            {"data": digits(2).planes, "labels": [1, 2], "filenames": ["a", "x" * 1001]},
            "pickle without a list of names in 'filenames'",
        ),
        (
            {"data": digits(2).planes[:, :64], "labels": [1, 2]},
            "CIFAR batch with images of another size",
        ),
    ],
)
def test_a_pickle_that_is_no_batch_is_one_record(tmp_path: Path, batch: Any, reason: str) -> None:
    records, account = read_file(tmp_path, "test_batch", python2_pickle(batch), format="cifar")
    assert (records, account.left_out) == ([], {reason: 1})


# ---- tables of pixels ----------------------------------------------------------------------------


def table(images: Images, label: str, delimiter: str = ",", header: bool = False) -> str:
    rows = []
    for pixels, number in zip(images.pixels, images.labels, strict=True):
        cells = list(map(str, pixels.ravel()))
        rows.append([str(number), *cells] if label == "first" else [*cells, str(number)])
    if header:
        rows.insert(0, ["label", *(f"pixel{i}" for i in range(1024))])
    return "".join(delimiter.join(row) + "\n" for row in rows)


@pytest.mark.parametrize("label", ["first", "last"])
@pytest.mark.parametrize("delimiter", [",", "\t", ";"])
@pytest.mark.parametrize("header", [False, True])
def test_a_table_of_pixels_gives_its_images(
    tmp_path: Path, label: str, delimiter: str, header: bool
) -> None:
    images = digits(20)
    (tmp_path / "x.csv").write_text(table(images, label, delimiter, header))
    records = read(tmp_path, format="pixels", label_column=label)
    assert labels(records) == list(map(str, images.labels))
    assert (decoded(records) == images.pixels).all()
    assert [record.fields["index"] for record in records] == list(range(20))


def test_a_damaged_row_of_pixels_costs_itself(tmp_path: Path) -> None:
    rows = ["1,2,3,4,a", "x,2,3,4,b", "256,2,3,4,c", "-1,2,3,4,d", "1,2,3,e", "1_0,2,3,4,f"]
    rows += ["", "1.0,2,3,4,g", " 1, 2,3 ,4,h", "1,2,3,4,a_b", "1,2,,4,i", "1,2,3,\0,k"]
    data = "\r\n".join(rows).encode() + b"\n1,2,3,4,\xff\n"
    records, account = read_file(tmp_path, "x.csv", data, format="pixels", label_column="last")
    assert labels(records) == ["a", "h", "a_b"]
    assert lines_left_out(account) == {
        "row with a pixel that is no whole number from 0 to 255": [2, 3, 4, 6, 8],
        "row with another number of columns than the first": [5],
        "row with a NUL byte": [12],
        "row not utf-8": [13],
    }
    assert account.left_out["row with a pixel that is no whole number from 0 to 255"] == 6


@pytest.mark.parametrize("row", ["1,2,3", "a", "1,2;3,4,5", ""])
def test_a_row_that_is_no_square_is_an_error(tmp_path: Path, row: str) -> None:
    with pytest.raises(SourceError, match=r"first row of x\.csv, .* pixels of a square"):
        read_file(tmp_path, "x.csv", f"{row or 'x y'}\n", format="pixels", label_column="first")


def test_where_the_label_stands_must_be_said() -> None:
    with pytest.raises(ValueError, match="'pixels' needs `label_column`"):
        SourceSpec(path="x", format="pixels")
    with pytest.raises(ValueError, match="`label_column` is for format 'pixels', not 'csv'"):
        SourceSpec(path="x", format="csv", label_column="last")


# ---- damage --------------------------------------------------------------------------------------


def check_all(folder: Path, count: int) -> None:
    images = digits(6)
    small = Images(images.pixels[:, ::8, ::8].copy(), images.labels)
    for packed in (False, True):
        path = write_idx(folder, small, packed)
        check_damage(f"idx {packed}", path, path.read_bytes(), {"format": "idx"}, count)
        path = write_idx(folder, small, packed)
        beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        data = beside.read_bytes()
        check_damage(f"labels {packed}", beside, data, {"format": "idx"}, count, source=path)
    image = folder / "cat/a.png"
    image.parent.mkdir()
    options = {"format": "class_folders"}
    check_damage("folders", image, encode_png(images.pixels[0]), options, count, image.parents[1])
    cifar = {"format": "cifar"}
    check_damage("binary", folder / "data_batch_1.bin", binary_batch(images), cifar, count)
    check_damage("100", folder / "train.bin", binary_batch(images, 3), cifar, count)
    check_damage("pickle", folder / "data_batch_1", pickled_batch(images), cifar, count)
    meta = python2_pickle({"label_names": NAMES})
    source = folder / "data_batch_1"
    source.write_bytes(pickled_batch(images))
    check_damage("meta", folder / "batches.meta", meta, cifar, count, source)
    data = table(small, "last").encode()
    options = {"format": "pixels", "label_column": "last"}
    check_damage("pixels", folder / "x.csv", data, options, count)
    check_damage("packed pixels", folder / "x.csv.gz", gzip.compress(data), options, count)


def test_damaged_files_of_images_give_accounted_records(tmp_path: Path) -> None:
    check_all(tmp_path, count=20)


@pytest.mark.slow
def test_thousands_of_damaged_files_of_images_give_accounted_records(tmp_path: Path) -> None:
    check_all(tmp_path, count=400)

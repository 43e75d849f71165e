"""Whatever lies in a file: its pixels as a person sees them, or one of a few reasons."""

import io
import pickle
import struct
import zlib

import numpy as np
import pytest
from pictures import CAMERA_ON_ITS_SIDE, as_file, deep, files, photograph
from PIL import Image, ImageOps

from raymodel.modality import image_decode
from raymodel.modality.image_decode import ImageError, as_array, decode_image, shrink_image

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow tells of each odd tag
FILES = files()
REASONS = {
    image_decode.EMPTY,
    image_decode.UNKNOWN,
    image_decode.TOO_LARGE,
    image_decode.BROKEN,
    image_decode.NO_WHITE,
}


def pixels(data: bytes, channels: int = 3) -> np.ndarray:
    return as_array(decode_image(data, channels)).astype(int)


def reason(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(data, 3)
    assert str(caught.value) == caught.value.reason
    return caught.value.reason


def png_header(width: int, height: int) -> bytes:
    """All that a PNG needs to claim a size."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = b"IDAT" + zlib.compress(b"\0" * 100)
    chunks = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c))
              for c in (head, body, b"IEND")]  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


# ---- what is seen --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("channels", [1, 3])
def test_every_kind_of_file_becomes_bytes_of_the_channels_asked_for(name, channels):
    found = as_array(decode_image(FILES[name], channels))
    sizes = {"jpeg": (50, 40), "ppm, text": (2, 3)}
    deep_ones = name.endswith(("16 bits", "floats"))
    assert found.shape == (*sizes.get(name, (4, 9) if deep_ones else (40, 50)), channels)
    assert found.dtype == np.uint8
    assert found.std() > 30, "it shows something"


@pytest.mark.parametrize(
    "name", ["png", "png, alpha", "png, animated", "webp, lossless", "bmp", "tiff, lzw", "ppm"]
)
def test_what_is_stored_without_loss_is_found_again(name):
    np.testing.assert_array_equal(pixels(FILES[name]), np.asarray(photograph(50, 40)))


@pytest.mark.parametrize("name", ["png, 16 bits", "tiff, 16 bits", "ppm, 16 bits", "tiff, floats",
                                  "ppm, floats"])  # fmt: skip
def test_deep_grey_is_scaled_and_not_cut_off(name):
    exact = np.linspace(0, 255, 36).reshape(4, 9)
    found = pixels(FILES[name], channels=1)[..., 0]
    assert np.abs(found - exact).max() <= 0.51
    assert (pixels(FILES[name])[..., 2] == found).all()


def test_a_tiff_of_12_bits_is_white_at_its_own_end_of_the_scale():
    # Pillow cannot write one: 12 bits are two numbers in three bytes.
    values = np.linspace(0, 4095, 40).astype(int).reshape(4, 10)
    first, second = values[:, ::2], values[:, 1::2]
    packed = np.stack([first >> 4, (first & 15) << 4 | second >> 8, second & 255], axis=-1)
    strip = packed.astype(np.uint8).tobytes()
    tags = [(256, 10), (257, 4), (258, 12), (259, 1), (262, 1), (273, 122), (277, 1), (278, 4),
            (279, len(strip))]  # fmt: skip
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + b"\0\0\0\0"
    found = pixels(data + strip, channels=1)[..., 0]
    assert np.abs(found - np.linspace(0, 255, 40).reshape(4, 10)).max() <= 0.6


def test_a_tiff_whose_white_is_zero_is_turned_over():
    data = as_file(deep(), "TIFF", tiffinfo={262: 0})
    assert Image.open(io.BytesIO(data)).tag_v2[262] == 0
    assert (pixels(data) == 255 - pixels(FILES["tiff, 16 bits"])).all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_what_is_transparent_lies_on_white(mode):
    image = photograph(50, 40).convert("RGBA")
    image.putalpha(Image.new("L", image.size, 0))
    image.paste((0, 0, 0, 255), (0, 0, 25, 40))
    stored = image.convert(mode)
    stored.putalpha(image.getchannel("A"))  # which Pillow 11 loses on the way to PA
    found = pixels(as_file(stored, "TIFF" if mode == "PA" else "PNG"))
    assert (found[:, :25] == 0).all()
    assert (found[:, 25:] == 255).all()


def test_half_transparent_black_is_grey_on_white():
    found = pixels(as_file(Image.new("RGBA", (3, 3), (0, 0, 0, 128))))
    assert np.abs(found - 127).max() <= 1


def test_a_transparent_colour_of_a_palette_and_of_plain_colours_is_white():
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([10, 20, 30, 200, 0, 0])
    palette.putpixel((0, 0), 0)
    for data in (
        as_file(palette, transparency=1),
        as_file(palette.convert("RGB"), transparency=(200, 0, 0)),
    ):
        assert (pixels(data)[1:] == 255).all()
        assert pixels(data)[0, 0].tolist() == [10, 20, 30]


def test_cmyk_keeps_its_colours():
    image = Image.new("RGB", (16, 16), (200, 40, 90))
    found = pixels(as_file(image.convert("CMYK"), "JPEG", quality=100))
    assert np.abs(found - [200, 40, 90]).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_stands_upright_however_the_camera_was_held(orientation):
    exif = CAMERA_ON_ITS_SIDE[:24] + bytes([orientation]) + CAMERA_ON_ITS_SIDE[25:]
    stored = Image.open(io.BytesIO(as_file(photograph(50, 40), "JPEG", exif=exif)))
    assert stored.getexif()[0x0112] == orientation
    upright = np.asarray(ImageOps.exif_transpose(stored))
    data = as_file(photograph(50, 40), "JPEG", exif=exif)
    np.testing.assert_array_equal(pixels(data), upright)
    assert pixels(data).shape[:2] == ((40, 50) if orientation < 5 else (50, 40))


def test_of_a_moving_picture_the_first_frame_is_taken():
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    for format_ in ("GIF", "WEBP", "PNG", "TIFF"):
        data = as_file(first, format_, save_all=True, append_images=[second])
        assert Image.open(io.BytesIO(data)).n_frames == 2
        assert np.abs(pixels(data) - [255, 0, 0]).max() <= 4, format_


# ---- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_file_that_is_cut_short_is_refused(name):
    data = FILES[name]
    for length in (len(data) // 3, len(data) // 2):
        assert reason(data[:length]) == image_decode.BROKEN


@pytest.mark.parametrize("size", [(60_000, 60_000), (20_001, 1), (1, 20_001), (9_999, 9_999)])
def test_a_size_that_is_only_claimed_takes_no_memory(size, recwarn):
    import tracemalloc

    data = png_header(*size)
    tracemalloc.start()
    try:
        assert reason(data) == image_decode.TOO_LARGE
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


def test_the_largest_size_that_is_taken_is_not_called_too_large():
    assert reason(png_header(20_000, 1)) == image_decode.BROKEN  # its pixels are missing


def test_a_bomb_that_a_caller_turned_into_an_error_is_too_large():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert reason(png_header(9_999, 9_999)) == image_decode.TOO_LARGE


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", image_decode.EMPTY),
        (b"hello, I am text in a file named .png", image_decode.UNKNOWN),
        (b"\0" * 1000, image_decode.UNKNOWN),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", image_decode.UNKNOWN),
        (as_file(photograph(32, 32), "ICO"), image_decode.UNKNOWN),
        (as_file(photograph(32, 32), "JPEG2000"), image_decode.UNKNOWN),
        (as_file(Image.new("LAB", (8, 8)), "TIFF"), image_decode.NO_WHITE),
        (as_file(Image.new("I", (8, 8), 7), "TIFF"), image_decode.NO_WHITE),
        (as_file(Image.new("F", (8, 8), 7.0), "TIFF"), image_decode.NO_WHITE),
        (as_file(Image.new("F", (8, 8), float("nan")), "TIFF"), image_decode.NO_WHITE),
    ],
)
def test_what_cannot_be_shown_is_refused_for_its_own_reason(data, expected):
    assert reason(data) == expected


def test_damaged_files_are_decoded_or_refused_and_nothing_else():
    """Each with a few bytes of chance: 3,000 files, the same in every run."""
    numbers = np.random.default_rng(7)
    names, reasons = sorted(FILES), set()
    for turn in range(3_000):
        data = bytearray(FILES[names[turn % len(names)]])
        for _ in range(numbers.integers(1, 8)):
            end = len(data) if turn % 2 else min(len(data), 120)  # headers mislead most
            data[numbers.integers(end)] = numbers.integers(256)
        try:
            decode_image(bytes(data), 3)
        except ImageError as error:
            reasons.add(error.reason)
    assert reasons <= REASONS
    assert {image_decode.BROKEN, image_decode.UNKNOWN, image_decode.TOO_LARGE} <= reasons


def test_an_error_crosses_a_process_border():
    error = pickle.loads(pickle.dumps(ImageError(image_decode.BROKEN)))
    assert isinstance(error, ValueError)
    assert (error.reason, str(error)) == (image_decode.BROKEN, image_decode.BROKEN)


# ---- smaller files -------------------------------------------------------------------------------


def test_a_large_photograph_is_written_again_smaller_and_upright():
    image = photograph(400, 300)
    data = as_file(image, "JPEG", quality=95, exif=CAMERA_ON_ITS_SIDE)
    smaller = shrink_image(data, 3, 60)
    found = Image.open(io.BytesIO(smaller))
    assert (found.format, found.size) == ("JPEG", (60, 80))
    assert found.getexif().get(0x0112, 1) == 1
    wanted = image.transpose(Image.Transpose.ROTATE_270).resize((60, 80), Image.Resampling.LANCZOS)
    assert np.abs(pixels(smaller) - np.asarray(wanted).astype(int)).mean() < 2


def test_what_is_stored_without_loss_stays_so_when_it_is_made_smaller():
    smaller = shrink_image(as_file(photograph(400, 300)), 1, 60)
    found = Image.open(io.BytesIO(smaller))
    assert (found.format, found.mode, found.size) == ("PNG", "L", (80, 60))


def test_a_small_file_keeps_its_bytes():
    data = as_file(photograph(100, 60), "JPEG")
    assert shrink_image(data, 3, 60) == data
    with pytest.raises(ImageError):
        shrink_image(data[:500], 3, 60)

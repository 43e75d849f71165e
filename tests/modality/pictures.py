"""Image files that tests make."""

import io

import numpy as np
from PIL import Image

CAMERA_ON_ITS_SIDE = (
    b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"  # orientation 6
)


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours, different at each corner; no two sides are alike."""
    numbers = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return Image.fromarray(numbers).resize((width, height), Image.Resampling.BICUBIC)


def as_file(image: Image.Image, format_: str = "PNG", **more: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format_, **more)
    return stream.getvalue()


def deep(bits: int = 16) -> Image.Image:
    """Grey from black to white in `bits` bits. (4, 9)"""
    return Image.fromarray(np.linspace(0, 2**bits - 1, 36).astype(np.uint16).reshape(4, 9))


def files() -> dict[str, bytes]:
    """One file of each kind that decoders tell apart."""
    image = photograph(50, 40)
    turned, palette = image.rotate(90), image.convert("P")
    floats = np.linspace(0, 1, 36, dtype=np.float32).reshape(4, 9)
    return {
        "png": as_file(image),
        "png, palette": as_file(palette, transparency=3),
        "png, alpha": as_file(image.convert("RGBA")),
        "png, grey and alpha": as_file(image.convert("LA")),
        "png, 16 bits": as_file(deep()),
        "png, 1 bit": as_file(image.convert("1")),
        "png, animated": as_file(image, save_all=True, append_images=[turned]),
        "jpeg": as_file(image, "JPEG", exif=CAMERA_ON_ITS_SIDE),
        "jpeg, cmyk": as_file(image.convert("CMYK"), "JPEG"),
        "jpeg, progressive": as_file(image, "JPEG", progressive=True),
        "webp": as_file(image, "WEBP"),
        "webp, lossless": as_file(image, "WEBP", lossless=True),
        "bmp": as_file(image, "BMP"),
        "gif, animated": as_file(palette, "GIF", save_all=True, append_images=[turned]),
        "tiff": as_file(image, "TIFF"),
        "tiff, lzw": as_file(image, "TIFF", compression="tiff_lzw"),
        "tiff, jpeg": as_file(image, "TIFF", compression="jpeg"),
        "tiff, fax": as_file(image.convert("1"), "TIFF", compression="group4"),
        "tiff, 16 bits": as_file(deep(), "TIFF"),
        "tiff, floats": as_file(Image.fromarray(floats), "TIFF"),
        "ppm": as_file(image, "PPM"),
        "ppm, 16 bits": as_file(deep(), "PPM"),
        "ppm, text": b"P2 3 2 255\n0 50 100 150 200 255\n",
        "ppm, floats": b"Pf\n9 4\n-1.0\n" + floats[::-1].astype("<f4").tobytes(),
    }

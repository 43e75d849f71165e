"""`preprocessor_config.json` of Hugging Face folders: what one says of images, and one of our own.

What a file leaves out is decided by the class that it names, so the defaults of the classes that
are followed stand here (a test holds them against transformers). All else is refused: a model that
sees other pixels than it was trained on answers worse, and nothing tells.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, get_args

from PIL import Image

from raymodel.spec.show import shorten

Resample = Literal["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"]
"""Pillow's filters by name: those that every version in its range has."""

_MAX_LENGTH = 10_000  # pixels of a side: a size beyond is a mistake or an attack
_WHOLE_FROM = 384  # pixels from which ConvNext's processor no longer crops
_BILINEAR, _BICUBIC = Image.Resampling.BILINEAR.value, Image.Resampling.BICUBIC.value
_HALF = {"image_mean": (0.5, 0.5, 0.5), "image_std": (0.5, 0.5, 0.5)}
_IMAGENET = {"image_mean": (0.485, 0.456, 0.406), "image_std": (0.229, 0.224, 0.225)}
_CLIP = {
    "image_mean": (0.48145466, 0.4578275, 0.40821073),
    "image_std": (0.26862954, 0.26130258, 0.27577711),
}
_ALL = {
    "default_to_square": True, "do_center_crop": False, "crop_size": None, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": True, "do_convert_rgb": None,
}  # fmt: skip
_SHORTEST = {"default_to_square": False, "do_center_crop": True, "crop_size": 224}
_BIT = {"size": {"shortest_edge": 224}, "resample": _BICUBIC, **_SHORTEST, **_CLIP}
_MOBILE = {"size": {"shortest_edge": 256}, "resample": _BILINEAR, **_SHORTEST, **_HALF}
_CONVNEXT = "ConvNextImageProcessor"
DEFAULTS: dict[str, dict[str, Any]] = {
    name: _ALL | own
    for name, own in {
        "BeitImageProcessor": {"size": 224, "crop_size": 224, "resample": _BICUBIC, **_HALF},
        "BitImageProcessor": _BIT,
        "CLIPImageProcessor": _BIT,
        _CONVNEXT: {
            "size": {"shortest_edge": 384}, "default_to_square": False, "crop_pct": 224 / 256,
            "resample": _BICUBIC, **_HALF,
        },
        "DeiTImageProcessor": {
            "size": 256, "do_center_crop": True, "crop_size": 224, "resample": _BICUBIC, **_HALF,
        },
        "MobileNetV1ImageProcessor": _MOBILE,
        "MobileNetV2ImageProcessor": _MOBILE,
        "PvtImageProcessor": {"size": 224, "resample": _BICUBIC, **_IMAGENET},
        "SegformerImageProcessor": {"size": 512, "resample": _BILINEAR, **_IMAGENET},
        "SiglipImageProcessor": {
            "size": {"height": 224, "width": 224}, "default_to_square": False,
            "resample": _BICUBIC, **_HALF,
        },
        "ViTImageProcessor": {"size": 224, "resample": _BILINEAR, **_HALF},
    }.items()
}  # fmt: skip
"""Class → what holds where its file says nothing."""
_ONLY: dict[str, tuple[Any, ...]] = {
    "data_format": ("channels_first",),
    "do_pad": (False,),
    "do_resize": (True,),
    "use_square_size": (False,),
}
"""Key → the only values that are followed."""
_NO_PART_IN_PIXELS = {
    "_valid_processor_keys", "device", "disable_grouping", "do_reduce_labels",
    "feature_extractor_type", "image_processor_type", "image_seq_length", "processor_class",
    "reduce_labels", "return_tensors",
}  # fmt: skip


def read_config(config: Any) -> dict[str, Any]:
    """The fields of an `ImageProcessor` that does what the file says.

    Raises:
        ValueError: it says what no `ImageProcessor` does; the message has the value, the rule and
            the fix.
    """
    if not isinstance(config, Mapping):
        raise _refused("the file", config, "it must hold an object of settings", "write one")
    kind, said = _kind_of(config), {key: v for key, v in config.items() if v is not None}
    for key, value in said.items():
        known = key in DEFAULTS[kind] or key in _NO_PART_IN_PIXELS
        if not known and value not in _ONLY.get(key, ()):
            raise _refused(key, value, "that is not followed", "leave it out if no pixel needs it")
    said = DEFAULTS[kind] | said
    channels, mean, std = _normalisation(said)
    if channels == 1 and said["do_convert_rgb"]:
        raise _refused("do_convert_rgb", True, "image_mean is of one channel", "set it to false")
    frame = _convnext_frame(said) if kind == _CONVNEXT else _frame(said)
    return {
        **frame, "channels": channels, "mean": mean, "std": std, "resample": _resample(said),
    }  # fmt: skip


def write_config(
    *,
    size: tuple[int, int],
    scale_to: tuple[int, int] | int | None,
    channels: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    resample: Resample,
) -> dict[str, Any]:
    """The file for an `ImageProcessor`: as of a `ViTImageProcessor`, which does as it is told."""
    scaled = size if scale_to is None else scale_to
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_convert_rgb": channels == 3,
        "do_resize": True,
        "size": {"shortest_edge": scaled} if isinstance(scaled, int) else _sides(scaled),
        "resample": Image.Resampling[resample.upper()].value,
        "do_center_crop": scale_to is not None,
        "crop_size": _sides(size),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(mean),
        "image_std": list(std),
    }


def _sides(size: tuple[int, int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


def _kind_of(config: Mapping[str, Any]) -> str:
    """The class that the file names, whatever it was called over the years."""
    named = config.get("image_processor_type") or config.get("feature_extractor_type")
    kind = str(named).removesuffix("Fast").removesuffix("Pil")
    kind = kind.replace("FeatureExtractor", "ImageProcessor")
    if kind not in DEFAULTS:
        known = ", ".join(DEFAULTS)
        raise _refused("image_processor_type", named, f"it must be one of {known}", "write one")
    return kind


def _normalisation(said: Mapping[str, Any]) -> tuple[int, tuple[float, ...], tuple[float, ...]]:
    """Channels, and mean and deviation of values from 0 to 1."""
    given = said["image_mean"], said["image_std"]
    lengths = {len(numbers) for numbers in given if isinstance(numbers, list | tuple)}
    channels = lengths.pop() if lengths else 3
    if lengths or channels not in (1, 3):
        rule = "both must be of 1 or of 3 channels"
        raise _refused("image_mean and image_std", given, rule, "write as many numbers in each")
    mean, std = _numbers(said, "image_mean", channels), _numbers(said, "image_std", channels)
    if not _flag(said, "do_normalize"):
        mean, std = (0.0,) * channels, (1.0,) * channels
    # The file's numbers are of pixels times `factor`, ours of pixels over 255.
    factor = _number(said, "rescale_factor") if _flag(said, "do_rescale") else 1.0
    unit = 255 * factor if abs(255 * factor - 1) > 1e-9 else 1.0
    if unit <= 0 or min(std) <= 0:
        rule = "both must be above zero"
        raise _refused("rescale_factor and image_std", (factor, std), rule, "correct them")
    return channels, tuple(m / unit for m in mean), tuple(s / unit for s in std)


def _frame(said: Mapping[str, Any]) -> dict[str, Any]:
    """`size` and `scale_to` of a class that scales and may cut out the middle."""
    scale_to = _size(said, "size", square=_flag(said, "default_to_square"))
    cut = "crop_size" if _flag(said, "do_center_crop") else "size"
    size = _size(said, cut, square=True) if cut == "crop_size" else scale_to
    if isinstance(size, int):
        rule = "images would differ in size, as their shape is kept and nothing is cut off"
        raise _refused(cut, said[cut], rule, "give height and width, or do_center_crop")
    return {"size": size, "scale_to": None if scale_to == size else scale_to}


def _convnext_frame(said: Mapping[str, Any]) -> dict[str, Any]:
    """Of ConvNext and ResNet: cropped where small, and then squeezed into a square."""
    edge = _size(said, "size", square=False)
    if not isinstance(edge, int) or _flag(said, "do_center_crop"):
        given = said["size"], said["do_center_crop"]
        rule = f"{_CONVNEXT} takes a shortest_edge and crops by crop_pct"
        raise _refused("size and do_center_crop", given, rule, "name ViTImageProcessor instead")
    part = _number(said, "crop_pct")
    if not 0 < part <= 1:
        raise _refused("crop_pct", part, "it must be above 0 and at most 1", "correct it")
    scale_to = int(edge / part) if edge < _WHOLE_FROM else None
    return {"size": (edge, edge), "scale_to": scale_to}


def _size(said: Mapping[str, Any], key: str, *, square: bool) -> tuple[int, int] | int:
    """Height and width, or the length of the shorter edge."""
    value = said[key]
    if isinstance(value, int):
        value = {"height": value, "width": value} if square else {"shortest_edge": value}
    elif isinstance(value, list | tuple) and len(value) == 2:
        value = {"height": value[0], "width": value[1]}
    given = value.items() if isinstance(value, Mapping) else ()
    lengths = {name: length for name, length in given if length is not None}
    if all(type(length) is int and 0 < length <= _MAX_LENGTH for length in lengths.values()):
        if set(lengths) == {"height", "width"}:
            return lengths["height"], lengths["width"]
        if set(lengths) == {"shortest_edge"}:
            return int(lengths["shortest_edge"])
    rule = f"it must be height and width, or shortest_edge, from 1 to {_MAX_LENGTH:,}"
    raise _refused(key, said[key], rule, "write one of these")


def _resample(said: Mapping[str, Any]) -> str:
    filters = {Image.Resampling[name.upper()].value: name for name in get_args(Resample)}
    value = said["resample"]
    if type(value) is int and value in filters:
        return str(filters[value])
    rule = "it must be the number of a filter, from 0 to 5"
    raise _refused("resample", value, rule, "write 2 for bilinear or 3 for bicubic")


def _flag(said: Mapping[str, Any], key: str) -> bool:
    if isinstance(said[key], bool):
        return bool(said[key])
    raise _refused(key, said[key], "it must be true or false", "write one of these")


def _number(said: Mapping[str, Any], key: str) -> float:
    value = said[key]
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise _refused(key, value, "it must be a finite number", "write one")


def _numbers(said: Mapping[str, Any], key: str, channels: int) -> tuple[float, ...]:
    values = said[key] if isinstance(said[key], list | tuple) else [said[key]] * channels
    return tuple(_number({key: value}, key) for value in values)


def _refused(key: str, value: object, rule: str, fix: str) -> ValueError:
    return ValueError(f"{key} is {shorten(repr(value))}; {rule}; {fix}")

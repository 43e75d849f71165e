"""A Hugging Face folder's word on images: followed to the last pixel, or refused."""

import json

import numpy as np
import pytest
from pictures import as_file, photograph

from raymodel.errors import ArtifactError
from raymodel.modality.image import FILE, ImageProcessor
from raymodel.modality.image_config import DEFAULTS
from raymodel.storage.uri import Location

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
FOLLOWED = {
    "vit of old": {"feature_extractor_type": "ViTFeatureExtractor", "size": 224},
    "vit": {
        "image_processor_type": "ViTImageProcessor", "size": {"height": 60, "width": 90},
        "resample": 3, **IMAGENET,
    },
    "resnet": {
        "feature_extractor_type": "ConvNextFeatureExtractor", "size": 224, "crop_pct": 0.875,
        "do_resize": True, "do_normalize": True, "resample": 3, **IMAGENET,
    },
    "convnext, small": {
        "image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 288},
        "crop_pct": 0.95,
    },
    "convnext, large": {"image_processor_type": "ConvNextImageProcessor"},
    "fast": {"image_processor_type": "ViTImageProcessorFast", "size": [64, 48], "do_pad": None},
    "dinov2": {
        "image_processor_type": "BitImageProcessor", "size": {"shortest_edge": 256},
        "crop_size": {"height": 224, "width": 200}, "do_convert_rgb": True, **IMAGENET,
    },
    "without normalisation": {"image_processor_type": "DeiTImageProcessor", "do_normalize": False},
    "one number for all": {
        "image_processor_type": "ViTImageProcessor", "image_mean": 0.4, "image_std": 0.2,
    },
    "to -1 … 1": {
        "image_processor_type": "ViTImageProcessor", "rescale_factor": 1 / 127.5,
        "image_mean": [1, 1, 1], "image_std": [1, 1, 1],
    },
    "of 0 … 255": {
        "image_processor_type": "ViTImageProcessor", "do_rescale": False,
        "image_mean": [123.7, 116.3, 103.5], "image_std": [58.4, 57.1, 57.4],
    },
    **{kind: {"image_processor_type": kind} for kind in DEFAULTS},
    **{
        f"filter {number}": {"image_processor_type": "BitImageProcessor", "resample": number}
        for number in range(6)
    },
}  # fmt: skip
SIZES = ((301, 457), (513, 320), (224, 224), (100, 90), (57, 900), (256, 300), (40, 41))


def put(folder, config) -> Location:
    (folder / FILE).write_text(json.dumps(config))
    return Location.parse(str(folder))


def theirs(place: Location, images: list) -> np.ndarray:
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(str(place), backend="pil")
    return processor(images, return_tensors="np")["pixel_values"]


@pytest.mark.parametrize("name", FOLLOWED)
def test_pixels_are_those_of_transformers_before_and_after_saving(name, tmp_path):
    images = [photograph(width, height, seed) for seed, (height, width) in enumerate(SIZES)]
    place = put(tmp_path, FOLLOWED[name])
    processor = ImageProcessor.load(place)
    found = processor.pixels_of([as_file(image) for image in images])
    expected = theirs(place, images)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype == np.float32
    if FOLLOWED[name].get("do_rescale", True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    processor.save(place)
    assert ImageProcessor.load(place) == processor
    assert json.loads((tmp_path / FILE).read_text()) != FOLLOWED[name]
    np.testing.assert_array_equal(theirs(place, images), found)


def test_grey_is_saved_and_read_back_by_transformers(tmp_path):
    place = Location.parse(str(tmp_path))
    processor = ImageProcessor(size=(28, 28), channels=1, mean=(0.13,), std=(0.31,))
    processor.save(place)
    assert ImageProcessor.load(place) == processor
    images = [photograph(40, 30).convert("L"), photograph(28, 28).convert("L")]
    found = processor.pixels_of([as_file(image) for image in images])
    assert found.shape == (2, 1, 28, 28)
    np.testing.assert_array_equal(found, theirs(place, images))


def test_what_is_transparent_is_to_transformers_what_it_is_here(tmp_path):
    place = Location.parse(str(tmp_path))
    processor = ImageProcessor(size=(20, 30), channels=3, mean=(0.5,) * 3, std=(0.5,) * 3)
    processor.save(place)
    clear = photograph(64, 48).convert("RGBA")
    clear.putalpha(photograph(64, 48, seed=1).convert("L"))
    images = [clear, photograph(64, 48).convert("P"), photograph(64, 48).convert("L")]
    found = processor.pixels_of([as_file(image) for image in images])
    np.testing.assert_array_equal(found, theirs(place, images))


@pytest.mark.parametrize("kind", DEFAULTS)
def test_the_defaults_are_those_of_transformers(kind):
    import transformers
    from transformers.image_processing_utils import get_size_dict

    known = getattr(transformers, f"{kind}Pil")
    for key, value in DEFAULTS[kind].items():
        found = getattr(known, key, None)
        if key in ("size", "crop_size") and isinstance(value, int):
            value = get_size_dict(value, default_to_square=True)
        if key in ("image_mean", "image_std"):
            found = tuple(found)
        if key == "do_convert_rgb":  # whatever an image has, it is converted
            continue
        assert found == value or (found is None and value is False), key


VIT = {"image_processor_type": "ViTImageProcessor"}
CONVNEXT = {"image_processor_type": "ConvNextImageProcessor"}
BIT = {"image_processor_type": "BitImageProcessor"}


@pytest.mark.parametrize(
    ("config", "word"),
    [
        ({}, "image_processor_type"),
        ({"image_processor_type": "EfficientNetImageProcessor"}, "EfficientNet"),
        ({"image_processor_type": "SamImageProcessor"}, "SamImageProcessor"),
        (VIT | {"auto_map": {"AutoImageProcessor": "code.Mine"}}, "auto_map"),
        (VIT | {"do_resize": False}, "do_resize"),
        (VIT | {"do_pad": True}, "do_pad"),
        (VIT | {"do_flip_channel_order": True}, "do_flip_channel_order"),
        (VIT | {"a_new_setting": 1}, "a_new_setting"),
        (VIT | {"crop_pct": 0.9}, "crop_pct"),
        (VIT | {"data_format": "channels_last"}, "data_format"),
        (VIT | {"resample": 6}, "resample"),
        (VIT | {"resample": "bilinear"}, "resample"),
        (VIT | {"resample": True}, "resample"),
        (VIT | {"size": {"shortest_edge": 224}}, "size"),
        (VIT | {"size": {"shortest_edge": 224, "longest_edge": 500}}, "size"),
        (VIT | {"size": {"height": 224}}, "size"),
        (VIT | {"size": 0}, "size"),
        (VIT | {"size": 10**9}, "size"),
        (VIT | {"size": "224"}, "size"),
        (VIT | {"size": [224, 224.0]}, "size"),
        (VIT | {"size": []}, "size"),
        (BIT | {"crop_size": 225}, "crop_size"),
        (BIT | {"crop_size": {"shortest_edge": 224}}, "crop_size"),
        (CONVNEXT | {"size": {"height": 224, "width": 224}}, "size"),
        (CONVNEXT | {"do_center_crop": True}, "do_center_crop"),
        (CONVNEXT | {"crop_pct": 0}, "crop_pct"),
        (CONVNEXT | {"crop_pct": 1.2}, "crop_pct"),
        (VIT | {"image_mean": [0.5, 0.5]}, "image_mean"),
        (VIT | {"image_mean": [0.5], "image_std": [0.5, 0.5, 0.5]}, "image_mean"),
        (VIT | {"image_mean": ["a", "b", "c"]}, "image_mean"),
        (VIT | {"image_mean": "imagenet"}, "image_mean"),
        (VIT | {"image_std": [0.5, 0.0, 0.5]}, "image_std"),
        (VIT | {"image_std": [0.5, float("nan"), 0.5]}, "image_std"),
        (VIT | {"rescale_factor": 0}, "rescale_factor"),
        (VIT | {"do_rescale": 1}, "do_rescale"),
        (VIT | {"image_mean": [0.5], "image_std": [0.5], "do_convert_rgb": True}, "do_convert_rgb"),
        ([VIT], "object"),
        ("ViTImageProcessor", "object"),
    ],
)
def test_what_is_not_followed_is_refused_by_name(config, word, tmp_path):
    place = put(tmp_path, config)
    with pytest.raises(ArtifactError, match=word) as caught:
        ImageProcessor.load(place)
    value_rule_fix = str(caught.value)
    assert str(place / FILE) in value_rule_fix
    assert value_rule_fix.count(";") >= 2


def test_a_folder_without_the_file_and_a_file_that_is_no_json_are_refused(tmp_path):
    place = Location.parse(str(tmp_path))
    with pytest.raises(ArtifactError, match=f"holds no {FILE}"):
        ImageProcessor.load(place)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(ArtifactError, match="not valid JSON"):
        ImageProcessor.load(place)

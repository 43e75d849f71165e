"""`task:` of those whose records are images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from raymodel.modality.spec import IGNORED, AugmentSpec, ImageSpec
from raymodel.spec.base import Text
from raymodel.tasks.spec.base import OF_TRAINING, AnyTask

Pixel = Annotated[int, Field(ge=0, le=65_535)]
"""The value of a pixel in a mask of up to 16 bits."""


class ImageClassificationSpec(AnyTask):
    """One class of a fixed set for each image."""

    name: Literal["image_classification"] = "image_classification"
    """Which task."""
    image: ImageSpec | None = None
    """What images a fresh model takes; a base says that itself."""
    augment: Annotated[AugmentSpec, OF_TRAINING] = AugmentSpec()
    """How training changes what it is shown, by chance; nothing is changed by default."""

    @property
    def wants_partners(self) -> bool:
        """What an image is mixed with."""
        return self.augment.mixup + self.augment.cutmix > 0


def _unmixed(augment: AugmentSpec) -> AugmentSpec:
    for name in ("mixup", "cutmix"):
        if share := getattr(augment, name):
            raise ValueError(
                f"{name} is {share:g}, and only images with one label each are mixed; leave it out"
            )
    return augment


def _unmoved(augment: AugmentSpec) -> AugmentSpec:
    """Without what would move an image and not what goes with it."""
    if augment.randaugment:
        raise ValueError(
            f"randaugment is {augment.randaugment}, and it would move images without their masks "
            "or boxes; leave it out, and say `shift`, `flip` and `color`, which go with them"
        )
    return _unmixed(augment)


class MaskedImageSpec(AnyTask):
    """Paint what is hidden of an image, from the patches that are left: learns from images without
    labels what a classifier can start from (MAE, arXiv:2111.06377).

    How much is hidden, the size of a patch, and whether each is compared after its own mean and
    deviation are taken out, the configuration of the model says: `mask_ratio`, `patch_size` and
    `norm_pix_loss`.
    """

    name: Literal["masked_image"] = "masked_image"
    """Which task."""
    augment: Annotated[AugmentSpec, OF_TRAINING] = AugmentSpec()
    """How training changes what it is shown, by chance; nothing is changed by default. MAE takes
    `crop: 0.2` and `flip: true` for photographs, and no more. Images are not mixed."""

    @field_validator("augment")
    @classmethod
    def _mixes_nothing(cls, augment: AugmentSpec) -> AugmentSpec:
        return _unmixed(augment)


class ImageSegmentationSpec(AnyTask):
    """One class of a fixed set for each pixel of an image."""

    name: Literal["image_segmentation"] = "image_segmentation"
    """Which task."""
    classes: dict[Text, Pixel] = Field(default_factory=dict, max_length=IGNORED)
    """Name → the value that its pixels have in the masks, such as `{ground: 0, road: 1}`. Needed
    for examples. A mask with another value, but for `ignore`, is left out."""
    ignore: Pixel | None = 255
    """The value of pixels that bear no loss and are not measured; null where there is none."""
    image: ImageSpec | None = None
    """What images a fresh model takes; a base says that itself. All of an image is scaled to that
    size, nothing is cut off."""
    augment: Annotated[AugmentSpec, OF_TRAINING] = AugmentSpec()
    """How training changes what it is shown, by chance, the masks alike; nothing is changed by
    default."""

    @property
    def named_classes(self) -> tuple[str, ...]:
        return tuple(sorted(self.classes, key=self.classes.__getitem__))

    @property
    def lack_for_examples(self) -> str | None:
        if len(self.classes) > 1:
            return None
        said = f"names {len(self.classes)} classes" if self.classes else "does not say its classes"
        return (
            f"{self.name} {said}; it needs two or more, each with the value of its pixels in the "
            "masks: classes: {ground: 0, road: 1}"
        )

    @field_validator("augment")
    @classmethod
    def _mixes_nothing(cls, augment: AugmentSpec) -> AugmentSpec:
        return _unmoved(augment)

    @model_validator(mode="after")
    def _values_differ(self) -> ImageSegmentationSpec:
        names: dict[int | None, str] = {self.ignore: "`ignore`"}
        for name, value in self.classes.items():
            if value in names:
                raise ValueError(
                    f"the value {value} is that of {names[value]} and of {name!r}; each needs a "
                    "value of its own. Change one"
                    + (", or set ignore: null" if value == self.ignore else "")
                )
            names[value] = repr(name)
        return self


class ObjectDetectionSpec(AnyTask):
    """The box and the class of each object in an image."""

    name: Literal["object_detection"] = "object_detection"
    """Which task."""
    image: ImageSpec | None = None
    """What images a fresh model takes; a base says that itself. All of an image is scaled to that
    size, nothing is cut off."""
    augment: Annotated[AugmentSpec, OF_TRAINING] = AugmentSpec()
    """How training changes what it is shown, by chance, the boxes alike; nothing is changed by
    default. Objects whose middle is cut off are none any more. Boxes cannot be turned, so `rotate`
    stays 0."""

    @field_validator("augment")
    @classmethod
    def _turns_nothing(cls, augment: AugmentSpec) -> AugmentSpec:
        if augment.rotate:
            raise ValueError(
                f"rotate is {augment.rotate:g}, and the box of an object that was turned in its "
                "box is not known; leave it out"
            )
        return _unmoved(augment)


ImageTask = ImageClassificationSpec | MaskedImageSpec | ImageSegmentationSpec | ObjectDetectionSpec

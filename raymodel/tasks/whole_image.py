"""What tasks share whose answers lie at places of an image."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Self

from raymodel.tasks.base import Task
from raymodel.tasks.pictures import fresh_images

if TYPE_CHECKING:
    from raymodel.modality.image import ImageProcessor
    from raymodel.storage.uri import Location
    from raymodel.tasks.spec.image import ImageSegmentationSpec, ObjectDetectionSpec


class WholeImageTask(Task):
    """The whole image is shown to the model, scaled to its size: nothing is cut off, so that each
    place of an image has an answer."""

    modality = "image"
    peft_task = None
    draws_head = True

    @property
    @abstractmethod
    def _said(self) -> ImageSegmentationSpec | ObjectDetectionSpec:
        """What the job says of the task."""

    def fresh_processor(self) -> ImageProcessor | None:
        """As the job says what images are; None where it leaves that to a base."""
        return fresh_images(self._said.image)

    def reading_as(self, folder: Location) -> Self:
        """As of all tasks; but what a processor would cut off is scaled with the rest."""
        task = super().reading_as(folder)
        task._processor = task.processor.whole
        return task

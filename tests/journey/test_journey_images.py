"""The jobs that the page on images shows run whole, on a few scenes."""

from __future__ import annotations

from pathlib import Path

import pytest
from journeys import Workplace  # type: ignore[import-not-found]
from shipped import run_shortened  # type: ignore[import-not-found]

from raymodel.testing.scenes import write_coco, write_masked

DOCS = Path(__file__).parents[2] / "docs/images"


def write_scenes(folder: Path) -> None:
    for write in (write_masked, write_coco):
        for split, count in (("train", 24), ("test", 8)):
            write(folder / split, count, side=32, seed=count)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_job_of_masks_runs_whole_and_answers(workplace: Workplace) -> None:
    write_scenes(workplace.folder / "scenes")
    said = run_shortened(workplace, DOCS / "segment.yaml")
    assert "mean_iou" in said
    assert "answered: " in said


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_job_of_boxes_runs_whole_and_answers(workplace: Workplace) -> None:
    write_scenes(workplace.folder / "scenes")
    said = run_shortened(workplace, DOCS / "detect.yaml")
    assert "ap50" in said
    assert "answered: " in said

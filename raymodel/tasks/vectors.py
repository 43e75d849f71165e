"""Vectors as people read them."""

from __future__ import annotations

from collections.abc import Sequence


def vector_text(vector: Sequence[float]) -> str:
    """Such as `384 numbers (0.031, -0.120, 0.005, …)`."""
    shown = ", ".join(f"{number:.3f}" for number in vector[:3])
    return f"{len(vector)} numbers ({shown}, …)"

"""Masked autoencoders of images (ViTMAE, arXiv:2111.06377): which patches are hidden, what has to
be painted there, and what is left of the model when that is learnt.

Shapes: B rows, P patches of an image, D numbers of a patch, N numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raymodel.tasks.pictures import pixels_for

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

    from raymodel.chance import Chance

ARCHITECTURE = "vit_mae"
_ENCODER = "vit"
"""The architecture that has the weights of the encoder under the same names."""
_FROM_ITSELF = 1e-6
"""Added to a patch's variance, as transformers and the paper's authors do: a white one has none."""


@dataclass(frozen=True, kw_only=True)
class Patches:
    """How a model cuts an image up, and how much of it is hidden."""

    side: int
    """Pixels."""
    count: int
    left: int
    """How many the model is shown."""
    normalised: bool
    """Whether each has to be painted as its pixels are apart from their own mean, in their own
    deviation: the contrast, and not how light the patch is."""

    @classmethod
    def of(cls, config: PretrainedConfig) -> Patches:
        """As transformers reads the configuration."""
        count = (_side(config.image_size) // _side(config.patch_size)) ** 2
        return cls(
            side=_side(config.patch_size),
            count=count,
            left=int(count * (1 - config.mask_ratio)),
            normalised=config.norm_pix_loss,
        )

    def order(self, chance: Chance) -> NDArray[np.int64]:
        """The place of each patch in a shuffled row: the first `left` are shown. (P,)"""
        return np.argsort(np.argsort(chance.bits(self.count), kind="stable"), kind="stable")


def find_misfit(config: PretrainedConfig, *, is_sized: bool) -> str | None:
    """Why a model of this configuration cannot learn by painting; None where it can.

    Args:
        is_sized: whether the size of its images is theirs, and not what transformers takes for one
            that is not told.
    """
    if config.model_type != ARCHITECTURE:
        return (
            f"a {config.model_type!r} model has no decoder that paints what is hidden of an image; "
            f"take architecture: {ARCHITECTURE}"
        )
    for name in ("image_size", "patch_size"):
        size = getattr(config, name)
        if not isinstance(size, int) and len(set(size)) > 1:
            return f"{name} is {list(size)}, and {ARCHITECTURE} takes squares; give one number"
    for name in ("hidden_size", "decoder_hidden_size"):
        if getattr(config, name) % 4:
            return (
                f"{name} is {getattr(config, name)}, and positions of rows and columns are sines "
                "and cosines in it; take a multiple of 4"
            )
    image, patch = _side(config.image_size), _side(config.patch_size)
    if not is_sized:
        return None
    if image % patch:
        return (
            f"patch_size is {patch}, and images of {image} pixels are no whole number of such "
            "patches a side; take a divisor of the images' size"
        )
    seen = Patches.of(config)
    if not 0 < seen.left < seen.count:
        return (
            f"mask_ratio is {config.mask_ratio}, which leaves {seen.left} of the {seen.count} "
            "patches of an image to be seen; some must be seen and some hidden: change it, or make "
            "patch_size smaller"
        )
    return None


def is_default_size(config: PretrainedConfig) -> bool:
    """Whether the size of the images is what transformers takes for one that is not told."""
    return bool(config.image_size == type(config)().image_size)


def without_decoder(config: PretrainedConfig) -> PretrainedConfig:
    """That of a ViT with the weights of the encoder; another architecture's as it is."""
    if config.model_type != ARCHITECTURE:
        return config
    from transformers import CONFIG_MAPPING

    kind: Any = CONFIG_MAPPING[_ENCODER]
    own = {"model_type", "architectures", "transformers_version", "dtype"}
    said = config.to_dict()
    made: PretrainedConfig = kind(
        **{name: said[name] for name in kind().to_dict() if name in said and name not in own}
    )
    return made


def painting_errors(
    painted_BPD: torch.Tensor, pixels_BCHW: torch.Tensor, patches: Patches
) -> torch.Tensor:
    """The mean squared error of each patch over its numbers. (B, P) fp32"""
    target_BPD = cut_up(pixels_BCHW.float(), patches.side)
    if patches.normalised:
        mean, variance = target_BPD.mean(-1, keepdim=True), target_BPD.var(-1, keepdim=True)
        target_BPD = (target_BPD - mean) * (variance + _FROM_ITSELF).rsqrt()
    return (painted_BPD.float() - target_BPD).square().mean(-1)


def cut_up(pixels_BCHW: torch.Tensor, side: int) -> torch.Tensor:
    """The patches of images, row by row, each pixel by pixel with its channels. (B, P, D)"""
    rows_BCyxhw = pixels_BCHW.unfold(2, side, side).unfold(3, side, side)
    return rows_BCyxhw.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def whole_image_vectors(
    model: PreTrainedModel, pixels_BCHW: torch.Tensor, order_BP: torch.Tensor
) -> torch.Tensor:
    """What the encoder makes of images of which nothing is hidden: the mean over the patches, of
    length 1. (B, N) fp32"""
    import torch.nn.functional as F

    with _nothing_hidden(model):
        encoded = model.base_model(pixel_values=pixels_BCHW, noise=order_BP).last_hidden_state
    return F.normalize(encoded[:, 1:].float().mean(1), dim=-1)  # the first is no patch


@contextmanager
def _nothing_hidden(model: PreTrainedModel) -> Iterator[None]:
    """`random_masking` of the encoder asks the configuration, which all its parts share, how much
    to hide."""
    ratio = model.config.mask_ratio
    model.config.mask_ratio = 0.0
    try:
        yield
    finally:
        model.config.mask_ratio = ratio


def _side(size: Any) -> int:
    return int(size if isinstance(size, int) else size[0])


def forward_inputs(
    model: torch.nn.Module, batch: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """What the model is called with: pixels in its format, and the order of the patches, which has
    to stay exact."""
    return {"pixel_values": pixels_for(model, batch), "noise": batch["noise"]}

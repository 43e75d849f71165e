"""The weights of a GGUF file, one by one, under the names that transformers has for them.

They are multiplied out when they are read: what is computed with them is what a program computes
that multiplies them out itself.
Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, "File Structure".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from raymodel.errors import ArtifactError
from raymodel.model.gguf import GgufType, is_computed, tensors_of, unpaired
from raymodel.model.gguf_header import read_gguf_header
from raymodel.storage.model_files import GGUF_FILE
from raymodel.storage.uri import Location

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_METHOD = "gguf"


def gguf_config(type: GgufType) -> dict[str, Any]:
    """What config.json says of a folder whose weights are a GGUF file."""
    return {"quant_method": _METHOD, "weights": type}


def gguf_type(config: PretrainedConfig) -> GgufType | None:
    """The type of the weights, where a configuration says that they are a GGUF file."""
    said = getattr(config, "quantization_config", None)
    if not isinstance(said, Mapping) or said.get("quant_method") != _METHOD:
        return None
    return cast("GgufType | None", said.get("weights"))


class GgufWeights:
    """Reads a weight when it is asked for; in the place of `StoredWeights`."""

    def __init__(self, folder: Location, model: PreTrainedModel) -> None:
        """Reads the header of the folder's file.

        Args:
            folder: on a disk or in a bucket.
            model: on the meta device.

        Raises:
            ArtifactError: there is no such file, or it is damaged.
        """
        self._file = folder / GGUF_FILE
        if not self._file.exists():
            raise ArtifactError(
                f"{folder} has no {GGUF_FILE}, of which its config.json says that it holds the "
                "weights; copy all of the folder again"
            )
        # Whatever its type: which one a tensor has, the file says.
        self._tensors = {tensor.source: tensor for tensor in tensors_of(model, "f32")}
        with self._file.open_input() as stream:
            size = stream.size()
            self._infos = read_gguf_header(self._file, stream)
        self._check_length(size)
        self._dtype: torch.dtype = getattr(model.config, "dtype", None) or torch.float32
        found = {name: self._infos.get(tensor.name) for name, tensor in self._tensors.items()}
        self.missing = tuple(name for name, info in found.items() if info is None)
        """Names in the model that the file lacks."""
        self.misshapen = {
            name: (info.shape, self._tensors[name].shape)
            for name, info in found.items()
            if info is not None and info.shape != self._tensors[name].shape
        }
        """Name in the model → its shape in the file, and the other one that the model has."""
        known = {tensor.name for tensor in self._tensors.values()}
        self.extra = tuple(name for name in self._infos if name not in known)
        """Names in the file that the model has no place for."""

    def __contains__(self, name: str) -> bool:
        tensor = self._tensors.get(name)
        return tensor is not None and tensor.name in self._infos and not is_computed(tensor)

    @property
    def dtype(self) -> torch.dtype:
        """What the model was saved in before, and is computed in."""
        return self._dtype

    def read(self, name: str) -> torch.Tensor:
        """A weight, multiplied out, in fp32 on the CPU."""
        import gguf

        tensor = self._tensors[name]
        info = self._infos[tensor.name]
        kind = gguf.GGMLQuantizationType(info.type)
        data = self._file.read_range(info.first_byte, info.bytes)
        rows = np.frombuffer(data, np.uint8).reshape(*info.shape[:-1], -1)
        numbers = gguf.quants.dequantize(rows, kind).astype(np.float32).reshape(info.shape)
        if tensor.heads:
            numbers = unpaired(numbers, tensor.heads)
        return torch.from_numpy(np.array(numbers))  # a copy that may be written to

    def _check_length(self, size: int) -> None:
        end = max((info.first_byte + info.bytes for info in self._infos.values()), default=0)
        if size < end:
            raise ArtifactError(
                f"{self._file} is cut short: it has {size:,} bytes of {end:,}; copy it again"
            )

"""What raw data of a kind is to a model: a processor for each.

Loads none of them before it is asked for: `raymodel check` needs none.
"""

from __future__ import annotations

import importlib
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raymodel.modality.base import Processor

_PLACES = MappingProxyType(
    {
        "text": "text:TextProcessor",
        "image": "image:ImageProcessor",
        "audio": "audio:AudioProcessor",
        "audio+text": "speech:SpeechProcessor",
    }
)
MODALITIES = tuple(_PLACES)


def processor_of(modality: str) -> type[Processor]:
    """The class that reads a modality."""
    module, _, name = _PLACES[modality].partition(":")
    kind: type[Processor] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return kind

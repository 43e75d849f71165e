"""What goes over the wire for answers that come whole: `/predict`, and vLLM's `/classify`.

Source: https://docs.vllm.ai/en/latest/serving/openai_compatible_server.html#classification-api
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from raymodel.serve.protocol import AnswerModel, Ignored, Text, Usage, WireModel


class ClassifyRequest(WireModel):
    """`POST /classify`."""

    model: str
    input: Text | Annotated[list[Text], Field(min_length=1)]
    """A text, or several."""
    truncate: bool = False
    """A text that is too long loses its end, and is not refused."""
    user: Ignored = None

    @property
    def texts(self) -> list[str]:
        """The inputs as a list."""
        return [self.input] if isinstance(self.input, str) else self.input


class PredictRequest(WireModel):
    """`POST /predict`."""

    model: str
    inputs: dict[str, Any] | Annotated[list[dict[str, Any]], Field(min_length=1)]
    """Role → value, of one input or of several: a text, a list of texts, or the bytes of a
    file in base64, an image or a clip; which roles there are, `/health` says."""

    @property
    def all_inputs(self) -> list[dict[str, Any]]:
        """The inputs as a list."""
        return [self.inputs] if isinstance(self.inputs, dict) else self.inputs


class Classification(AnswerModel):
    """The class of one input, the most probable where it may have several."""

    index: int
    label: str
    probs: list[float]
    """One for each class, in the order of the model's labels."""
    num_classes: int


class ClassifyResponse(AnswerModel):
    """The answer of `/classify`."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Classification]
    usage: Usage


class PredictResponse(AnswerModel):
    """The answer of `/predict`."""

    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[dict[str, Any]]
    """`index`, and what the task answers: `label` and `probs`, …"""
    usage: Usage


class Transcription(AnswerModel):
    """The answer of `/v1/audio/transcriptions` as JSON."""

    text: str

"""What goes over the wire, in whatever route: strict requests, usage, errors.

Fields that clients send and that change nothing here (`user`, `metadata`, …) are accepted. Fields
that would change the answer and are not supported are refused, and so is what nobody knows, which
may be misspelt: an answer that silently ignores half of the question is worse than none.

What each kind of route takes, the files beside this one say: `sampling_protocol.py` and, on top of
it, `generation_protocol.py` and `responses_protocol.py`; `prediction_protocol.py`,
`retrieval_protocol.py`.

Source: https://platform.openai.com/docs/api-reference
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError

from raymodel.serve.problems import UNKNOWN_FIELD


def check_unicode(text: str) -> str:
    r"""JSON can say `"\ud800"`, half of a surrogate pair, which is no character."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text is not valid Unicode at character {error.start}") from None
    return text


Text = Annotated[str, AfterValidator(check_unicode)]


class Described(AfterValidator):
    """A check that `/openapi.json` tells of.

    Args:
        check: see `AfterValidator`.
        said: what it means, in words of JSON Schema.
    """

    def __init__(self, check: Any, said: Mapping[str, Any]) -> None:
        super().__init__(check)
        object.__setattr__(self, "said", said)  # its base is frozen

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        said: Mapping[str, Any] = self.said  # type: ignore[attr-defined]
        return {**handler(schema), **said}


def _is_same(value: object, allowed: object) -> bool:
    # Python holds 0 and False for equal, but `logprobs: 0` asks for something, `false` does not.
    return value == allowed and isinstance(value, bool) == isinstance(allowed, bool)


class WireModel(BaseModel):
    """A request: strict types, and no field that is not known."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _know_all(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = [field.alias or name for name, field in cls.model_fields.items()]
        unknown = [name for name in data if name not in known]
        asked = [name for name in unknown if data[name] is not None]
        if asked:
            name = asked[0].encode(errors="replace").decode()
            given = {"name": name, "known": known}
            raise PydanticCustomError(UNKNOWN_FIELD, "unknown field", given)
        return {name: value for name, value in data.items() if name not in unknown}


def unless(*allowed: Any) -> Any:
    """Marks a field that is not supported: with null and with these values it changes nothing."""

    def check(value: Any, info: ValidationInfo) -> Any:
        if value is None or any(_is_same(value, each) for each in allowed):
            return value
        raise ValueError(
            f"this server does not support it, and it would change the answer; leave "
            f"{info.field_name} out"
        )

    return Described(check, {"enum": [None, *allowed], "description": "Not supported."})


Ignored = Annotated[Any, Field(description="Taken, and without effect.")]


class AnswerModel(BaseModel):
    """A part of an answer: all that it has, and nothing else."""

    model_config = ConfigDict(
        extra="forbid",
        use_attribute_docstrings=True,
        json_schema_serialization_defaults_required=True,
    )


class Usage(AnswerModel):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int = 0
    total_tokens: int


class ErrorDetail(AnswerModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorResponse(AnswerModel):
    """The body of every answer that is not 2xx."""

    error: ErrorDetail


class Status(BaseModel):
    """How the server is; `/health` tells more beside it."""

    model_config = ConfigDict(extra="allow")

    status: str


class ModelCard(AnswerModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """When the server began with it, in seconds since 1970."""
    owned_by: str = "raymodel"


class ModelList(AnswerModel):
    """All that are."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


def usage(prompt_tokens: int, completion_tokens: int = 0) -> Usage:
    """Usage with its total."""
    return Usage(
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
        total_tokens=prompt_tokens + completion_tokens,
    )

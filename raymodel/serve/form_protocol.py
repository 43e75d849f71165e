"""What goes over the wire for the form of an answer: OpenAI's field and vLLM's.

Sources: https://platform.openai.com/docs/guides/structured-outputs,
https://docs.vllm.ai/en/latest/features/structured_outputs.html
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from raymodel.serve.protocol import Ignored, Text, WireModel, unless
from raymodel.serve.sampling import Form


class JsonSchema(WireModel):
    """A schema, as OpenAI's clients wrap it."""

    name: Ignored = None
    description: Ignored = None
    strict: Ignored = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    """What the answer holds; a schema that cannot be followed exactly is refused."""


class ResponseFormat(WireModel):
    """The form of an answer, as OpenAI has it."""

    type: Literal["text", "json_object", "json_schema"]
    """`text` is any."""
    json_schema: JsonSchema | None = Field(default=None, validate_default=True)

    @field_validator("json_schema", mode="after")
    @classmethod
    def _with_its_type(cls, schema: JsonSchema | None, info: ValidationInfo) -> JsonSchema | None:
        if (schema is not None) != (info.data.get("type") == "json_schema"):
            raise ValueError("it stands beside type: 'json_schema', and there it must")
        return schema

    @property
    def form(self) -> Form | None:
        """None of any text."""
        schema = {"type": "object"} if self.json_schema is None else self.json_schema.schema_
        return None if self.type == "text" else json_form(schema)


class StructuredOutputs(WireModel):
    """The form of an answer, as vLLM has it."""

    json_: Annotated[str | dict[str, Any] | None, Field(alias="json")] = None
    """A JSON schema."""
    regex: Text | None = None
    """A regular expression that the whole answer matches."""
    choice: Annotated[list[Text], Field(min_length=1)] | None = None
    """Texts, one of which is the answer."""
    json_object: Literal[True] | None = None
    """Any JSON object."""
    grammar: Annotated[Any, unless()] = None
    structural_tag: Annotated[Any, unless()] = None
    disable_any_whitespace: Ignored = None
    disable_additional_properties: Annotated[Any, unless(False)] = None
    whitespace_pattern: Annotated[Any, unless()] = None

    @model_validator(mode="after")
    def _one(self) -> StructuredOutputs:
        given = (self.json_, self.regex, self.choice, self.json_object)
        if sum(value is not None for value in given) != 1:
            raise ValueError("give one of json, regex, choice and json_object")
        return self

    @property
    def form(self) -> Form:
        """What is given."""
        if self.regex is not None:
            return Form("regex", self.regex)
        if self.choice is not None:
            return Form("choice", json.dumps(self.choice))
        return json_form({"type": "object"} if self.json_ is None else self.json_)


def json_form(schema: str | dict[str, Any]) -> Form:
    """Of a schema, which may be JSON already."""
    return Form("json", schema if isinstance(schema, str) else json.dumps(schema))

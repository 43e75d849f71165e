"""The JSON Schema of a job file, for editors that complete and check YAML."""

from __future__ import annotations

from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from raymodel.spec.base import Spec


def json_schema(model: type[Spec]) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the YAML that `model` accepts."""
    return {
        "$schema": GenerateJsonSchema.schema_dialect,
        **model.model_json_schema(),
        "title": "raymodel job",
    }

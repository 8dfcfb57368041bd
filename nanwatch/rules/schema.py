"""The JSON Schema of a rule file, for editors: completion, hover texts and red lines while one types."""

from __future__ import annotations

import functools
import operator
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from nanwatch.rules.families import family, known_types
from nanwatch.rules.load import RuleFile


def schema() -> dict[str, Any]:
    """Schema of a rule file with every family that is installed.

    Raises: RuleError when a plugin's family cannot be loaded.
    """
    models = [family(name) for name in known_types()]
    union: Any = functools.reduce(operator.or_, models[1:], models[0])
    adapter: TypeAdapter[Any] = TypeAdapter(Annotated[union, Field(discriminator="type")])
    rules = adapter.json_schema(ref_template="#/$defs/{model}")
    file = RuleFile.model_json_schema(ref_template="#/$defs/{model}")
    definitions = {**file.pop("$defs", {}), **rules.pop("$defs", {})}
    file["properties"]["rules"] = {"type": "array", "items": rules}
    for model in models:
        definitions[model.__name__]["required"] = sorted({"type", *definitions[model.__name__].get("required", [])})
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "nanwatch rules",
        **file,
        "$defs": definitions,
    }

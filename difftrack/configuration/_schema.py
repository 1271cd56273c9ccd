"""The JSON Schema of params.yaml, for editors and other programs."""

import json
from collections.abc import Mapping
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Final

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from difftrack.configuration._configuration import Configuration
from difftrack.configuration._meanings import completed_sections, meanings, summary
from difftrack.params import ByConvention, type_adapter

__all__ = ["SCHEMA_FILE", "json_schema"]

SCHEMA_FILE: Final = Path(__file__).with_name("params.schema.json")
"""File of the published schema, written by `python -m difftrack.configuration --schema`."""

_NULL: Final = {"type": "null"}


def json_schema() -> str:
    """Return the JSON Schema of a whole params file, as JSON text."""
    schema = type_adapter(Configuration).json_schema(schema_generator=_Generator)
    definitions: dict[str, Any] = schema["$defs"]
    whole = definitions.pop("Configuration")
    for name, section in whole["properties"].items():  # a section may be missing, but not null
        (whole["properties"][name],) = (
            {"description": section["description"]} | option
            for option in section.get("anyOf", [section])
            if option != _NULL
        )
    found = {"$schema": _Generator.schema_dialect, "title": "params.yaml of DiffTrack", **whole, "$defs": definitions}
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _meaning(kind: type, field: Field[Any]) -> str:
    meaning = meanings(kind).get(field.name, "")
    decided = field.default
    if not isinstance(decided, ByConvention) or is_dataclass(decided.released):
        return meaning
    return f"{meaning} Default under `released`: {json.dumps(decided.released)}."


class _Generator(GenerateJsonSchema):
    """pydantic's schema of the dataclasses, with the descriptions of their fields."""

    def generate(self, schema: CoreSchema, mode: JsonSchemaMode = "validation") -> JsonSchemaValue:
        self._completed: Mapping[type, ByConvention] = dict(completed_sections(Configuration))
        return super().generate(schema, mode)

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ANN401 - pydantic has many types
        return False

    def encode_default(self, dft: Any) -> Any:  # noqa: ANN401 - the type of the field
        return super().encode_default(dft.corrected if isinstance(dft, ByConvention) else dft)

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        whole_numbers = schema.get("keys_schema", {}).get("type") == "int"
        return super().dict_schema(schema) | ({"propertyNames": {"pattern": r"^-?\d+$"}} if whole_numbers else {})

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        kind, described = schema["cls"], super().dataclass_schema(schema)
        described.pop("title", None)
        described["description"] = summary(kind)
        completed = self._completed.get(kind)
        if completed is not None:  # its keys have the convention's defaults, not the class's defaults
            for key in completed.beside:
                del described["properties"][key]
        for field in fields(kind):
            if (own := described["properties"].get(field.name)) is None:
                continue
            by_convention = isinstance(field.default, ByConvention)
            if completed is not None or by_convention:
                own = {"anyOf": [{key: part for key, part in own.items() if key != "default"}, _NULL]} | (
                    {"default": own["default"]} if "default" in own and completed is None else {}
                )
            described["properties"][field.name] = {"description": _meaning(kind, field), **own}
        return described

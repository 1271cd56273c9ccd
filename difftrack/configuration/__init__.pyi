from ._configuration import (
    ArtifactPaths,
    Configuration,
    configuration_from,
    read_configuration,
)
from ._reference import Entry, describe, entries, page
from ._schema import SCHEMA_FILE, json_schema

__all__ = [
    "SCHEMA_FILE",
    "ArtifactPaths",
    "Configuration",
    "Entry",
    "configuration_from",
    "describe",
    "entries",
    "json_schema",
    "page",
    "read_configuration",
]

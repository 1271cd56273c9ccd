"""Parse one section of a params file into the frozen dataclass of its room."""

from difftrack.params._conventions import ByConvention, Convention, Conventional, by_convention
from difftrack.params._files import PARAMS_FILE, read_params
from difftrack.params._parse import ParamsError, parse, parse_each, type_adapter
from difftrack.params._words import describe_type

__all__ = [
    "PARAMS_FILE",
    "ByConvention",
    "Convention",
    "Conventional",
    "ParamsError",
    "by_convention",
    "describe_type",
    "parse",
    "parse_each",
    "read_params",
    "type_adapter",
]

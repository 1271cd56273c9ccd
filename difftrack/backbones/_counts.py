"""Counts of each named backbone, from a table in the package, so that listing them loads no library.

    python -m difftrack.backbones._counts        # counts all anew, and writes the table

The table holds counts from the classes of a checkpoint, built without memory (`count`), which takes tens of seconds. A
row is valid while the family's declaration of the checkpoint is unchanged; any other checkpoint, and one of a family
from an entry point, is counted on request. Tests count all of them.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from difftrack.backbones._family import KnownBackbone
from difftrack.backbones._registry import KNOWN
from difftrack.documents import read_json
from difftrack.geometry import TokenGrid

__all__ = ["BackboneCounts", "count", "counts_of"]

_TABLE = Path(__file__).with_name("counts.json")


@dataclass(frozen=True, slots=True)
class BackboneCounts:
    """Counts of one named backbone at its default clip size.

    Bytes are those of weights in bfloat16, except for weights that a class of diffusers keeps in float32.
    """

    num_layers: int
    num_heads: int
    num_channels: int
    num_text_tokens: int
    """Text tokens that its attention sees together with the video's."""
    grid: TokenGrid
    """Video tokens."""
    num_parameters: int
    """Number of weights of the transformer, or of both experts."""
    expert_bytes: tuple[int, ...]
    """Bytes of the transformer; one number for each expert where several share the steps."""
    vae_bytes: int
    vae_channels: int
    """Channels of the autoencoder's first block."""
    vae_batch_frames: int
    """Batch size of frames encoded alone."""
    encoder_bytes: Mapping[str, int]
    """Bytes of the text and image encoders, by component."""
    num_history_tokens: int = 0
    """Tokens of frames of history in its attention."""
    held_states: int = 0
    """Hidden states that a forward pass holds from its beginning on."""


def counts_of(name: str) -> BackboneCounts:
    """Return a named backbone's counts, from the table if it has them.

    Args:
        name: Name in the table of backbones, not an alias.
    """
    row = _table().get(name)
    if row is None or row["declared"] != declaration(KNOWN[name]):
        return count(name)
    counts = dict(row["counts"])
    grid, expert_bytes = TokenGrid(**counts.pop("grid")), tuple(counts.pop("expert_bytes"))
    return BackboneCounts(**counts, grid=grid, expert_bytes=expert_bytes)


def count(name: str) -> BackboneCounts:
    """Build a named backbone's classes without memory, and count."""
    import torch

    from difftrack.backbones._folder import values_not_drawn
    from difftrack.backbones._params import ModelParams
    from difftrack.backbones._random_init import constructed_backbone
    from difftrack.backbones._registry import find_class

    def encoder_bytes(class_name: str, arguments: Mapping[str, Any]) -> int:
        kind = find_class(class_name)
        with torch.device("meta"), values_not_drawn():
            encoder: torch.nn.Module = kind(kind.config_class(**arguments))
        return sum(weight.numel() for weight in encoder.parameters()) * torch.bfloat16.itemsize

    def num_bytes(model: torch.nn.Module) -> int:
        return sum(weight.numel() * weight.itemsize for weight in model.parameters())

    known, backbone = KNOWN[name], constructed_backbone(name, ModelParams(device="meta", dtype="bfloat16"))
    return BackboneCounts(
        num_layers=backbone.num_layers,
        num_heads=backbone.num_heads,
        num_channels=backbone.num_channels,
        num_text_tokens=backbone.num_text_tokens,
        vae_channels=backbone.vae_channels,
        vae_batch_frames=backbone.frames_of_vae_batch(*known.size[1:]),
        held_states=backbone.held_states,
        num_history_tokens=backbone.num_history_tokens(backbone.token_grid(*known.size)),
        grid=backbone.token_grid(*known.size),
        num_parameters=sum(weight.numel() for model in backbone.all_transformers() for weight in model.parameters()),
        expert_bytes=tuple(num_bytes(transformer) for transformer in backbone.all_transformers()),
        vae_bytes=num_bytes(backbone.vae),
        encoder_bytes={component: encoder_bytes(*made_of) for component, made_of in known.encoders.items()},
    )


def declaration(known: KnownBackbone) -> str:
    """Hash a family's declaration of a checkpoint."""
    return hashlib.sha256(repr(known).encode()).hexdigest()[:16]


@cache
def _table() -> dict[str, Any]:
    found: dict[str, Any] = read_json(_TABLE) if _TABLE.is_file() else {}
    return found


def _write() -> None:
    """Count all checkpoints of the built-in families."""
    table = {name: {"declared": declaration(known), "counts": asdict(count(name))} for name, known in KNOWN.items()}
    rows = (f"{json.dumps(name)}: {json.dumps(row)}" for name, row in table.items())
    _TABLE.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    _write()

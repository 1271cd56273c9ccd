"""Stage: the installed code and the weights named in params.yaml -> one small file per stage, which DVC tracks.

A workspace contains no source tree on which a stage could depend. This stage runs every time, takes a second, and
writes what the other stages depend on besides their inputs: digests of the code that they use, by room, the versions of
the computing libraries, and the identity of the weights. Comments and docstrings do not count, so an upgrade of the
package reruns exactly the stages whose code changed.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from difftrack.backbones._identity import weights_identity
from difftrack.pipeline._stage import Paths, run
from difftrack.provenance import code_of, versions_of
from difftrack.resources import CAUSE_STUDY, shipped

__all__ = ["main", "stage_fingerprints"]

_COMPUTED_BY = ("torch", "diffusers", "transformers")
_RUN_A_MODEL = ("synthesize", "extract", "survey", "guide")
_PER_BACKBONE = ("extract", "survey")
_STAGES = ("synthesize", "annotate", "extract", "survey", "match", "score", "track", "guide", "report")


def main(params: Mapping[str, Any], deps: Paths, outs: Paths) -> None:
    """Write the folder `fingerprints`; files with unchanged content are not touched."""
    folder = outs["fingerprints"]
    fingerprints = dict(stage_fingerprints(params))
    for name, content in fingerprints.items():
        file = folder / name
        text = json.dumps(content, indent=1, sort_keys=True) + "\n"
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")
    for stale in sorted(folder.rglob("*.json")):
        if stale.relative_to(folder).as_posix() not in fingerprints:
            stale.unlink()


def stage_fingerprints(params: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what each stage depends on: file name, and content as JSON.

    Args:
        params: All sections of params.yaml.
    """
    backbones = params.get("backbones") or {}
    for stage in _STAGES:
        made: dict[str, Any] = {"code": dict(code_of(f"difftrack.pipeline.{stage}"))}
        if stage == "report":
            made["study"] = hashlib.sha256(shipped(CAUSE_STUDY).read_bytes()).hexdigest()
        if stage not in _RUN_A_MODEL:
            yield f"{stage}.json", made
            continue
        made |= {"libraries": versions_of(*_COMPUTED_BY)}
        if stage in _PER_BACKBONE:
            for name in backbones:
                yield f"{stage}/{name}.json", {**made, "weights": {name: weights_identity(name, backbones[name])}}
        else:
            used = _used_by(stage, params)
            yield (
                f"{stage}.json",
                {**made, "weights": {name: weights_identity(name, backbones.get(name)) for name in used}},
            )


def _used_by(stage: str, params: Mapping[str, Any]) -> list[str]:
    """Return the names of the backbones that a stage outside the matrix runs."""
    section = params.get(stage) or {}
    if stage == "guide":
        return [section["backbone"]] if "backbone" in section else []
    generated = section.get("generated") or {}
    return [generated["backbone"]] if "generated" in section.get("sources", ()) and "backbone" in generated else []


def run_stage() -> None:
    """Run this stage with the paths on the command line."""
    run("fingerprint", main, whole=True)

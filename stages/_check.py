"""All of params.yaml at once: a stage looks at its own sections alone, and only when it runs.

python -m stages._check FILE [what messages call it]
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from difftrack.annotation import AnnotateParams
from difftrack.backbones import ModelParams
from difftrack.correspondence import MatchSection
from difftrack.extraction import ExtractParams
from difftrack.guidance import GuideParams
from difftrack.params import ParamsError, parse, parse_each
from difftrack.reports import ReportParams
from stages._run import check_folders, read_params
from stages.score import ScoreSection
from stages.survey import SurveySection
from stages.synthesize import SynthesizeSection
from stages.track import TrackSection

__all__ = ["SECTIONS", "check_params"]

SECTIONS: Mapping[str, type] = {
    "synthesize": SynthesizeSection,
    "annotate": AnnotateParams,
    "extract": ExtractParams,
    "survey": SurveySection,
    "match": MatchSection,
    "score": ScoreSection,
    "track": TrackSection,
    "guide": GuideParams,
    "report": ReportParams,
}
"""What reads each section; `backbones` and `paths` have keys of the user's own."""


def check_params(path: Path, *, name: str | None = None) -> None:
    """Read a params file as all stages would.

    Args:
        path: The file.
        name: What messages call it; its path by default.

    Raises:
        ParamsError: a section, a key or a value that no stage can use.
        OwnershipError: a folder in `paths` that is not the pipeline's alone.
    """
    params: Mapping[str, Any] = read_params(path)
    file, known = name or path, {*SECTIONS, "backbones", "paths"}
    if unknown := sorted(map(str, set(params) - known)):
        raise ParamsError(f"{file}: unknown section {unknown[0]}; known: {', '.join(sorted(known))}")
    for section, kind in SECTIONS.items():
        if section in params:
            parse(kind, params[section], section, file=file)
    parse_each(str, params.get("paths", {}), "paths", file=file)
    check_folders(params, Path.cwd())
    backbones = parse_each(ModelParams | None, params.get("backbones") or {}, "backbones", file=file)
    if "backbones" in params and not backbones:
        raise ParamsError(f"{file}: backbones names none; wanted: at least one")


if __name__ == "__main__":
    try:
        check_params(Path(sys.argv[1]), name=next(iter(sys.argv[2:]), None))
    except (ValueError, OSError) as error:
        sys.exit(f"difftrack: {error}")

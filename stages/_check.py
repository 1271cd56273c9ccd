"""All of params.yaml at once: a stage looks at its own sections alone, and only when it runs.

python -m stages._check params.yaml
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
from difftrack.params import ParamsError, parse
from difftrack.reports import ReportParams
from stages._run import read_params
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


def check_params(path: Path) -> None:
    """Read a params file as all stages would.

    Raises:
        ParamsError: a section, a key or a value that no stage can use.
    """
    params: Mapping[str, Any] = read_params(path)
    known = {*SECTIONS, "backbones", "paths"}
    if unknown := sorted(set(params) - known):
        raise ParamsError(f"{path}: unknown section {unknown[0]}; known: {', '.join(sorted(known))}")
    for section, kind in SECTIONS.items():
        if section in params:
            parse(kind, params[section], section)
    for name, values in (params.get("backbones") or {}).items():
        parse(ModelParams, values or {}, f"backbones.{name}")


if __name__ == "__main__":
    try:
        check_params(Path(sys.argv[1]))
    except (ValueError, OSError) as error:
        sys.exit(f"difftrack: {error}")

"""The sections of params.yaml, and a whole file of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from difftrack.annotation import AnnotateParams
from difftrack.backbones import ModelParams
from difftrack.configuration._names import check_names
from difftrack.correspondence import MatchSection
from difftrack.evaluation import TrackSection
from difftrack.extraction import ExtractParams
from difftrack.guidance import GuideParams
from difftrack.metrics import ScoreSection
from difftrack.ownership import check_folders
from difftrack.params import ParamsError, parse, read_params
from difftrack.reports import ReportParams
from difftrack.survey import SurveySection
from difftrack.synthesis import SynthesizeSection

__all__ = ["ArtifactPaths", "Configuration", "configuration_from", "read_configuration"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArtifactPaths:
    """`paths`: where each stage writes."""

    clips: str = "data/clips"
    """Clips, a folder each."""
    tracks: str = "data/tracks"
    """Tracks of the clips, and which of them are visible where."""
    descriptors: str = "data/descriptors"
    """Stores of descriptors, by backbone and view."""
    matches: str = "data/matches"
    """Matches and attention of the analysis view, by backbone."""
    survey: str = "data/survey"
    """Matches of the whole map of steps and layers, by backbone."""
    scores: str = "data/scores"
    """Scores of every step, layer and head, by backbone."""
    predictions: str = "data/predictions"
    """Predicted tracks and their metrics, by backbone."""
    samples: str = "data/samples"
    """Videos with and without guidance."""
    report: str = "data/report"
    """The page, its figures and its videos."""
    sweeps: str = "data/sweeps"
    """Tables of `difftrack sweep`, and the cells that they were read from."""
    kept: str = "data/kept"
    """What is not asked for any more, until `difftrack gc` or a budget removes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """All of params.yaml; a section that a file leaves out has its defaults, or is None where it has none."""

    paths: ArtifactPaths = field(default_factory=ArtifactPaths)
    """Where each stage writes."""
    backbones: Mapping[str, ModelParams | None] = field(default_factory=dict)
    """By a name of the user's own with a path or a checkpoint, or by one that `difftrack models` lists."""
    synthesize: SynthesizeSection | None = None
    """Where clips come from."""
    annotate: AnnotateParams = field(default_factory=AnnotateParams)
    """Which tracker gives the (pseudo) ground truth."""
    extract: ExtractParams | None = None
    """What the backbones are run on, and what is kept of them."""
    survey: SurveySection = field(default_factory=SurveySection)
    """The whole map of steps and layers, matched on the way; opt-in."""
    match: MatchSection = field(default_factory=MatchSection)
    """How descriptors become matches."""
    score: ScoreSection = field(default_factory=ScoreSection)
    """How matches become scores."""
    track: TrackSection = field(default_factory=TrackSection)
    """How descriptors become tracks, and how these are evaluated."""
    guide: GuideParams | None = None
    """What is sampled with guidance, and how."""
    report: ReportParams = field(default_factory=ReportParams)
    """What the report shows."""


def read_configuration(path: Path, *, name: str | None = None) -> Configuration:
    """Read a params file as all stages would.

    Args:
        path: The file.
        name: What messages call it; its path by default.

    Raises:
        ParamsError: a section, a key or a value that no stage can use.
        ValueError: the file is not YAML, or no mapping.
        OSError: it cannot be read.
    """
    return configuration_from(read_params(path), file=name or path)


def configuration_from(params: Mapping[str, object], *, file: Path | str) -> Configuration:
    """Parse all sections of a params file.

    Args:
        params: The sections, as YAML has them.
        file: What messages call them.

    Raises:
        ParamsError: a section, a key or a value that no stage can use.
        OwnershipError: a folder in `paths` that is not the pipeline's alone.
    """
    if "backbones" in params and not params["backbones"]:
        raise ParamsError(f"{file}: backbones names none; wanted: at least one")
    check_names(params, file=file)
    check_folders(params, Path.cwd())
    for section in fields(Configuration):
        if params.get(section.name, ...) is None:  # unlike one that is not there
            raise ParamsError(f"{file}: {section.name} is None; a mapping is wanted")
    return parse(Configuration, params, "", file=file)

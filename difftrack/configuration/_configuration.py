"""The sections of params.yaml and the whole file."""

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
    """Section `paths`: where each stage writes."""

    clips: str = "data/clips"
    """Clips, one folder each."""
    tracks: str = "data/tracks"
    """Tracks of the clips, with visibility."""
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
    """The report's page, figures and videos."""
    sweeps: str = "data/sweeps"
    """Tables of `difftrack sweep`, and the results of their cells."""
    kept: str = "data/kept"
    """Unused artifacts, until `difftrack gc` or a budget removes them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Configuration:
    """The whole params.yaml; a missing section has its defaults, or is None if it has none."""

    paths: ArtifactPaths = field(default_factory=ArtifactPaths)
    """Where each stage writes."""
    backbones: Mapping[str, ModelParams | None] = field(default_factory=dict)
    """Backbones, named by the user with a path or a checkpoint, or by a name that `difftrack models` lists."""
    synthesize: SynthesizeSection | None = None
    """Sources of clips."""
    annotate: AnnotateParams = field(default_factory=AnnotateParams)
    """The tracker that produces the (pseudo) ground truth."""
    extract: ExtractParams | None = None
    """Inputs of the backbones, and the descriptors to store."""
    survey: SurveySection = field(default_factory=SurveySection)
    """Matches over the whole map of steps and layers, without storing descriptors; opt-in."""
    match: MatchSection = field(default_factory=MatchSection)
    """How descriptors are matched."""
    score: ScoreSection = field(default_factory=ScoreSection)
    """How matches are scored."""
    track: TrackSection = field(default_factory=TrackSection)
    """How tracks are computed from descriptors, and how they are evaluated."""
    guide: GuideParams | None = None
    """Videos sampled with guidance."""
    report: ReportParams = field(default_factory=ReportParams)
    """Contents of the report."""


def read_configuration(path: Path, *, name: str | None = None) -> Configuration:
    """Read and validate a params file for all stages.

    Args:
        path: The file.
        name: Name of the file in messages; its path by default.

    Raises:
        ParamsError: a section, a key or a value is invalid.
        ValueError: the file is not YAML, or not a mapping.
        OSError: the file cannot be read.
    """
    return configuration_from(read_params(path), file=name or path)


def configuration_from(params: Mapping[str, object], *, file: Path | str) -> Configuration:
    """Parse all sections of a params file.

    Args:
        params: The sections, as read from YAML.
        file: Name of the file in messages.

    Raises:
        ParamsError: a section, a key or a value is invalid.
        OwnershipError: a folder in `paths` overlaps another folder or the project.
    """
    if "backbones" in params and not params["backbones"]:
        raise ParamsError(f"{file}: backbones is empty; it needs at least one backbone")
    check_names(params, file=file)
    check_folders(params, Path.cwd())
    for section in fields(Configuration):
        if params.get(section.name, ...) is None:  # a missing section has its defaults
            raise ParamsError(f"{file}: {section.name} is None; expected a mapping")
    return parse(Configuration, params, "", file=file)

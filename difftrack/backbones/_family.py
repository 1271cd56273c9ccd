"""What a family of backbones declares, in a module that is light to import: its classes and its checkpoints."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from difftrack.backbones._params import ImageCondition

__all__ = ["NO_ARGUMENTS", "Arguments", "BackboneFamily", "KnownBackbone", "PipelineOutline", "flow_levels"]

Arguments = Mapping[str, Any]
NO_ARGUMENTS: Arguments = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineOutline:
    """What a pipeline says of itself before any weight of it is loaded."""

    pipelines: tuple[str, ...]
    """Its class and those that this derives from, by name."""
    components: Mapping[str, str]
    """Name of each component -> its class."""
    configs: Mapping[str, Arguments]
    """Configs of `transformer`, `vae` and `scheduler`; a missing key has the default of the class."""
    settings: Arguments
    """Arguments of the pipeline that are not components."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBackbone:
    """One published checkpoint: classes by name, and those of their arguments that differ from the defaults.

    Layers, heads, channels and strides are not written down: they are read from the classes, built without memory
    (`constructed_backbone`).

    Source of the built-in ones: the configs of the published checkpoints and diffusers' conversion scripts; parameter
    counts agree with the published ones, see docs/backbones.md.
    """

    repository: str
    """owner/name on the hub."""
    revision: str | None = None
    """Branch of the repository that holds the pipeline folder, where that is not the main one."""
    aliases: tuple[str, ...] = ()
    """Names in the released code of DiffTrack."""
    pipeline: str
    """Class of the pipeline."""
    transformer: tuple[str, Arguments]
    """Class and constructor arguments."""
    transformer_2: tuple[str, Arguments] | None = None
    """Class and constructor arguments of a second one that takes the steps of less noise."""
    vae: tuple[str, Arguments]
    """Class and constructor arguments."""
    scheduler: tuple[str, Arguments]
    """Class and constructor arguments."""
    size: tuple[int, int, int]
    """(frames, height, width) of the clips that it is made for."""
    small: Arguments
    """Arguments of the transformer that make it small, its channels per head as they are: what `difftrack models
    --check` builds and runs."""
    encoders: Mapping[str, tuple[str, Arguments]]
    """Encoders of text and image, by component: class of transformers and arguments of its config."""
    settings: Arguments = field(default_factory=dict)
    """Arguments of the pipeline that are not components."""
    image_condition: ImageCondition = "checkpoint"
    """How an image is read, where the name says more than the checkpoint's own pipeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneFamily:
    """A family of video diffusion transformers: what an entry point of the group `difftrack.backbones` leads to.

    The class that runs them derives from `difftrack.backbones.Backbone`, whose docstring lists what it gives.

    Raises:
        ValueError: no transformer class is named, or a checkpoint has another.
    """

    name: str
    """The family's own name, such as `cogvideox`."""
    backbone: str | type[Any]
    """`module:Class` of the class that runs them, imported when a backbone is loaded; or the class itself."""
    transformers: tuple[str, ...]
    """Names of the transformer classes that it reads, as a pipeline folder's model_index.json gives them."""
    checkpoints: Mapping[str, KnownBackbone] = field(default_factory=dict)
    """Published checkpoints by the names that users write."""
    pipelines: tuple[str, ...] = ()
    """Names of the pipelines, and of what derives from them, that give a transformer the inputs that the class here
    gives it; where none is named, any pipeline counts as one. A pipeline that runs the same transformer on other inputs
    (a control video, a last frame) is refused by its name."""
    refuses: Callable[[PipelineOutline], str | None] | None = None
    """Says, from configs alone, why a pipeline of these classes cannot be run as this family runs it; None where it
    can."""
    library: str | None = None
    """Module that has the family's own classes (transformer, autoencoder, pipeline), where diffusers and transformers
    do not have them; a model_index.json may name it. It is code that the user installed: code inside a checkpoint is
    never run."""

    def __post_init__(self) -> None:
        if not self.transformers:
            raise ValueError(f"family {self.name!r} names no transformer class; expected at least one")
        for name, known in self.checkpoints.items():
            if known.transformer[0] not in self.transformers:
                raise ValueError(
                    f"checkpoint {name!r} has the transformer {known.transformer[0]}, which its family {self.name!r} "
                    f"does not name; it names {', '.join(self.transformers)}"
                )

    def problem(self, outline: PipelineOutline) -> str | None:
        """Why a pipeline with a transformer of this family is not run here; None where it is."""
        if self.pipelines and not set(self.pipelines) & set(outline.pipelines):
            return (
                f"{outline.pipelines[0]} gives {outline.components.get('transformer', 'the transformer')} other inputs "
                f"than the pipelines that are captured: {', '.join(self.pipelines)}"
            )
        return None if self.refuses is None else self.refuses(outline)


_FLOW_SOLVERS = (
    "UniPCMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "SASolverScheduler",
)
"""Solvers that can go along flow matching's levels; configs of others may hold the same words, and not heed them."""


def flow_levels(outline: PipelineOutline) -> str | None:
    """Say why a scheduler's levels are not those of flow matching, data and noise in shares of one; None where so."""
    kind, config = outline.components.get("scheduler", ""), outline.configs.get("scheduler", {})
    flow = config.get("use_flow_sigmas", False) and config.get("prediction_type") == "flow_prediction"
    if kind == "FlowMatchHeunDiscreteScheduler":
        return f"its scheduler {kind} asks the model twice a step, and a step stands for one; set another"
    if kind.startswith("FlowMatch") or (kind in _FLOW_SOLVERS and flow):
        return None
    return (
        f"its scheduler {kind} has no levels of flow matching; set one that has, such as "
        "FlowMatchEulerDiscreteScheduler, or a UniPC with use_flow_sigmas=True and prediction_type='flow_prediction'"
    )

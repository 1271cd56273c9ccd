"""Declares a family of backbones, its classes and checkpoints, in a module that is cheap to import."""

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
    """A pipeline's description of itself before its weights are loaded."""

    pipelines: tuple[str, ...]
    """Names of its class and base classes."""
    components: Mapping[str, str]
    """Name of each component -> its class."""
    configs: Mapping[str, Arguments]
    """Configs of `transformer`, `vae` and `scheduler`; missing keys take the defaults of the class."""
    settings: Arguments
    """Arguments of the pipeline that are not components."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownBackbone:
    """One published checkpoint: its classes by name, and arguments that differ from the defaults.

    Layers, heads, channels and strides are not listed: they are read from the classes, built without memory
    (`constructed_backbone`).

    Source of the built-in checkpoints: the configs of the published checkpoints and diffusers' conversion scripts;
    parameter counts agree with the published ones, see docs/backbones.md.
    """

    repository: str
    """owner/name on the hub."""
    revision: str | None = None
    """Branch of the repository that holds the pipeline folder, if not main."""
    aliases: tuple[str, ...] = ()
    """Names in the released code of DiffTrack."""
    pipeline: str
    """Class of the pipeline."""
    transformer: tuple[str, Arguments]
    """Class and constructor arguments."""
    transformer_2: tuple[str, Arguments] | None = None
    """Class and constructor arguments of a second transformer, for the steps with less noise."""
    vae: tuple[str, Arguments]
    """Class and constructor arguments."""
    scheduler: tuple[str, Arguments]
    """Class and constructor arguments."""
    size: tuple[int, int, int]
    """(frames, height, width) of the clips that it was made for."""
    small: Arguments
    """Arguments that make the transformer small with unchanged channels per head, for `difftrack models --check`."""
    encoders: Mapping[str, tuple[str, Arguments]]
    """Encoders of text and image, by component: class of transformers and arguments of its config."""
    settings: Arguments = field(default_factory=dict)
    """Arguments of the pipeline that are not components."""
    image_condition: ImageCondition = "checkpoint"
    """How an image is read, if this differs from the checkpoint's own pipeline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackboneFamily:
    """A family of video diffusion transformers; entry points of the group `difftrack.backbones` refer to one.

    The class that runs them derives from `difftrack.backbones.Backbone`, whose docstring lists its methods.

    Raises:
        ValueError: no transformer class is named, or a checkpoint has another.
    """

    name: str
    """The family's own name, such as `cogvideox`."""
    backbone: str | type[Any]
    """`module:Class` of the class that runs them, imported when a backbone is loaded; or the class itself."""
    transformers: tuple[str, ...]
    """Names of its transformer classes, as in a pipeline folder's model_index.json."""
    checkpoints: Mapping[str, KnownBackbone] = field(default_factory=dict)
    """Published checkpoints by the names that users type."""
    pipelines: tuple[str, ...] = ()
    """Names of pipelines that pass a transformer the same inputs as the class here; subclasses count, and an empty list
    accepts any pipeline. A pipeline that runs the same transformer on other inputs (a control video, a last frame) is
    refused by name.
    """
    refuses: Callable[[PipelineOutline], str | None] | None = None
    """Returns, from configs alone, why this family cannot run a pipeline of these classes; None if it can."""
    library: str | None = None
    """Module with the family's own classes (transformer, autoencoder, pipeline), if diffusers and transformers lack
    them; a model_index.json may name it. The user must install it: code inside a checkpoint is never run.
    """

    def __post_init__(self) -> None:
        if not self.transformers:
            raise ValueError(f"family {self.name!r} names no transformer class; expected at least one")
        for name, known in self.checkpoints.items():
            if known.transformer[0] not in self.transformers:
                raise ValueError(
                    f"checkpoint {name!r} has the transformer {known.transformer[0]}, which its family {self.name!r} "
                    f"does not list; it lists {', '.join(self.transformers)}"
                )

    def problem(self, outline: PipelineOutline) -> str | None:
        """Return why a pipeline with a transformer of this family cannot be run; None if it can."""
        if self.pipelines and not set(self.pipelines) & set(outline.pipelines):
            return (
                f"{outline.pipelines[0]} passes {outline.components.get('transformer', 'the transformer')} other "
                f"inputs than the supported pipelines: {', '.join(self.pipelines)}"
            )
        return None if self.refuses is None else self.refuses(outline)


_FLOW_SOLVERS = (
    "UniPCMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "DEISMultistepScheduler",
    "SASolverScheduler",
)
"""Solvers that support flow matching's levels; other configs may have the same entries but ignore them."""


def flow_levels(outline: PipelineOutline) -> str | None:
    """Return why a scheduler's levels are not flow matching's, where shares of data and noise sum to 1; else None."""
    kind, config = outline.components.get("scheduler", ""), outline.configs.get("scheduler", {})
    flow = config.get("use_flow_sigmas", False) and config.get("prediction_type") == "flow_prediction"
    if kind == "FlowMatchHeunDiscreteScheduler":
        return f"its scheduler {kind} runs the model twice per step, but only once is supported; set another"
    if kind.startswith("FlowMatch") or (kind in _FLOW_SOLVERS and flow):
        return None
    return (
        f"its scheduler {kind} has no flow-matching levels; set one that has them, such as "
        "FlowMatchEulerDiscreteScheduler, or a UniPC with use_flow_sigmas=True and prediction_type='flow_prediction'"
    )

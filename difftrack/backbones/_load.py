"""Loads a backbone by name."""

import importlib
import inspect
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from difftrack.backbones._backbone import Backbone
from difftrack.backbones._components import Components, FolderComponents
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._family import BackboneFamily, KnownBackbone
from difftrack.backbones._folder import PipelineFolder, find_folder
from difftrack.backbones._memory import WORK, Work, card_bytes, fitted
from difftrack.backbones._names import ALIASES, CHECKPOINTS, SHIPPED
from difftrack.backbones._params import ModelParams
from difftrack.backbones._refused import REFUSED
from difftrack.backbones._registry import FAMILIES, KNOWN, families, family_of
from difftrack.plugins import one_line

__all__ = ["backbone_of", "check_family", "load_backbone"]


_USUAL_SIZE = (49, 480, 720)
"""Default (frames, height, width) of clips if neither the caller nor a table gives a size."""
_SHIPPED_CLIPS = (17, 128, 192)
"""(frames, height, width) of the clips that the shipped backbone was trained on; see its card."""


def load_backbone(
    name: str,
    params: ModelParams | None = None,
    *,
    size: tuple[int | None, int, int] | None = None,
    works: Collection[Work] = WORK,
) -> Backbone:
    """Find a backbone; its components load when first used.

    Args:
        name: A known name, an alias of the released code, `path:DIR`, or any label if `params.path` or
            `params.checkpoint` is set.
        params: How to load it.
        size: (frames, height, width) of the clips, for `memory: auto`; missing values are those of the backbone's own
            clips.
        works: Work to do, for `memory: auto`.

    Raises:
        BackboneError: the name is unknown, its weights are missing, incomplete or pickled, or no family supports its
            transformer class.
    """
    params = params or ModelParams()
    if (known := _known(name, params)) is not None:
        if params.image_condition == "checkpoint":
            params = replace(params, image_condition=known.image_condition)
        if params.path is None and params.revision is None and params.checkpoint in (None, known.repository):
            params = replace(params, revision=known.revision)
    folder = find_folder(name, params)
    backbone = _of_folder(name, folder, params)
    card = card_bytes(backbone.device) if params.memory == "auto" else None
    if card is None:
        return backbone
    frames, height, width = backbone.made_for or _USUAL_SIZE
    if size is not None:
        frames, height, width = size[0] or frames, *size[1:]
    asked, said = fitted(backbone, folder, card, (frames, height, width), works)
    chosen = _of_folder(name, folder, asked)
    chosen.remarks = (said,)
    return chosen


def _of_folder(name: str, folder: PipelineFolder, params: ModelParams) -> Backbone:
    components = FolderComponents(folder, params)
    _ = components.pipeline_class  # refuses an unknown pipeline class before anything is loaded
    return backbone_of(name, folder.class_name("transformer"), components, params)


def _known(name: str, params: ModelParams) -> KnownBackbone | None:
    """Resolve a name, or the checkpoint that was set for a label."""
    name = ALIASES.get(name, name)
    named = {checkpoint: known for known, checkpoint in CHECKPOINTS.items()}
    return KNOWN.get(name) or KNOWN.get(named.get(params.checkpoint or "", ""))


def check_family(name: str, transformer_class: str) -> BackboneFamily:
    """Return the family that supports a transformer class; `name` is for the message.

    Raises:
        BackboneError: no family supports the class.
    """
    if (family := family_of(transformer_class)) is None:
        if (reason := REFUSED.get(transformer_class)) is not None:
            raise BackboneError(f"{name}: {transformer_class} is not captured: {reason}")
        known_classes = sorted(name for family in families().values() for name in family.transformers)
        problems = "".join(f"; {line}" for line in FAMILIES.problems())
        raise BackboneError(
            f"{name}: no family supports {transformer_class}; known: {', '.join(known_classes)}{problems}"
        )
    return family


def backbone_of(name: str, transformer_class: str, components: Components, params: ModelParams) -> Backbone:
    """Create the backbone of the family that supports a transformer class.

    Args:
        name: Name for messages.
        transformer_class: Class of diffusers.
        components: Components of the pipeline.
        params: How to load it.

    Raises:
        BackboneError: no family supports the class, or the family does not support this pipeline.
    """
    family = check_family(name, transformer_class)
    outline = components.pipeline_outline()
    if outline is not None and (problem := family.problem(outline)):
        raise BackboneError(f"{name}: {outline.pipelines[0]} cannot be captured: {problem}")
    backbone: Backbone = _class_of(family)(name, components, params)
    backbone.library = family.library
    if params.compile and components.device.type != "meta":
        components.prepare = backbone.compile_layers
    if name == SHIPPED:
        backbone.made_for = _SHIPPED_CLIPS
        return backbone
    known = KNOWN.get(ALIASES.get(name, name))
    if known is None:
        transformer = components.outline("transformer")
        known = most_alike(family, type(transformer), transformer.config)
    backbone.made_for = known.size if known is not None else None
    return backbone


def most_alike(family: BackboneFamily, transformer: type[Any], config: Mapping[str, object]) -> KnownBackbone | None:
    """Return the published checkpoint whose transformer has a config, or the family's first one of the class.

    A checkpoint without a name is taken to be trained on clips of that checkpoint's size.

    Args:
        family: The family of the transformer's class.
        transformer: Class of diffusers.
        config: Config of the transformer. Only values that tell published checkpoints apart are compared.
    """
    alike = [known for known in family.checkpoints.values() if known.transformer[0] == transformer.__name__]
    defaults = {name: value.default for name, value in inspect.signature(transformer).parameters.items()}
    telling = {name for known in alike for name in known.transformer[1]}

    def agrees(known: KnownBackbone) -> bool:
        its = defaults | dict(known.transformer[1])
        return all(_plain(config.get(name, defaults.get(name))) == _plain(its.get(name)) for name in telling)

    return next((known for known in alike if agrees(known)), next(iter(alike), None))


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _class_of(family: BackboneFamily) -> Any:  # noqa: ANN401
    """Import the class that runs a family; only now, because diffusers imports slowly."""
    if not isinstance(family.backbone, str):
        found: Any = family.backbone
    else:
        module, _, name = family.backbone.partition(":")
        try:
            found = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise BackboneError(
                f"family {family.name} from {FAMILIES.giver(family.name)}: {family.backbone} cannot be loaded "
                f"({one_line(error)})"
            ) from error
    if not (isinstance(found, type) and issubclass(found, Backbone)):
        raise BackboneError(f"family {family.name}: {found!r} does not derive from difftrack.backbones.Backbone")
    return found

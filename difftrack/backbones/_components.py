"""The parts of a pipeline, loaded and placed when first used."""

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import nn

from difftrack.backbones import _pipelines
from difftrack.backbones._errors import BackboneError
from difftrack.backbones._family import PipelineOutline
from difftrack.backbones._folder import PipelineFolder
from difftrack.backbones._loaded import scheduler_state, state_of
from difftrack.backbones._memory_switches import refuse_offload
from difftrack.backbones._params import ModelParams
from difftrack.backbones._registry import find_class
from difftrack.backbones._weights import refuse_not_finite

__all__ = ["Components", "FolderComponents", "ancestry"]

_TEXT = ("text_encoder", "tokenizer")
_TOO_LONG = "sequence-length-is-longer-than-the-specified-maximum"
"""Flag that a tokenizer has already warned of indexing errors, which cannot occur with cut prompts."""


class Components(ABC):
    """The components of one pipeline, each created at its first use.

    Args:
        pipeline_name: Class of the pipeline, stock or ours.
        settings: Arguments of the pipeline that are not components.
        params: Device and dtype of components.
    """

    def __init__(self, pipeline_name: str, settings: Mapping[str, Any], params: ModelParams) -> None:
        self.pipeline_name = pipeline_name
        self.settings = settings
        self.device = params.torch_device()
        self.dtype = params.torch_dtype()
        self._params = params
        self._loaded: dict[str, Any] = {}
        self._as_loaded: dict[str, str] = {}
        self._outlines: dict[str, Any] = {}
        self.prepare: Callable[[nn.Module], None] | None = None
        """Called with each transformer once it is loaded."""

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]:
        """Names of the components."""

    @property
    @abstractmethod
    def revision(self) -> str | None:
        """Commit of the checkpoint; None where there is none."""

    @property
    def folder(self) -> Path | None:
        """Folder that the pipeline was loaded from; None where there is none."""
        return None

    @abstractmethod
    def fingerprint(self) -> str:
        """Hash that changes whenever a config or a weight does."""

    def alterations(self) -> tuple[str, ...]:
        """Changes to the loaded pipeline, for users to read; empty if this project loads it."""
        return ()

    def pipeline_outline(self) -> PipelineOutline | None:
        """The pipeline's own description, without loading; None if it is built from a known description."""
        return None

    def classes(self) -> tuple[type[Any], ...]:
        """Classes of transformer, autoencoder and pipeline, and of all components if that needs no loading."""
        return (type(self.outline("transformer")), type(self.outline("vae")), self.pipeline_class)

    @abstractmethod
    def _make(self, component: str) -> Any:  # noqa: ANN401
        """A component on its device, ready to use."""

    def __getitem__(self, component: str) -> Any:  # noqa: ANN401
        if component not in self._loaded:
            self._hold(component, self._prepared(component, self._make(component)))
        return self._loaded[component]

    def _prepared(self, name: str, component: Any) -> Any:  # noqa: ANN401
        if self.prepare is not None and name.startswith("transformer"):
            self.prepare(component)
        return component

    def _hold(self, name: str, component: Any) -> None:  # noqa: ANN401
        if isinstance(said := getattr(component, "deprecation_warnings", None), dict):
            said[_TOO_LONG] = True  # prompts are cut, and `warn_where_cut` names the removed words
        self._loaded[name] = component
        self._as_loaded[name] = state_of(component)

    def in_memory(self) -> dict[str, Any]:
        """The state in memory, as JSON: the scheduler, and a digest of each component that was changed after loading.

        Components that are not loaded yet come from the files, which the fingerprint covers.
        """
        scheduler = Components.__getitem__(self, "scheduler")  # loaded alone, while other components wait for the GPU
        models = {name: held for name, held in self._loaded.items() if name != "scheduler"}
        states = {name: state_of(held) for name, held in sorted(models.items())}
        changed = {name: state for name, state in states.items() if state != self._as_loaded.get(name)}
        return {"scheduler": scheduler_state(scheduler), **changed}

    def config_of(self, component: str) -> Mapping[str, Any]:
        """The config of an encoder; nothing is loaded for it where that can be had otherwise."""
        return dict(self[component].config.to_dict())

    @abstractmethod
    def _make_outline(self, component: str) -> Any:  # noqa: ANN401
        """Create a model of a component's class and config on the device meta."""

    def outline(self, component: str) -> Any:  # noqa: ANN401
        """A model to inspect, not to run: the component if it is loaded, else one without memory."""
        if component in self._loaded:
            return self._loaded[component]
        if component not in self._outlines:
            self._outlines[component] = self._make_outline(component)
        return self._outlines[component]

    def scheduler(self, **changes: Any) -> Any:  # noqa: ANN401
        """Create a new scheduler of the checkpoint's class and config, with some values changed; the caller owns it."""
        shipped = self["scheduler"]
        return type(shipped).from_config(shipped.config, **changes)

    def pipeline(self, *, scheduler: Any, kind: Any = None, **others: Any) -> Any:  # noqa: ANN401
        """The pipeline over all components but the text encoders; prompts must reach it embedded.

        Args:
            scheduler: Scheduler for sampling.
            kind: Class of the pipeline, if not the checkpoint's own.
            others: Further components, which are not in the folder.
        """
        held = [name for name in self.names if not name.startswith(_TEXT)]
        return self._pipeline(held, kind=kind or self.pipeline_class, scheduler=scheduler, **others)

    def text_pipeline(self, *also: str, kind: Any = None) -> Any:  # noqa: ANN401
        """The pipeline over the text encoders alone, to embed prompts while nothing else is in memory.

        Args:
            also: Further models that this pipeline's constructor inspects; outlines are enough.
            kind: Class of the pipeline, if not the checkpoint's own.
        """
        held = [name for name in self.names if name.startswith(_TEXT)]
        return self._pipeline(held, also, scheduler=self["scheduler"], kind=kind or self.pipeline_class)

    def outlined_pipeline(self, *names: str) -> Any:  # noqa: ANN401
        """The pipeline over outlines of these components, for inspection."""
        return self._pipeline((), names, scheduler=self["scheduler"], kind=self.pipeline_class)

    def _pipeline(
        self,
        held: Sequence[str],
        outlined: Sequence[str] = (),
        *,
        kind: Any,  # noqa: ANN401
        **made: Any,  # noqa: ANN401
    ) -> Any:  # noqa: ANN401
        taken = inspect.signature(kind.__init__).parameters
        given = {name: self[name] for name in held} | {name: self.outline(name) for name in outlined}
        given |= made | dict(self.settings)
        absent = dict.fromkeys(set(taken) - {"self", *given})
        optional = {name for name, parameter in taken.items() if parameter.default is not inspect.Parameter.empty}
        arguments = {name: value for name, value in (given | absent).items() if name in taken}
        pipeline = kind(**{name: value for name, value in arguments.items() if name in given or name not in optional})
        pipeline.set_progress_bar_config(disable=not sys.stderr.isatty())
        return pipeline

    def release_text(self) -> None:
        """Release the text encoders, if the params say so."""
        if self._params.release_text_encoder:
            self._loaded = {name: value for name, value in self._loaded.items() if not name.startswith(_TEXT)}

    @property
    def pipeline_class(self) -> Any:  # noqa: ANN401
        """The pipeline's class: ours, where the name is one of ours, else diffusers'."""
        if (own := getattr(_pipelines, self.pipeline_name, None)) is not None:
            return own
        try:
            return find_class(self.pipeline_name)
        except BackboneError as error:
            raise BackboneError(
                f"model_index.json names the pipeline {self.pipeline_name}, which diffusers {diffusers.__version__} "
                f"does not have ({error}); code inside a checkpoint is not run"
            ) from error


def ancestry(kind: type[Any]) -> tuple[str, ...]:
    """List the names of a class and its base classes, the nearest first."""
    return tuple(each.__name__ for each in kind.__mro__ if each is not object)


class FolderComponents(Components):
    """The components of a pipeline folder."""

    def __init__(self, folder: PipelineFolder, params: ModelParams) -> None:
        super().__init__(folder.pipeline_class, folder.settings, params)
        self._folder = folder
        self._offloading: Any = None

    @property
    def names(self) -> tuple[str, ...]:
        return self._folder.components

    @property
    def revision(self) -> str | None:
        return self._folder.revision

    @property
    def folder(self) -> Path:
        return self._folder.path

    def fingerprint(self) -> str:
        return self._folder.fingerprint()

    def pipeline_outline(self) -> PipelineOutline:
        held = [name for name in ("transformer", "vae", "scheduler") if name in self.names]
        return PipelineOutline(
            pipelines=ancestry(self.pipeline_class),
            components={name: self._folder.class_name(name) for name in self.names},
            configs={name: self._folder.config(name) for name in held},
            settings=self.settings,
        )

    def classes(self) -> tuple[type[Any], ...]:
        return (*map(self._folder.component_class, self.names), self.pipeline_class)

    def __getitem__(self, component: str) -> Any:  # noqa: ANN401
        if self._params.cpu_offload and self._offloading is None:
            self._load_all_offloaded()
        if self._offloading is not None and component.startswith(_TEXT):
            self._send_away()
        return super().__getitem__(component)

    def release_text(self) -> None:
        """As `Components.release_text`; offloaded text encoders only leave the GPU."""
        if self._offloading is None:
            super().release_text()
            self._move_others(self.device)
        else:  # else it would stay on the GPU with the autoencoder, whose hook does not know it
            self._send_away()

    def _make(self, component: str) -> Any:  # noqa: ANN401
        if component.startswith("text_encoder"):
            self._move_others(torch.device("cpu"))
        return self._load(component, self.device)

    def _make_outline(self, component: str) -> Any:  # noqa: ANN401
        return self._folder.outline(component)

    def config_of(self, component: str) -> Mapping[str, Any]:
        return self._folder.config(component)

    def _move_others(self, device: torch.device) -> None:
        """Offload the other components for a text encoder, and restore them after its release."""
        if self._params.release_text_encoder and self.device.type != "cpu":
            for name, loaded in self._loaded.items():
                if isinstance(loaded, nn.Module) and not name.startswith(_TEXT):
                    loaded.to(device)

    def _load(self, component: str, device: torch.device) -> Any:  # noqa: ANN401
        quantization = self._params.text_encoder_quantization if component.startswith("text_encoder") else "none"
        loaded = self._folder.load(component, dtype=self.dtype, quantization=quantization, device=self.device)
        if isinstance(loaded, nn.Module):
            loaded = loaded.requires_grad_(requires_grad=False)
            loaded = loaded if quantization != "none" else loaded.to(device)
            refuse_not_finite(self._folder.path / component, loaded)
        if component == "vae" and self._params.vae_tiling:
            loaded.enable_tiling()
        if component == "vae" and self._params.vae_slicing:
            loaded.enable_slicing()
        return loaded

    def _load_all_offloaded(self) -> None:
        refuse_offload(self.device)
        self._loaded.clear()
        for name in self.names:
            self._hold(name, self._prepared(name, self._load(name, torch.device("cpu"))))
        self._offloading = self.pipeline_class(**self._loaded, **self.settings)
        self._offloading.enable_model_cpu_offload(device=self.device)

    def _send_away(self) -> None:
        """Move every component to the CPU: a text encoder's own hook does not know that the transformer ran before."""
        for hook in self._offloading._all_hooks:
            hook.offload()

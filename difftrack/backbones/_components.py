"""The parts of a pipeline, loaded and placed when first used."""

import importlib.util
import sys
from typing import Any

import diffusers
import torch
from torch import nn

from difftrack.backbones._errors import BackboneError
from difftrack.backbones._folder import PipelineFolder
from difftrack.backbones._params import ModelParams

__all__ = ["Components"]

_TEXT = ("text_encoder", "tokenizer")


class Components:
    """The components of one pipeline folder, each loaded at its first use."""

    def __init__(self, folder: PipelineFolder, params: ModelParams) -> None:
        self.folder = folder
        self.device = params.torch_device()
        self.dtype = params.torch_dtype()
        self._params = params
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, component: str) -> Any:  # noqa: ANN401
        if component not in self._loaded:
            if self._params.cpu_offload:
                self._load_all_offloaded()
            else:
                self._loaded[component] = self._load(component, self.device)
        return self._loaded[component]

    def scheduler(self, **changes: Any) -> Any:  # noqa: ANN401
        """A scheduler of the checkpoint's class and config, some of it changed, nobody's but the caller's."""
        shipped = self["scheduler"]
        return type(shipped).from_config(shipped.config, **changes)

    def pipeline(self, *, scheduler: Any, with_text: bool) -> Any:  # noqa: ANN401
        """The stock pipeline over the components.

        Args:
            scheduler: To sample with.
            with_text: With text encoders; without, prompts must reach the pipeline embedded.
        """
        components = {
            name: self[name] if with_text or not name.startswith(_TEXT) else None
            for name in self.folder.components
            if name != "scheduler"
        }
        pipeline = self.pipeline_class(scheduler=scheduler, **components, **self.folder.settings)
        pipeline.set_progress_bar_config(disable=not sys.stderr.isatty())
        return pipeline

    def release_text(self) -> None:
        """Forget the text encoders, if the params want that."""
        if self._params.release_text_encoder:
            self._loaded = {name: value for name, value in self._loaded.items() if not name.startswith(_TEXT)}

    def text_pipeline(self) -> Any:  # noqa: ANN401
        """The stock pipeline with its text encoders, to embed prompts."""
        return self.pipeline(scheduler=self["scheduler"], with_text=True)

    @property
    def pipeline_class(self) -> Any:  # noqa: ANN401
        """The stock pipeline's class."""
        return getattr(diffusers, self.folder.pipeline_class)

    def _load(self, component: str, device: torch.device) -> Any:  # noqa: ANN401
        loaded = self.folder.load(component, dtype=self.dtype)
        if isinstance(loaded, nn.Module):
            loaded = loaded.requires_grad_(requires_grad=False).to(device)
        if component == "vae" and self._params.vae_tiling:
            loaded.enable_tiling()
        if component == "vae" and self._params.vae_slicing:
            loaded.enable_slicing()
        return loaded

    def _load_all_offloaded(self) -> None:
        if importlib.util.find_spec("accelerate") is None or self.device.type == "cpu":
            raise BackboneError(
                f"cpu_offload is set and the device is {self.device}; it needs a GPU and the package accelerate"
            )
        self._loaded = {name: self._load(name, torch.device("cpu")) for name in self.folder.components}
        pipeline = self.pipeline_class(**self._loaded, **self.folder.settings)
        pipeline.enable_model_cpu_offload(device=self.device)

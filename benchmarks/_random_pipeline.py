"""Pipelines of published shapes with random weights, drawn in memory: nothing is written to a disk.

They go through the code that loads a folder, with all its switches. Only the prompt's tokens are made up; the text
encoders have run once on arbitrary tokens before.
"""

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import T5Tokenizer

from difftrack.backbones import KNOWN, Backbone, KnownBackbone, ModelParams, PromptEmbedding
from difftrack.backbones._components import FolderComponents
from difftrack.backbones._folder import PipelineFolder, cast_weights, values_not_drawn
from difftrack.backbones._load import backbone_of
from difftrack.backbones._params import Quantization
from difftrack.backbones._random_init import fill_weights, weights_without_memory
from difftrack.backbones._registry import find_class

__all__ = ["MODELS", "random_backbone", "weights_of"]

MODELS = ("cogvideox-2b", "cogvideox-5b", "wan2.1-1.3b", "hunyuan-video")
"""Backbones with small versions of all components in this file."""

_CPU = torch.device("cpu")
_TOKENIZER = ("transformers", "T5Tokenizer")
"""Any tokenizer works: nothing is tokenized."""
_NARROW = {"block_out_channels": (8, 8, 8, 8), "layers_per_block": 1, "norm_num_groups": 2}
_SMALL: Mapping[str, Mapping[str, Any]] = {
    "AutoencoderKLCogVideoX": _NARROW,
    "AutoencoderKLHunyuanVideo": _NARROW,
    "AutoencoderKLWan": {"base_dim": 8, "num_res_blocks": 1},
    "T5EncoderModel": {"d_model": 32, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 64},
    "UMT5EncoderModel": {"d_model": 32, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 64},
    "LlamaModel": {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
    "CLIPTextModel": {
        "hidden_size": 32,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": 64,
    },
}


class _RandomFolder(PipelineFolder):
    """A stand-in for a pipeline folder; its components are drawn at random when they are loaded."""

    def __init__(self, known: KnownBackbone, *, tiny: bool, draw_on: torch.device) -> None:
        self.path = Path("random")
        self.revision = None
        self.pipeline_class = known.pipeline
        self.settings = dict(known.settings)
        self._known = known
        self._draw_on = draw_on
        self._made_of = {
            "transformer": known.transformer,
            **({} if known.transformer_2 is None else {"transformer_2": known.transformer_2}),
            "vae": known.vae,
            **known.encoders,
        }
        if tiny:
            small = {"transformer": known.small, "transformer_2": known.small}
            self._made_of = {
                name: (kind, {**arguments, **small.get(name, _SMALL.get(kind, {}))})
                for name, (kind, arguments) in self._made_of.items()
            }
        self._components = {
            name: ("transformers" if name in known.encoders else "diffusers", kind)
            for name, (kind, _) in self._made_of.items()
        } | {"scheduler": ("diffusers", known.scheduler[0])}
        arguments = inspect.signature(find_class(known.pipeline).__init__).parameters
        self._components |= {name: _TOKENIZER for name in arguments if name.startswith("tokenizer")}
        self._outlines: dict[str, Any] = {}

    def load(
        self, component: str, *, dtype: torch.dtype, quantization: Quantization = "none", device: torch.device = _CPU
    ) -> Any:  # noqa: ANN401
        if component == "scheduler":
            kind, arguments = self._known.scheduler
            return find_class(kind)(**arguments)
        if component.startswith("tokenizer"):
            return T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)], extra_ids=0)
        return fill_weights(self._model(component, self._draw_on, dtype), self._draw_on, seed=0)

    def outline(self, component: str) -> Any:  # noqa: ANN401
        if component not in self._outlines:
            self._outlines[component] = self._model(component, torch.device("meta"), torch.bfloat16)
        return self._outlines[component]

    def num_values(self) -> dict[str, int]:
        return {name: sum(weight.numel() for weight in self.outline(name).parameters()) for name in self._made_of}

    def config(self, component: str) -> Mapping[str, Any]:
        if component == "scheduler":
            return self._known.scheduler[1]
        return dict(getattr(self.outline(component), "config", {}))

    def fingerprint(self) -> str:
        return f"random weights of {self._made_of}"

    def _model(self, component: str, device: torch.device, dtype: torch.dtype) -> Any:  # noqa: ANN401
        class_name, arguments = self._made_of[component]
        kind = find_class(class_name)
        of_transformers = component in self._known.encoders
        with torch.device(device), weights_without_memory(), values_not_drawn():
            model = (kind(kind.config_class(**arguments)) if of_transformers else kind(**arguments)).eval()
        return model.to(dtype) if of_transformers else cast_weights(model, dtype)


class _UnhashedComponents(FolderComponents):
    """Skip the digest of what was loaded, which random weights do not need."""

    @property
    def folder(self) -> PipelineFolder:
        return self._folder

    def _hold(self, name: str, component: Any) -> None:  # noqa: ANN401
        self._loaded[name] = component


def random_backbone(name: str, params: ModelParams, *, tiny: bool = False) -> Backbone:
    """A backbone that can do everything, on random weights.

    Args:
        name: Of `MODELS`.
        params: How it is loaded, its switches included.
        tiny: With few layers and channels, to be run anywhere.
    """
    known = KNOWN[name]
    folder = _RandomFolder(known, tiny=tiny, draw_on=params.torch_device())
    backbone = backbone_of(name, known.transformer[0], _UnhashedComponents(folder, params), params)
    encoders = tuple(component for component in known.encoders if component.startswith("text_encoder"))

    @torch.no_grad()
    def embed(prompt: str) -> PromptEmbedding:
        for component in encoders:
            encoder: nn.Module = backbone.components[component]
            config = getattr(encoder, "config", None)
            limit = int(getattr(config, "max_position_embeddings", backbone.text_length))
            ids = torch.ones((1, min(backbone.text_length, limit)), dtype=torch.long, device=backbone.device)
            encoder(input_ids=ids)
        backbone.components.release_text()
        return backbone.placeholder_prompt()

    vars(backbone)["embed"] = embed
    return backbone


def weights_of(backbone: Backbone) -> dict[str, int]:
    """Count the weights of each component of a random backbone."""
    components = backbone.components
    assert isinstance(components, _UnhashedComponents)
    return components.folder.num_values()

"""Reads a diffusers pipeline folder: its contents, their completeness, and its components one by one."""

import hashlib
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from difftrack.backbones._errors import BackboneError
from difftrack.backbones._file_digests import file_digest
from difftrack.backbones._memory_switches import installed, quantized_loading
from difftrack.backbones._names import CHECKPOINTS, SHIPPED, canonical_name, shipped_backbone
from difftrack.backbones._params import ModelParams, Quantization
from difftrack.backbones._registry import class_in, is_pipeline_module, libraries
from difftrack.backbones._weights import (
    WeightFiles,
    check_config,
    one_line,
    quantized_by,
    refuse_partial,
    refuse_quantized,
    weight_files,
)
from difftrack.documents import DocumentError, read_json

__all__ = ["PipelineFolder", "cast_weights", "find_folder", "values_not_drawn"]

_CPU = torch.device("cpu")
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_MADE_BY_THE_PIPELINE = ("safety_checker",)
"""Components that a pipeline creates itself and that are never in a folder, even if its index lists them."""
_WAY_OF_ADAPTERS = "load it into a diffusers pipeline (load_lora_weights) and wrap that pipeline"
_FINGERPRINTED = (".json", ".safetensors", ".model", ".txt")
_WANTED_FILES = [f"**/*{suffix}" for suffix in _FINGERPRINTED] + ["*.json"]


class PipelineFolder:
    """A pipeline folder, without loaded components.

    Attributes:
        path: The folder.
        revision: Commit of the checkpoint that it is a snapshot of; None for a local folder.
        pipeline_class: The stock pipeline's name.
        settings: Arguments of the pipeline that are not components.

    Raises:
        BackboneError: it is not a pipeline folder, a component's weights are missing, or they are pickles.
    """

    def __init__(self, path: Path, *, revision: str | None = None) -> None:
        self.path = path
        self.revision = revision
        index_file = path / "model_index.json"
        if not index_file.is_file():
            raise BackboneError(
                f"{path} is not a diffusers pipeline folder: model_index.json is missing; {_ways_out()}"
            )
        index = _read_index(index_file)
        self.pipeline_class: str = index["_class_name"]
        self._components: dict[str, tuple[str, str]] = {
            name: (entry[0], entry[1])
            for name, entry in index.items()
            if isinstance(entry, list) and entry[:1] != [None] and name not in _MADE_BY_THE_PIPELINE
        }
        self.settings: dict[str, Any] = {
            name: value for name, value in index.items() if not isinstance(value, list) and not name.startswith("_")
        }
        self._outlines: dict[str, Any] = {}
        self._refuse_foreign_code()
        for name in self._components:
            self._refuse_incomplete(name)

    def class_name(self, component: str) -> str:
        """Return the name of a component's class.

        Raises:
            BackboneError: the pipeline has no such component.
        """
        if component not in self._components:
            raise BackboneError(
                f"{self.path}: {self.pipeline_class} has no {component}; it has {', '.join(sorted(self._components))}"
            )
        return self._components[component][1]

    @property
    def components(self) -> tuple[str, ...]:
        """Names of the components."""
        return tuple(self._components)

    def load(
        self,
        component: str,
        *,
        dtype: torch.dtype,
        quantization: Quantization = "none",
        device: torch.device = _CPU,
    ) -> Any:  # noqa: ANN401
        """Load one component through its own class; weights from safetensors only.

        Args:
            component: Name of the component.
            dtype: Dtype of the weights.
            quantization: Quantisation of a text encoder's weights; it then stays on `device`.
            device: Device of a quantised component.
        """
        folder = self.path / component
        with one_line(folder):
            return self._load(component, folder, dtype, quantization, device)

    def _load(
        self, component: str, folder: Path, dtype: torch.dtype, quantization: Quantization, device: torch.device
    ) -> Any:  # noqa: ANN401
        kind = self.component_class(component)
        # The Auto classes of transformers would ask in the terminal whether a folder's own code may run.
        trust = {"trust_remote_code": False} if self._components[component][0] == "transformers" else {}
        if not issubclass(kind, nn.Module):
            # Image processors of transformers have a fast variant, which needs torchvision, and one that does not.
            return (transformers.AutoImageProcessor if "ImageProcessor" in kind.__name__ else kind).from_pretrained(
                folder, **trust
            )
        files = self._weight_files(component)
        if files.adapter is not None:
            warnings.warn(f"{files.adapter} is an adapter and is not applied: {_WAY_OF_ADAPTERS}", stacklevel=2)
        with _quiet_off_terminals():
            if self._components[component][0] == "transformers":
                how: dict[str, Any] = {"dtype": dtype, **trust, **quantized_loading(quantization, device)}
            else:
                self._check_against_weights(component, files)
                how = {"torch_dtype": dtype}
            model, loading = kind.from_pretrained(
                folder, use_safetensors=True, variant=files.variant, output_loading_info=True, **how
            )
            refuse_partial(folder, loading)
            return model.eval()

    def _weight_files(self, component: str) -> WeightFiles:
        return weight_files(self.path / component, self._components[component][0])

    def num_values(self) -> dict[str, int]:
        """Weights of each component that has any, from the headers of its files."""
        models = (name for name in self._components if issubclass(self.component_class(name), nn.Module))
        return {name: self._weight_files(name).num_values for name in models}

    def _check_against_weights(self, component: str, files: WeightFiles) -> None:
        """Refuse a config whose model has more values than the files hold, before memory is allocated."""
        if quantized_by(self.config(component)) is not None:
            return  # quantised files pack several values into one number
        wanted = sum(parameter.numel() for parameter in self.outline(component).parameters())
        if wanted > files.num_values:
            raise BackboneError(
                f"{self.path / component}: config.json describes {wanted} values, but the weights hold "
                f"{files.num_values}; copy or fetch {component} again"
            )

    def config(self, component: str) -> Mapping[str, Any]:
        """Read a component's config.json; for a scheduler, scheduler_config.json."""
        name = "scheduler_config.json" if component == "scheduler" else "config.json"
        file = self.path / component / name
        with one_line(file.parent):
            content = read_json(file)
        return content if isinstance(content, dict) else {}

    def outline(self, component: str) -> Any:  # noqa: ANN401
        """A diffusers model of a component's class and config, without weights, on the device meta; created once."""
        if component not in self._outlines:
            kind = self.component_class(component)
            with torch.device("meta"), values_not_drawn():
                self._outlines[component] = kind.from_config(kind.load_config(self.path / component)).eval()
        return self._outlines[component]

    def component_class(self, component: str) -> Any:  # noqa: ANN401
        """Class of a component, imported."""
        class_name = self.class_name(component)
        return class_in(self._components[component][0], class_name)

    def fingerprint(self) -> str:
        """Hash that changes whenever a config, a tokenizer or a weight does."""
        digest = hashlib.sha256()
        if self.revision is not None:
            digest.update(f"revision {self.revision}".encode())
            return digest.hexdigest()
        for file in sorted(self._component_files(), key=lambda file: file.relative_to(self.path).as_posix()):
            digest.update(f"{file.relative_to(self.path).as_posix()} {file_digest(file)}\n".encode())
        return digest.hexdigest()

    def _component_files(self) -> Iterator[Path]:
        yield self.path / "model_index.json"
        for name in self._components:
            yield from (file for file in (self.path / name).rglob("*") if file.suffix in _FINGERPRINTED)

    def _refuse_foreign_code(self) -> None:
        for name, (library, class_name) in self._components.items():
            known = library in libraries() or is_pipeline_module(library)
            if not known or class_in(library, class_name) is None:
                raise BackboneError(
                    f"{self.path}: {name} is {library}.{class_name}, which {_none_of(libraries())} has; code inside a "
                    "checkpoint is not run"
                )

    def _refuse_incomplete(self, component: str) -> None:
        folder = self.path / component
        files = list(folder.iterdir()) if folder.is_dir() else []
        if not files:
            raise BackboneError(f"{folder} is missing or empty; {_ways_out()}")
        for file in folder.rglob("*"):
            if file.exists() and not file.is_file() and not file.is_dir():
                raise BackboneError(f"{file} is not a regular file; remove it from the folder")
        if not issubclass(self.component_class(component), nn.Module):
            return
        pickles = [file.name for file in files if file.suffix in _PICKLES]
        if not any(file.suffix == ".safetensors" for file in files):
            if pickles:
                raise BackboneError(
                    f"{folder} holds {pickles[0]}, a pickle, which can run code when read; only safetensors are "
                    "loaded: use a revision that has them, or save the model again, which writes them"
                )
            raise BackboneError(f"{folder} holds no *.safetensors; {_ways_out()}")
        # With PEFT installed, transformers applies an adapter that it finds beside the weights.
        if self._components[component][0] == "transformers" and (folder / "adapter_config.json").is_file():
            raise BackboneError(
                f"{folder} holds adapter_config.json: transformers would apply this adapter or not, depending on "
                f"installed packages; move it elsewhere, and if it is wanted, {_WAY_OF_ADAPTERS}"
            )
        check_config(folder / "config.json", self._weight_files(component))
        if (method := quantized_by(self.config(component))) is not None:
            refuse_quantized(folder, method, installed())


def find_folder(name: str, params: ModelParams) -> PipelineFolder:
    """The folder of a backbone: a local one, or the snapshot of its checkpoint.

    Args:
        name: `path:DIR`, a known name, that of the shipped backbone, or any label if `params.path` or
            `params.checkpoint` is set.
        params: Path, checkpoint and revision.

    Raises:
        BackboneError: the name is unknown, or its weights are not here and cannot be downloaded.
    """
    if name.startswith("path:"):
        return PipelineFolder(Path(name.removeprefix("path:")))
    if params.path is not None:
        return PipelineFolder(Path(params.path))
    if name == SHIPPED and params.checkpoint is None:
        return PipelineFolder(shipped_backbone())
    checkpoint = params.checkpoint or CHECKPOINTS[canonical_name(name)]
    return _snapshot(checkpoint, params)


def cast_weights(model: Any, dtype: torch.dtype) -> Any:  # noqa: ANN401
    """Cast a diffusers model's parameters, except those that its class keeps in float32."""
    kept = set(model._keep_in_fp32_modules or ())
    for name, parameter in model.named_parameters():
        if not set(name.split(".")) & kept:
            parameter.data = parameter.data.to(dtype)
    return model


@contextmanager
def values_not_drawn() -> Iterator[None]:
    """Skip the initialisation of models created inside, which is most of the work on the device meta.

    Weights there have no values, but `torch.nn.init` would still process each of them.
    """
    drawing = {name: getattr(nn.init, name) for name in dir(nn.init) if name.endswith("_") and name[0] != "_"}
    for name in drawing:
        setattr(nn.init, name, lambda tensor, *_, **__: tensor)
    try:
        yield
    finally:
        for name, draw in drawing.items():
            setattr(nn.init, name, draw)


@contextmanager
def _quiet_off_terminals() -> Iterator[None]:
    """Disable progress bars of the model libraries while standard error is not a terminal."""
    bars = (diffusers.utils.logging, transformers.utils.logging)
    shown = [bar.is_progress_bar_enabled() for bar in bars]
    if not sys.stderr.isatty():
        for bar in bars:
            bar.disable_progress_bar()
    try:
        yield
    finally:
        for bar, was_shown in zip(bars, shown, strict=True):
            if was_shown:
                bar.enable_progress_bar()


def _snapshot(checkpoint: str, params: ModelParams) -> PipelineFolder:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(
            snapshot_download(
                checkpoint,
                revision=params.revision,
                allow_patterns=_WANTED_FILES,
                local_files_only=params.local_files_only,
            )
        )
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise BackboneError(
            f"{checkpoint} (revision {params.revision or 'main'}): model_index.json and the folders of its components "
            "(transformer, vae, text_encoder, tokenizer, scheduler) are not in the local cache and could not be "
            f"downloaded; {_ways_out(checkpoint, params.revision)}"
        ) from error
    return PipelineFolder(folder, revision=folder.name)


def _read_index(file: Path) -> dict[str, Any]:
    """Read a model_index.json: the pipeline's class, and [library, class] of each component.

    Raises:
        BackboneError: the file is not a model index.
    """
    try:
        index = read_json(file)
    except DocumentError as error:
        raise BackboneError(f"{error}; {_ways_out()}") from error
    if not isinstance(index, dict) or not isinstance(index.get("_class_name"), str):
        raise BackboneError(f"{file} names no pipeline as `_class_name`; {_ways_out()}")
    for name, entry in index.items():
        if isinstance(entry, list) and not (
            name.isidentifier() and len(entry) == 2 and all(part is None or isinstance(part, str) for part in entry)
        ):
            raise BackboneError(f"{file}: {name[:100]!r} is {str(entry)[:100]}; a component is [library, class]")
    return index


def _ways_out(checkpoint: str = "REPOSITORY", revision: str | None = None) -> str:
    pinned = f" --revision {revision}" if revision else ""
    return (
        f"on a machine with network run `hf download {checkpoint}{pinned}` and copy the cache, or use {SHIPPED}, "
        "which comes with the package"
    )


def _none_of(places: Sequence[str]) -> str:
    first, *others = places
    return f"neither {first} nor {' nor '.join(others)}"

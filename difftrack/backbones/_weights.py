"""Checks a component's weights: by the headers of its files before a model is created, and after loading.

A header shows in milliseconds which tensors a file holds and whether the file is complete. The config is compared with
it, because creating a model of a million layers would take minutes. The model libraries only warn of missing tensors
and fill them with random values; here they are an error.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from difftrack.backbones._errors import BackboneError
from difftrack.documents import DocumentError, open_regular, read_json

__all__ = [
    "WeightFiles",
    "check_config",
    "one_line",
    "quantized_by",
    "refuse_not_finite",
    "refuse_partial",
    "refuse_quantized",
    "weight_files",
]

_STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
"""Names of the weight files that each library loads."""
_QUANTIZERS = {"bitsandbytes": "bitsandbytes", "torchao": "torchao", "gguf": "gguf", "quanto": "optimum-quanto"}
"""The package that reads weights of each `quant_method`."""
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "pytorch_lora_weights.safetensors")
"""Files in which PEFT and diffusers keep an adapter, never the weights themselves."""

_COUNTS = re.compile(r"^(?!max_)(.*_)?(n?layers?|blocks?|depths?|layers_per_block)$")
"""Keys of a config that count layers; a limit such as Qwen's `max_window_layers` does not count."""

_LARGEST = 1 << 31
_MAX_SAMPLE = 1 << 26
"""Maximum number of latent pixels in a config: tables of positions are as large."""

_SHOWN = 3
"""Tensors that a message names."""


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """The files of weights of one component."""

    files: tuple[Path, ...]
    variant: str | None
    """Variant to pass to `from_pretrained` if every file has one, such as `fp16`."""
    num_tensors: int
    num_values: int

    @property
    def adapter(self) -> Path | None:
        """A file next to the weights that holds an adapter."""
        folder = self.files[0].parent
        return next((folder / name for name in _ADAPTERS if (folder / name).is_file()), None)


def weight_files(folder: Path, library: str) -> WeightFiles:
    """Find the safetensors files of a folder that a library would load, and read their headers.

    diffusers takes the index before a whole file, transformers the whole file before the index. Where every file is of
    one variant, that variant is taken. Other files in the folder, including adapters and stray shards, are ignored.

    Args:
        folder: Folder of one component.
        library: `diffusers` or `transformers`; for other libraries either set of names is accepted.

    Raises:
        BackboneError: there are no such files, or those of several variants; a file that the index names is missing;
            two shards hold the same tensor; the index or a file is damaged.
    """
    stems = (_STEMS[library],) if library in _STEMS else tuple(_STEMS.values())
    stem = next((stem for stem in stems if _variants(folder, stem)), None)
    if stem is None:
        held = sorted(file.name for file in folder.glob("*.safetensors"))
        raise BackboneError(
            f"{folder} holds no {stems[0]}.safetensors, nor an index of its shards, and {_named(held)} "
            f"{'is' if len(held) == 1 else 'are'} not read; {_way_out(folder)}"
        )
    variants = _variants(folder, stem)
    if None not in variants and len(variants) > 1:
        raise BackboneError(
            f"{folder} holds the variants {_named(sorted(map(str, variants)))} of its weights and none without a "
            "variant; keep only one of them"
        )
    variant = None if None in variants else next(iter(variants))
    whole = f"{stem}.safetensors" if variant is None else f"{stem}.{variant}.safetensors"
    index = folder / f"{stem}.safetensors.index{'' if variant is None else f'.{variant}'}.json"
    by_index = index.is_file() and (library != "transformers" or not (folder / whole).is_file())
    shards = _shards(index) if by_index else {}
    names = list(dict.fromkeys(shards.values())) if by_index else [whole]
    sizes = {name: _tensor_sizes(folder / name) for name in names}
    _refuse_overlap(folder, sizes, shards)
    return WeightFiles(
        tuple(folder / name for name in names),
        variant,
        num_tensors=sum(map(len, sizes.values())),
        num_values=sum(sum(each.values()) for each in sizes.values()),
    )


def quantized_by(config: Mapping[str, Any]) -> str | None:
    """Return the quantisation method of saved weights from their config, or None."""
    quantization = config.get("quantization_config")
    if not isinstance(quantization, Mapping):
        return None
    return str(quantization.get("quant_method", "unknown"))


def refuse_quantized(folder: Path, method: str, installed: Collection[str]) -> None:
    """Refuse weights that need a missing quantisation package.

    Args:
        folder: Folder of the component.
        method: Result of `quantized_by`.
        installed: Installed packages.

    Raises:
        BackboneError: the message names the package.
    """
    package = _QUANTIZERS.get(method, method)
    if package not in installed:
        raise BackboneError(
            f"{folder}: its weights are quantised by {method}, but the package {package} is not installed; install it "
            f"(pip install {package}), or use weights that are not quantised"
        )


def check_config(file: Path, weights: WeightFiles) -> None:
    """Refuse a config with more layers than its weights can hold, before a model is created.

    Raises:
        BackboneError: it cannot be read, or a number in it is out of bounds.
    """
    try:
        config = read_json(file)
    except FileNotFoundError as error:
        raise BackboneError(f"{file} is missing; {_way_out(file.parent)}") from error
    except DocumentError as error:
        raise BackboneError(f"{error}; {_way_out(file.parent)}") from error
    if not isinstance(config, dict):
        raise BackboneError(f"{file} holds {type(config).__name__}; expected a mapping")
    sample = 1
    for key, value in _numbers(config):
        if _COUNTS.search(key) and value > weights.num_tensors:
            raise BackboneError(
                f"{file}: {key} is {value}, but the weights hold {weights.num_tensors} tensors; {_way_out(file.parent)}"
            )
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise BackboneError(f"{file}: {key} is {value}; it must be at most {_LARGEST}")
        sample *= max(int(value), 1) if key.startswith("sample_") and "rate" not in key else 1
    if sample > _MAX_SAMPLE:
        raise BackboneError(f"{file}: sample_* give {sample} latent pixels; at most {_MAX_SAMPLE} are allowed")


def refuse_partial(folder: Path, loading: Mapping[str, Any]) -> None:
    """Refuse a model if the library reports missing tensors, unexpected tensors, or wrong shapes.

    Args:
        folder: Folder of the component.
        loading: Loading info that `from_pretrained` returns with the model.

    Raises:
        BackboneError: there are such tensors; the message names them.
    """
    for key, what in (
        ("missing_keys", "lacks"),
        ("mismatched_keys", "has other shapes of"),
        ("unexpected_keys", "has"),
    ):
        names = sorted(str(entry[0] if isinstance(entry, tuple) else entry) for entry in loading.get(key) or ())
        if names:
            known = ", which the class of the component does not know" if key == "unexpected_keys" else ""
            raise BackboneError(f"{folder}: the weights {what} {_named(names)}{known}; {_way_out(folder)}")


@torch.no_grad()
def refuse_not_finite(folder: Path, model: nn.Module) -> None:
    """Refuse weights that hold NaN or infinity, in one pass on their device.

    Minimum and maximum of a tensor are finite exactly if all values are, and take a tenth of the time.

    Raises:
        BackboneError: a tensor holds such a value; the message names it.
    """
    tensors = {
        name: tensor
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
        if tensor.is_floating_point() and tensor.numel() and tensor.device.type != "meta" and tensor.itemsize > 1
    }
    if not tensors:
        return
    ends = torch.stack([torch.stack(torch.aminmax(tensor)).float().cpu() for tensor in tensors.values()])
    finite = ends.isfinite().all(dim=1).tolist()
    found = [name for name, is_finite in zip(tensors, finite, strict=True) if not is_finite]
    if found:
        kind = str(tensors[found[0]].dtype).removeprefix("torch.")
        raise BackboneError(
            f"{folder}: {_named(found)} {'holds' if len(found) == 1 else 'hold'} values that are not finite in {kind};"
            f" use another dtype if the files are intact, or {_way_out(folder)}"
        )


@contextmanager
def one_line(folder: Path) -> Iterator[None]:
    """Turn any error of the model libraries about a component's files into one line that names the folder.

    Raises:
        BackboneError: a library raised an error.
    """
    try:
        yield
    except (BackboneError, torch.OutOfMemoryError):
        raise
    except ImportError as error:  # PackageNotFoundError is one, too
        words = " ".join(str(error).split())[:300]
        raise BackboneError(f"{folder} cannot be loaded: {words}; install the package that this names") from error
    except (Exception, RecursionError) as error:  # tokenizers raises a plain Exception
        words = " ".join(str(error).split())[:300]
        raise BackboneError(
            f"{folder} cannot be loaded: {type(error).__name__}: {words}; {_way_out(folder)}"
        ) from error


def _variants(folder: Path, stem: str) -> set[str | None]:
    """Return the variants with a whole file or an index in the folder; None stands for files without a variant."""
    found: set[str | None] = set()
    for file in folder.iterdir():
        if file.name in (f"{stem}.safetensors", f"{stem}.safetensors.index.json"):
            found.add(None)
        for pattern in (rf"{stem}\.([\w-]+)\.safetensors", rf"{stem}\.safetensors\.index\.([\w-]+)\.json"):
            match = re.fullmatch(pattern, file.name)
            if match and not re.fullmatch(r".*-\d{5}-of-\d{5}", match[1]):
                found.add(match[1])
    return found


def _refuse_overlap(folder: Path, sizes: Mapping[str, Mapping[str, int]], shards: Mapping[str, str]) -> None:
    """Refuse shards with a tensor that the index assigns to another shard: libraries would use the last one read."""
    for file, tensors in sizes.items():
        strange = sorted(tensor for tensor in tensors if shards.get(tensor, file) != file)
        if strange:
            raise BackboneError(
                f"{folder / file} holds {_named(strange)}, which the index assigns to {shards[strange[0]]}; "
                f"{_way_out(folder)}"
            )


def _shards(index: Path) -> dict[str, str]:
    """Return the file of each tensor from the index."""
    try:
        content = read_json(index)
        names = list(content["weight_map"].values())
    except (DocumentError, KeyError, TypeError, AttributeError) as error:
        why = f"{error}" if isinstance(error, DocumentError) else f"{index} has no mapping `weight_map`"
        raise BackboneError(f"{why}; {_way_out(index.parent)}") from error
    for name in names:
        if not isinstance(name, str) or re.fullmatch(r"[\w.-]+\.safetensors", name) is None:
            raise BackboneError(
                f"{index} names the file {str(name)[:200]!r}; expected *.safetensors in the same folder"
            )
    missing = sorted({name for name in names if not (index.parent / name).is_file()})
    if missing:
        raise BackboneError(f"{index.parent} lacks {_named(missing)}; {_way_out(index.parent)}")
    return dict(content["weight_map"])


def _tensor_sizes(file: Path) -> dict[str, int]:
    """Count the values of each tensor from the header, which the library compares with the size of the file."""
    try:
        with open_regular(file):
            pass
        with safe_open(file, framework="pt") as tensors:
            return {name: math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise BackboneError(f"{file} is damaged or cut short ({error}); {_way_out(file.parent)}") from error


def _numbers(value: Any, key: str = "") -> Iterator[tuple[str, float]]:  # noqa: ANN401
    """Yield every number in a config with its key."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _numbers(inner, name)
    elif isinstance(value, list):
        for inner in value:
            yield from _numbers(inner, key)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield key, value


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"


def _way_out(folder: Path) -> str:
    return f"copy or fetch {folder.name} again"

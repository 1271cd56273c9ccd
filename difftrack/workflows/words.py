"""Maps words of a prompt to parts of a clip, from stored attention."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from difftrack.correspondence import matching_device, text_attention
from difftrack.store import DescriptorSpec, Store, StoreError
from difftrack.text_tokens import TextTokens, Word
from difftrack.workflows.match import clip_groups

__all__ = ["Axis", "Labels", "ShareOf", "stored_text", "word_maps"]

Axis = Literal["step", "layer", "head"]
AXES: tuple[Axis, ...] = get_args(Axis)
Labels = Literal["stored"] | Sequence[int] | int
"""Labels of an axis: all stored ones, some of them, or one."""
ShareOf = Literal["attention", "text"]


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Labels to read from each group, and the axes that are not averaged."""

    steps: tuple[int, ...]
    layers: tuple[int, ...]
    heads: tuple[int, ...]
    per: tuple[Axis, ...]

    def labels(self, axis: Axis) -> tuple[int, ...]:
        found: tuple[int, ...] = {"step": self.steps, "layer": self.layers, "head": self.heads}[axis]
        return found

    def kept(self, axis: Axis) -> int:
        """Size of an axis in the result before averaged axes are dropped."""
        return len(self.labels(axis)) if axis in self.per else 1


def word_maps(
    store: Store,
    clip: str,
    word: str | None = None,
    *,
    steps: Labels = "stored",
    layers: Labels = "stored",
    heads: Labels = "stored",
    per: Sequence[Axis] = (),
    share_of: ShareOf = "text",
    occurrence: int | None = None,
    text: TextTokens | None = None,
    device: str = "auto",
) -> xr.DataArray:
    """Map the attention of a clip's tokens to a word of its prompt.

    Args:
        store: Store with queries, keys and text keys (joint attention), or cross queries and text keys.
        clip: Name of the clip.
        word: A word or phrase of the prompt; None gives every word, and all other tokens, along an axis `word`.
        steps: Steps to average, or to keep if `per` names `step`.
        layers: Layers to average, or to keep.
        heads: Heads to average, or to keep.
        per: Axes that are not averaged: `step`, `layer`, `head`.
        share_of: `text`: share of a token's attention to the text, after averaging. `attention`: share of all its
            attention. Both are equal for cross-attention.
        occurrence: Index, from 0, of the occurrence of a repeated word; None takes all together.
        text: Words of the text tokens, if the store lacks them.
        device: `auto`, `cpu` or a CUDA device.

    Returns:
        Shares over (*per, [word], frame, row, col), float32: `frame` is the video frame that a latent frame describes,
        `row` and `col` are tokens, whose centres `y_px` and `x_px` give in pixels of the clip. Its attributes hold the
        prompt, the word's pieces, and notes on cut words.

    Raises:
        StoreError: the store lacks the clip, a step, a layer, a head, the descriptors, or the words.
        WordError: the prompt does not have the word, or the backbone did not read it.
        ValueError: an option has a wrong value.
    """
    _check_options(per, share_of, occurrence, word)
    groups = clip_groups(store, clip)
    known = stored_text(store, clip) if text is None else text
    group_tokens, found = _token_groups(known, word, occurrence)
    chosen = _chosen(store.spec(groups[0][0]), clip, steps, layers, heads, per)
    parts: list[tuple[DescriptorSpec, Float[np.ndarray, "step layer head word latent_frame row col"]]] = []
    for group, chunk in groups:
        spec = store.spec(group)
        if len(known) != spec.num_text_tokens:
            raise StoreError(f"{clip} has {spec.num_text_tokens} text tokens, but text= has {len(known)}")
        parts.append(
            (spec, _group_maps(store, clip, chunk, spec, chosen, list(group_tokens.values()), device, share_of))
        )
    return _labelled(parts, chosen, list(group_tokens), clip, word, known, found, share_of)


def stored_text(store: Store, clip: str) -> TextTokens:
    """Return the words of a stored clip's text tokens.

    Raises:
        StoreError: the store lacks the clip, its text, or the words.
    """
    group, _ = clip_groups(store, clip)[0]
    spec, known = store.spec(group), store.text_tokens(group)
    if not spec.text_mask:
        raise StoreError(
            f"{clip} is stored without text keys: extract it with the descriptors query and key from a backbone with "
            "text in the joint attention, or with cross_query from one with cross-attention"
        )
    if known is None:
        raise StoreError(
            f"the store has no words for the text tokens of {clip}: an earlier version wrote it, or its tokenizer "
            "does not report the characters of a token; extract it again, or pass text="
        )
    return known


def _check_options(per: Sequence[str], share_of: str, occurrence: int | None, word: str | None) -> None:
    unknown = [axis for axis in per if axis not in AXES]
    if unknown or len(set(per)) != len(per):
        raise ValueError(f"per is {list(per)}; expected some of {', '.join(AXES)}, each once")
    if share_of not in get_args(ShareOf):
        raise ValueError(f"share_of is {share_of!r}; expected {' or '.join(get_args(ShareOf))}")
    if occurrence is not None and word is None:
        raise ValueError(f"occurrence is {occurrence}, but no word is named; name one")


def _token_groups(
    text: TextTokens, word: str | None, occurrence: int | None
) -> tuple[dict[str, tuple[int, ...]], tuple[Word, ...]]:
    if word is None:
        return text.groups(), text.words
    found = text.find(word, occurrence=occurrence)
    tokens = sorted({token for each in found for token in each.tokens})
    return {word: tuple(tokens)}, found


def _chosen(
    spec: DescriptorSpec, clip: str, steps: Labels, layers: Labels, heads: Labels, per: Sequence[Axis]
) -> _Chosen:
    def labels(name: str, wanted: Labels, there: tuple[int, ...]) -> tuple[int, ...]:
        if isinstance(wanted, str):
            if wanted != "stored":
                raise ValueError(f"{name} is {wanted!r}; expected stored, or numbers")
            return there
        asked = (wanted,) if isinstance(wanted, int) else tuple(wanted)
        if lacking := [label for label in asked if label not in there]:
            raise StoreError(f"{name} {lacking} of {clip} are not stored; there are {', '.join(map(str, there))}")
        if not asked or len(set(asked)) != len(asked):
            raise ValueError(f"{name} is {list(asked)}; expected at least one, each once")
        return asked

    return _Chosen(
        labels("steps", steps, spec.steps),
        labels("layers", layers, spec.layers),
        labels("heads", heads, spec.heads),
        tuple(axis for axis in AXES if axis in per),
    )


def _group_maps(
    store: Store,
    clip: str,
    chunk: int | None,
    spec: DescriptorSpec,
    chosen: _Chosen,
    groups: list[tuple[int, ...]],
    device: str,
    share_of: ShareOf,
) -> Float[np.ndarray, "step layer head word latent_frame row col"]:
    """Compute the maps of one stored group; averaged axes have size 1."""
    whole = tuple(range(spec.num_text_tokens))
    places = (chosen.kept("step"), chosen.kept("layer"), chosen.kept("head"))
    grid = (spec.grid.num_latent_frames, spec.grid.rows, spec.grid.cols)
    total = np.zeros((*places, len(groups) + 1, *grid), np.float64)
    for step_index, layer_index, maps in _unit_maps(store, clip, chunk, spec, chosen, [*groups, whole], device):
        place = (step_index if "step" in chosen.per else 0, layer_index if "layer" in chosen.per else 0)
        total[place] += maps if "head" in chosen.per else maps.mean(axis=0, keepdims=True)
    averaged = [len(chosen.labels(axis)) for axis in ("step", "layer") if axis not in chosen.per]
    total /= np.prod(averaged, dtype=np.float64) if averaged else 1.0
    maps, mass = total[:, :, :, :-1], total[:, :, :, -1:]
    if share_of == "text":
        maps = maps / np.maximum(mass, 1e-30)
    return maps.astype(np.float32)


def _unit_maps(
    store: Store,
    clip: str,
    chunk: int | None,
    spec: DescriptorSpec,
    chosen: _Chosen,
    groups: Sequence[Sequence[int]],
    device: str,
) -> Iterator[tuple[int, int, Float[np.ndarray, "head word latent_frame row col"]]]:
    crosses = "cross_query" in spec.kinds
    if not crosses and not {"query", "key"} <= set(spec.kinds):
        raise StoreError(f"{clip} is stored with {', '.join(spec.kinds)}; word maps need query and key, or cross_query")
    where = matching_device(device)
    mask = torch.tensor(spec.text_mask, dtype=torch.bool, device=where)
    at = [spec.heads.index(head) for head in chosen.heads]
    everything = at == list(range(len(spec.heads)))

    def read(step: int, layer: int, kind: str) -> Tensor:
        values = torch.from_numpy(store.sel(clip=clip, step=step, layer=layer, kind=kind, chunk=chunk)).to(where)
        return values if everything else values[at]

    for step_index, step in enumerate(chosen.steps):
        for layer_index, layer in enumerate(chosen.layers):
            maps = text_attention(
                read(step, layer, "cross_query" if crosses else "query"),
                read(step, layer, "text_key"),
                mask,
                groups,
                key=None if crosses else read(step, layer, "key"),
            )
            yield step_index, layer_index, maps.cpu().numpy()


def _labelled(
    parts: Sequence[tuple[DescriptorSpec, np.ndarray]],
    chosen: _Chosen,
    names: list[str],
    clip: str,
    word: str | None,
    text: TextTokens,
    found: tuple[Word, ...],
    share_of: ShareOf,
) -> xr.DataArray:
    """Put the frames of all groups in order, each from the first group that holds it, and label the axes."""
    of_frame: dict[int, np.ndarray] = {}
    for spec, maps in parts:
        for at, frame in enumerate(spec.frames):
            of_frame.setdefault(frame, maps[:, :, :, :, at])
    frames = sorted(of_frame)
    values = np.stack([of_frame[frame] for frame in frames], axis=4)
    spec = parts[0][0]
    stride_y, stride_x = (spec.grid.stride_px * own / seen for own, seen in zip(spec.clip_size, spec.size, strict=True))
    array = xr.DataArray(
        values,
        dims=("step", "layer", "head", "word", "frame", "row", "col"),
        coords={
            **{axis: list(chosen.labels(axis)) for axis in chosen.per},
            "word": names,
            "frame": frames,
            "y_px": ("row", (np.arange(spec.grid.rows) + 0.5) * stride_y),
            "x_px": ("col", (np.arange(spec.grid.cols) + 0.5) * stride_x),
        },
        name="attention",
        attrs={
            "clip": clip,
            "prompt": text.prompt,
            "word": word or "",
            "pieces": _pieces(text, found) if word is not None else [],
            "steps": list(chosen.steps),
            "layers": list(chosen.layers),
            "heads": list(chosen.heads),
            "attention": "cross" if "cross_query" in spec.kinds else "joint",
            "share_of": share_of,
            "clip_size": list(spec.clip_size),
            "notes": _notes(text, found, word),
        },
    )
    averaged = {axis: 0 for axis in AXES if axis not in chosen.per}
    return array.isel(averaged | ({} if word is None else {"word": 0}), drop=True)


def _pieces(text: TextTokens, found: tuple[Word, ...]) -> list[str]:
    labels = text.labels()
    return [labels[token] for each in found for token in each.tokens]


def _notes(text: TextTokens, found: tuple[Word, ...], word: str | None) -> list[str]:
    """Return notes on the prompt and the word for readers of the maps."""
    notes = []
    if text.cut:
        notes.append(f"the backbone reads {len(text)} text tokens; cut from the prompt: {text.cut!r}")
    if word is not None and len(found) > 1:
        notes.append(f"{word!r} occurs {len(found)} times in the prompt; the map covers all of them")
    notes += [
        f"{each.text!r} was cut in the middle; the map covers the part that was read"
        for each in found
        if not each.whole and each.tokens
    ]
    return notes

"""Answers the page's questions from stored descriptors."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from difftrack.correspondence import (
    MatchingParams,
    attention_of_points,
    attention_rows,
    back_sums,
    match_points,
    match_rows,
    pair_of_kind,
    point_probabilities,
    query_tokens,
    read_rows,
    tokens_to_points,
    top_matches,
    without_uniform,
)
from difftrack.explorer._cache import BoundedCache
from difftrack.explorer._catalog import Catalog, StoreEntry
from difftrack.explorer._errors import ExplorerError, NotFoundError
from difftrack.explorer._questions import (
    AttentionQuestion,
    CellsQuestion,
    Lens,
    MapsQuestion,
    MatchQuestion,
    WordQuestion,
)
from difftrack.explorer._truth import true_tracks
from difftrack.explorer._words import text_words, word_labels
from difftrack.geometry import rescale_points
from difftrack.rotary import ALL_FREQUENCIES
from difftrack.store import DescriptorSpec, StoreError
from difftrack.workflows.match import clip_points_to_tokens
from difftrack.workflows.words import word_maps

__all__ = ["Answers", "FrameMatch"]

DESCRIPTOR_BYTES = 320_000_000
"""Cache size of decoded descriptors: two units of queries and keys of CogVideoX-2B."""

BACK_SUMS_BYTES = 32_000_000
"""Cache size of the normalisers for matching in both directions: CogVideoX-2B needs 2 MB per unit and source frame."""


@dataclass(frozen=True, slots=True, eq=False)
class FrameMatch:
    """Match of one point in one video frame, seen through a lens."""

    frame: int
    xy_px: tuple[float, float]
    """Pixels of the clip; NaN where all probabilities are equal."""
    probability: float
    margin: float
    """Best less second-best probability."""
    entropy: float
    """Entropy of the match probabilities, as a share of that of a uniform row."""
    cycle_error_px: float
    """NaN if it was not requested."""
    probabilities: Float[np.ndarray, "row col"]

    def summary(self) -> dict[str, Any]:
        """Return everything except the probabilities, as JSON."""
        return {
            "frame": self.frame,
            "xy": list(self.xy_px),
            "probability": self.probability,
            "margin": self.margin,
            "entropy": self.entropy,
            "cycle": self.cycle_error_px,
        }


class Answers:
    """Answers questions about the stores of a catalog, with a cache of limited size.

    Args:
        catalog: Stores and clips.
        budget: Cache size for decoded descriptors, in bytes.
    """

    def __init__(self, catalog: Catalog, *, budget: int = DESCRIPTOR_BYTES) -> None:
        self.catalog = catalog
        self._descriptors: BoundedCache[Tensor] = BoundedCache(budget, lambda values: values.nbytes)
        self._back_sums: BoundedCache[Tensor] = BoundedCache(BACK_SUMS_BYTES, lambda values: values.nbytes)

    @property
    def held_bytes(self) -> int:
        """Return the bytes of decoded descriptors in the cache."""
        return self._descriptors.held

    def match(self, question: MatchQuestion) -> tuple[dict[str, Any], Float[np.ndarray, "frame row col"]]:
        """Match a point in all frames that ran through the backbone together with its own.

        Returns:
            The matches, and the match probabilities per frame in the same order.
        """
        found = self._found(question.lens, question.point, cycle=question.cycle)
        maps = np.stack([each.probabilities for each in found])
        tops = top_matches(torch.from_numpy(maps), k=min(question.top_k, maps[0].size))
        spec = self.catalog.store(question.lens.store).spec(question.lens.clip)
        params = question.lens.matching()
        tops_px = _to_clip_px(tops.points_xy_token, spec, params)
        matches = [
            {
                **each.summary(),
                "top": [
                    {"xy": xy, "probability": probability}
                    for xy, probability in zip(tops_px[at].tolist(), tops.probability[at].tolist(), strict=True)
                ],
            }
            for at, each in enumerate(found)
        ]
        return {"frames": [each.frame for each in found], "matches": matches}, maps

    def maps(self, question: MapsQuestion) -> tuple[dict[str, Any], Float[np.ndarray, "cell row col"]]:
        """Return the match probabilities over one frame for each head, layer or step; 0 for a damaged unit."""
        lens = question.lens
        spec = self.catalog.store(lens.store).spec(lens.clip)
        lenses = {
            "head": {head: lens.only_head(head) for head in spec.heads},
            "layer": {layer: replace(lens, layer=layer) for layer in spec.layers},
            "step": {step: replace(lens, step=step) for step in spec.steps},
        }[question.axis]
        cells: list[dict[str, Any]] = []
        maps: list[np.ndarray] = []
        for label, each in lenses.items():
            try:
                found = self._found(each, question.point, targets={question.target})
            except StoreError as error:
                cells.append({"label": label, "error": str(error)})
                maps.append(np.zeros((spec.grid.rows, spec.grid.cols), np.float32))
                continue
            cells.append({"label": label, **found[0].summary()})
            maps.append(found[0].probabilities)
        return {"axis": question.axis, "cells": cells}, np.stack(maps)

    def cells(self, question: CellsQuestion) -> Iterator[dict[str, Any]]:
        """Yield the cells of a map one by one, the lens's own row first; the cell of a damaged unit holds its error.

        Each holds `step`, `layer` and `head` (null in a layer x step map), and `values` by video frame.
        """
        lens = question.lens
        spec = self.catalog.store(lens.store).spec(lens.clip)
        truth = true_tracks(self.catalog, lens.clip, [question.point])[0] if question.measure == "error" else None
        if question.measure == "error" and truth is None:
            raise ExplorerError(f"the true track of this point of {lens.clip} is unknown; choose another measure")
        if question.axes == "layer_step":
            steps = sorted(spec.steps, key=lambda step: (step != lens.step, step))
            wanted = [(replace(lens, step=step, layer=layer), None) for step in steps for layer in spec.layers]
        else:
            layers = sorted(spec.layers, key=lambda layer: (layer != lens.layer, layer))
            at = [replace(lens, layer=layer) for layer in layers]
            wanted = [(each.only_head(head), head) for each in at for head in spec.heads]
        for each, head in wanted:
            place = {"step": each.step, "layer": each.layer, "head": head}
            try:
                found = self._found(each, question.point, cycle=question.measure == "cycle")
            except StoreError as error:
                yield {**place, "error": str(error)}
                continue
            yield {**place, "values": {str(one.frame): _measured(one, question.measure, truth) for one in found}}

    def attention(self, question: AttentionQuestion) -> dict[str, Any]:
        """Split the model's own attention of a point into its own frame, other frames, and text.

        Raises:
            ExplorerError: the store lacks queries or keys.
        """
        lens, (frame, x, y) = question.lens, question.point
        entry = self.catalog.store(lens.store)
        group, chunk, spec = next(self._groups_with(entry, lens.clip, frame))
        if not {"query", "key"} <= set(spec.kinds):
            raise ExplorerError(f"{lens.store} holds {', '.join(spec.kinds)}; attention needs query and key")
        heads = _head_indices(lens, spec)
        query, key = (self._read(entry, lens, group, chunk, kind, heads) for kind in ("query", "key"))
        if spec.joint_text_mask:
            text_key = self._read(entry, lens, group, chunk, "text_key", heads)
        else:
            text_key = query.new_zeros((query.shape[0], 0, query.shape[-1]))
        mask = torch.tensor(spec.joint_text_mask, dtype=torch.bool)
        params = lens.matching()
        tokens = clip_points_to_tokens(np.asarray([[x, y]], np.float32), spec, params)
        source = spec.frames.index(frame)
        rows = attention_of_points(query, key, text_key, mask, tokens, params=params, source_frame=source)
        masses = rows.frame_mass[:, 0].tolist()
        answer: dict[str, Any] = {
            "frames": [{"frame": shown, "mass": mass} for shown, mass in zip(spec.frames, masses, strict=True)],
            "own": masses[source],
            "others": sum(masses) - masses[source],
            "text": rows.text_mass[0].item() if spec.joint_text_mask else None,
        }
        if spec.joint_text_mask:
            row = attention_rows(query, key, text_key, mask, tokens, params=params, source_frame=source)[0]
            kept = (
                np.flatnonzero(spec.joint_text_mask)
                if params.padded_text != "counted"
                else np.arange(len(spec.joint_text_mask))
            )
            words = self._labels(entry, group, spec, lens.clip)
            answer["words"] = [
                {"word": words[token], "mass": mass}
                for token, mass in zip(kept.tolist(), row[: len(kept)].tolist(), strict=True)
            ]
        return answer

    def word(self, question: WordQuestion) -> tuple[dict[str, Any], Float[np.ndarray, "frame row col"]]:
        """Map the attention of a clip's tokens to a word of its prompt, in one layer at one step.

        Raises:
            StoreError: the store lacks the descriptors or the words.
            WordError: the prompt does not have the word.
        """
        lens = question.lens
        maps = word_maps(
            self.catalog.store(lens.store).store,
            lens.clip,
            question.word,
            steps=lens.step,
            layers=lens.layer,
            heads="stored" if lens.heads == "all" else lens.heads,
        )
        header = {
            "word": question.word,
            "frames": maps.frame.values.tolist(),
            "pieces": maps.attrs["pieces"],
            "notes": maps.attrs["notes"],
        }
        return header, maps.values

    def _labels(self, entry: StoreEntry, group: str, spec: DescriptorSpec, clip: str) -> list[str]:
        """Label each text token, from the store or from a known tokenizer."""
        if (known := entry.store.text_tokens(group)) is not None:
            return word_labels(known)
        prompt = "" if spec.fingerprint_parts.get("prompt") == "empty" else self._prompt(clip)
        return text_words(entry.backbone, prompt, len(spec.text_mask))

    def _prompt(self, clip: str) -> str:
        return str(self.catalog.about_clip(clip).get("prompt", ""))

    def _found(
        self,
        lens: Lens,
        point: tuple[int, float, float],
        *,
        cycle: bool = False,
        targets: Collection[int] | None = None,
    ) -> list[FrameMatch]:
        """Match one point through one lens in the frames of all chunks with its frame, in ascending order."""
        entry, (frame, x, y) = self.catalog.store(lens.store), point
        found: dict[int, FrameMatch] = {}
        for group, chunk, spec in self._groups_with(entry, lens.clip, frame):
            wanted = [at for at, shown in enumerate(spec.frames) if targets is None or shown in targets]
            wanted = [at for at in wanted if spec.frames[at] not in found and spec.frames[at] != frame]
            if wanted:
                pair = self._pair(entry, lens, group, chunk, spec)
                sums = None
                if lens.direction != "forward":
                    sums = self._sums_of(entry, lens, group, pair, spec.frames.index(frame))
                for each in _match(pair, lens, spec, frame, (x, y), wanted, sums, cycle=cycle):
                    found[each.frame] = each
        if not found:
            raise NotFoundError(f"no other stored frame of {lens.clip} shares a chunk with frame {frame}")
        return [found[shown] for shown in sorted(found)]

    def _groups_with(
        self, entry: StoreEntry, clip: str, frame: int
    ) -> Iterator[tuple[str, int | None, DescriptorSpec]]:
        """Yield the groups of a clip that hold a video frame."""
        known: set[int] = set()
        for group, chunk in entry.groups(clip):
            spec = entry.store.spec(group)
            known |= set(spec.frames)
            if frame in spec.frames:
                yield group, chunk, spec
        if frame not in known:
            raise NotFoundError(f"no stored latent frame describes frame {frame} of {clip}; there are {sorted(known)}")

    def _pair(
        self, entry: StoreEntry, lens: Lens, group: str, chunk: int | None, spec: DescriptorSpec
    ) -> tuple[Tensor, Tensor]:
        heads = _head_indices(lens, spec)
        pair, _ = pair_of_kind(
            lambda kind: self._read(entry, lens, group, chunk, kind, heads),
            lens.kind,
            params=lens.matching(),
            frequencies=ALL_FREQUENCIES if lens.kind in ("value", "feature") else lens.frequencies,
            rotary=spec.rotary,
        )
        return pair

    def _sums_of(self, entry: StoreEntry, lens: Lens, group: str, pair: tuple[Tensor, Tensor], source: int) -> Tensor:
        """Return the normalisers of matching back to a latent frame, equal for all points in it."""
        params, fingerprint = _matching(lens), entry.store.fingerprint(group)
        compared = (lens.kind, lens.frequencies, lens.heads, lens.convention, params.temperature)
        return self._back_sums.get(
            (entry.name, fingerprint, group, lens.step, lens.layer, *compared, source),
            lambda: back_sums(pair, source_frame=source, params=params),
        )

    def _read(
        self, entry: StoreEntry, lens: Lens, group: str, chunk: int | None, kind: str, heads: list[int] | None
    ) -> Tensor:
        key = (entry.name, entry.store.fingerprint(group), group, lens.step, lens.layer, kind)

        def read() -> Tensor:
            return torch.from_numpy(
                entry.store.sel(clip=lens.clip, step=lens.step, layer=lens.layer, kind=kind, chunk=chunk)
            )

        values = self._descriptors.get(key, read)
        return values if heads is None else values[heads]


def _head_indices(lens: Lens, spec: DescriptorSpec) -> list[int] | None:
    if lens.heads == "all":
        return None
    if unknown := sorted(set(lens.heads) - set(spec.heads)):
        raise NotFoundError(f"heads {unknown} of {lens.clip} are not stored; there are {list(spec.heads)}")
    return [spec.heads.index(head) for head in lens.heads]


def _match(
    pair: tuple[Tensor, Tensor],
    lens: Lens,
    spec: DescriptorSpec,
    frame: int,
    point_xy_px: tuple[float, float],
    wanted: Sequence[int],
    sums: Tensor | None,
    *,
    cycle: bool,
) -> Iterator[FrameMatch]:
    """Match one point of one chunk in some of its latent frames; `sums` are the pair's `back_sums`, if needed."""
    params, source = _matching(lens), spec.frames.index(frame)
    points = clip_points_to_tokens(np.asarray([point_xy_px], np.float32), spec, params)
    weights = None if lens.weights is None or lens.kind == "feature" else torch.tensor(lens.weights)
    tokens = query_tokens(points, rows=spec.grid.rows, cols=spec.grid.cols, params=params)

    def rows_of(targets: range, params: MatchingParams) -> Tensor:
        return match_rows(
            [pair],
            tokens.tokens,
            source_frame=source,
            target_frames=targets,
            params=params,
            head_weights=None if weights is None else [weights],
            known_back_sums=None if sums is None else [sums],
        )

    stride_px = spec.grid.stride_px * spec.clip_size[0] / spec.size[0]
    errors = None
    if cycle and lens.direction != "back":
        there = match_points(*pair, points, params=params, source_frame=source, head_weights=weights, cycle=True)
        errors = there.cycle_error_token
    for targets in _runs(wanted):
        rows = rows_of(targets, params)
        if lens.direction == "back":  # the mean of both directions contains half of each
            rows = (2 * rows - rows_of(targets, _matching(lens, "forward"))).clamp_(min=0)
        matches = read_rows(rows, tokens, cols=spec.grid.cols, params=params)
        packed = torch.cat([matches.points_xy_token, matches.probability[..., None], matches.margin[..., None]], dim=-1)
        best = without_uniform(packed, spec.grid.tokens_per_frame, params)[:, 0]
        probabilities = point_probabilities(rows, tokens, params)[:, 0]
        xy = _to_clip_px(best[:, :2], spec, params)
        for at, target in enumerate(targets):
            yield FrameMatch(
                frame=spec.frames[target],
                xy_px=(float(xy[at, 0]), float(xy[at, 1])),
                probability=best[at, 2].item(),
                margin=best[at, 3].item(),
                entropy=_entropy(probabilities[at]),
                cycle_error_px=float("nan") if errors is None else errors[target, 0].item() * stride_px,
                probabilities=probabilities[at].reshape(spec.grid.rows, spec.grid.cols).numpy(),
            )


def _matching(lens: Lens, directions: Literal["both", "forward"] | None = None) -> MatchingParams:
    """Return the params for the kind's descriptors; see `correspondence.comparable`."""
    params = lens.matching(directions)
    own = lens.kind in ("query_key", "query_key_pre_rotary")
    return params if own else replace(params, temperature=params.feature_temperature)


def _runs(numbers: Sequence[int]) -> Iterator[range]:
    """Split ascending numbers into runs without a gap: frames of a run are matched together."""
    start = 0
    for at in range(1, len(numbers) + 1):
        if at == len(numbers) or numbers[at] != numbers[at - 1] + 1:
            yield range(numbers[start], numbers[at - 1] + 1)
            start = at


def _to_clip_px(
    points_xy_token: Float[Tensor, "*axes xy"], spec: DescriptorSpec, params: MatchingParams
) -> Float[np.ndarray, "*axes xy"]:
    seen = tokens_to_points(points_xy_token, stride_px=float(spec.grid.stride_px), params=params).numpy()
    return rescale_points(seen, from_size=spec.size, to_size=spec.clip_size)


def _entropy(probabilities: Float[Tensor, " token"]) -> float:
    """Compute entropy as a share of a uniform row's, after scaling the mean of both directions to sum 1."""
    share = probabilities / probabilities.sum().clamp(min=1e-30)
    return float(torch.special.entr(share).sum() / np.log(max(2, share.numel())))


def _measured(match: FrameMatch, measure: str, truth: "Any") -> float:  # noqa: ANN401
    if measure == "error":
        xy, visible = truth.points_xy_px[match.frame], truth.visible[match.frame]
        return float(np.hypot(*(np.asarray(match.xy_px) - xy))) if visible else float("nan")
    values = {
        "cycle": match.cycle_error_px,
        "margin": match.margin,
        "entropy": match.entropy,
        "probability": match.probability,
    }
    return values[measure]

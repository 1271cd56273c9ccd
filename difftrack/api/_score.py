"""Scores each step, layer and head by matching points with known tracks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import xarray as xr
from PIL import Image

from difftrack.api._errors import UsageError
from difftrack.correspondence import MatchKind, MatchSection, descriptors_of
from difftrack.datasets import Tracks
from difftrack.metrics import ScoreSection, combine_clips, rank_layers
from difftrack.params import Convention
from difftrack.store import Store
from difftrack.workflows.match import clip_groups, match_stored_clip, only_clip
from difftrack.workflows.score import score_matches

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Scores", "score"]

_RANKED = ("harmonic_mean", "matching_accuracy", "feature_accuracy")


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores over steps, layers and heads, as fractions; means over clips."""

    dataset: xr.Dataset
    """`matching_accuracy`, `confidence`, `attention_score`, `harmonic_mean`, ... over (step, layer); names with prefix
    `head_` are also over head.
    """
    clips: tuple[str, ...]

    @property
    def table(self) -> "pd.DataFrame":
        """One row per step, layer and head, one column per score; `head` is empty in rows over all heads together."""
        import pandas as pd

        whole = [str(name) for name in self.dataset.data_vars if not str(name).startswith("head_")]
        rows = self.dataset[whole].to_dataframe().reset_index().assign(head=None)
        of_heads = [str(name) for name in self.dataset.data_vars if str(name).startswith("head_")]
        if of_heads:
            per_head = self.dataset[of_heads].to_dataframe().reset_index()
            rows = pd.concat([rows, per_head.rename(columns=lambda name: name.removeprefix("head_"))])
        first = ["step", "layer", "head"]
        return rows[first + [name for name in rows.columns if name not in first]].sort_values(
            ["step", "layer"], kind="stable", ignore_index=True
        )

    def best(self, num: int = 1, *, by: str | None = None) -> tuple[int, ...]:
        """Return the best layers, best first.

        Args:
            num: Number of layers.
            by: The score to rank by; by default the harmonic mean, or the accuracy if nothing else is scored.

        Raises:
            UsageError: the score does not exist, or fewer layers have it.
        """
        name = by or _ranked_by(self.dataset)
        if name not in self.dataset:
            raise UsageError(f"there is no score {name}; there are {', '.join(map(str, self.dataset.data_vars))}")
        ranked = [layer for layer, _, _ in rank_layers(self.dataset[name])]
        if len(ranked) < num:
            raise UsageError(f"num is {num}, but only {len(ranked)} layers have a {name}")
        return tuple(ranked[:num])

    def heatmap(self, *names: str) -> Image.Image:
        """Draw scores as heat maps of layers and steps, the best cell of each outlined.

        Args:
            names: Scores to draw; by default the accuracy, confidence, attention score and harmonic mean, as far as
                they exist.

        Returns:
            A picture, which a notebook shows.
        """
        from difftrack.reports import draw_score_maps, figure_pixels

        known = ("matching_accuracy", "confidence", "attention_score", "harmonic_mean", "feature_accuracy")
        chosen = names or tuple(name for name in known if name in self.dataset) or (_ranked_by(self.dataset),)
        titles = {name.replace("_", " ").capitalize(): self.dataset[name] for name in chosen}
        return Image.fromarray(figure_pixels(draw_score_maps(titles)))

    def __repr__(self) -> str:
        sizes = self.dataset.sizes
        name = _ranked_by(self.dataset)
        layer, step, value = rank_layers(self.dataset[name])[0]
        return (
            f"<Scores of {len(self.clips)} clip(s): {sizes['step']} step(s) x {sizes['layer']} layer(s); best "
            f"{name.replace('_', ' ')} {value:.3f} in layer {layer}, step {step}>"
        )

    def _repr_html_(self) -> str:
        return str(self.table.to_html(float_format="{:.3f}".format, na_rep=""))


def score(
    store: Store,
    truth: Tracks | Mapping[str, Tracks],
    *,
    clip: str | None = None,
    threshold_px: float = 8.0,
    convention: Convention = "corrected",
    per_head: bool = True,
    kinds: Sequence[MatchKind] | None = None,
) -> Scores:
    """Score every stored step, layer and head against true tracks.

    Args:
        store: Result of `extract` or `open_store`.
        truth: Tracks of the clip, from `read_tracks` or `annotate`; or clip name -> tracks for several clips.
        clip: Name of the clip; optional if only one is stored.
        threshold_px: A match is correct if it is strictly closer, in pixels of the size that the backbone saw.
        convention: `corrected` follows the paper, `released` its code.
        per_head: Also score each head alone.
        kinds: Kinds of matching (docs/kinds.md); by default queries with keys, and features, as far as they are stored.

    Raises:
        StoreError: the store lacks a clip.
        ValueError: the tracks are shorter than the stored frames, or no point is queried in the first stored frame.

    Source:
        Nam et al. 2025 (arXiv 2506.17220), section 3.2: matching accuracy, confidence and attention score, and their
        harmonic mean.
    """
    tracks = {only_clip(store, clip): truth} if isinstance(truth, Tracks) else dict(truth)
    scoring = ScoreSection(convention=convention, threshold_px=threshold_px).scoring
    clips = {}
    for name, own in tracks.items():
        spec = store.spec(clip_groups(store, only_clip(store, name))[0][0])
        section = MatchSection(convention=convention, kinds=_kinds(name, spec.kinds, kinds), per_head=per_head)
        matches = match_stored_clip(store, only_clip(store, name), own, section)
        if not matches.sizes["point"]:
            raise UsageError(
                f"{name}: no point is queried in the first stored frame, {matches.frame.values[0]}; pass tracks whose "
                "query points are in that frame"
            )
        clips[name] = score_matches(
            matches,
            own,
            size=spec.size,
            temporal_stride=spec.grid.temporal_stride,
            first_frames=spec.grid.first_frames,
            matching=section.matching,
            scoring=scoring,
        )
    return Scores(combine_clips(clips, params=scoring), tuple(clips))


def _ranked_by(scores: xr.Dataset) -> str:
    """Return the default score to rank layers by."""
    accuracies = (str(name) for name in scores if str(name).endswith("_accuracy"))
    return next(each for each in (*_RANKED, *accuracies) if each in scores)


def _kinds(clip: str, stored: Sequence[str], wanted: Sequence[MatchKind] | None) -> tuple[MatchKind, ...]:
    """Return the requested kinds, or all that can be matched with the stored descriptors."""
    if wanted is not None:
        if missing := sorted({own for kind in wanted for own in descriptors_of(kind)} - set(stored)):
            raise UsageError(f"{clip}: {', '.join(missing)} is not stored; there are {', '.join(stored)}")
        return tuple(wanted)
    kinds: list[MatchKind] = []
    if {"query", "key"} <= set(stored):
        kinds.append("query_key")
    if "feature" in stored:
        kinds.append("feature")
    if not kinds:
        raise UsageError(f"{clip}: {', '.join(stored)} are stored; matching needs query and key, or feature")
    return tuple(kinds)

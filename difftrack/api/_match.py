"""Finds points of one frame in the others, from stored descriptors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import xarray as xr
from PIL import Image

from difftrack.api._clips import known_clip
from difftrack.api._errors import UsageError
from difftrack.api._points import Points, points_array
from difftrack.correspondence import CORRECTED, MATCH_KINDS, MatchingParams
from difftrack.datasets import Clip
from difftrack.params import parse
from difftrack.rotary import ALL_FREQUENCIES, FrequencyBands
from difftrack.store import Store
from difftrack.workflows.match import clip_groups, find_points, match_heatmaps, only_clip

__all__ = ["PointMatches", "match"]


@dataclass(frozen=True, slots=True, eq=False)
class PointMatches:
    """Matches of query points, and the store that they were read from.

    `matches["probability"]`, `matches.xy_px` and the others are labelled arrays over (frame, point).
    """

    dataset: xr.Dataset
    """`xy_px` (pixels of the clip), `probability`, `margin`, `cycle_error_px` over (frame, point)."""
    store: Store
    heads: tuple[int, ...] | None
    params: MatchingParams
    frequencies: FrequencyBands = ALL_FREQUENCIES

    def __getitem__(self, name: str) -> xr.DataArray:
        """Return one of the dataset's arrays."""
        return self.dataset[name]

    @property
    def xy_px(self) -> xr.DataArray:
        """Positions over (frame, point, xy), pixels of the clip."""
        return self.dataset["xy_px"]

    @property
    def probability(self) -> xr.DataArray:
        """Match probability of the best token over (frame, point)."""
        return self.dataset["probability"]

    @property
    def margin(self) -> xr.DataArray:
        """Best less second-best probability over (frame, point)."""
        return self.dataset["margin"]

    def probabilities(self, point: int = 0) -> xr.DataArray:
        """Return the match probabilities of one point over (frame, row, col) of the token grid.

        With `directions: forward` they sum to 1 in each frame; the mean of both directions sums to about 1.
        """
        about = self.dataset.attrs
        x, y = self.dataset["xy_px"].sel(frame=about["query_frame"], point=point).values.tolist()
        return match_heatmaps(
            self.store,
            (x, y),
            clip=about["clip"],
            step=about["step"],
            layer=about["layer"],
            frame=about["query_frame"],
            heads=self.heads,
            kind=about["kind"],
            frequencies=self.frequencies,
            params=self.params,
        )

    def heatmap(self, clip: Clip | None = None, *, point: int = 0, frames: Sequence[int] | None = None) -> Image.Image:
        """Draw one point and its match probability over later frames, side by side.

        Args:
            clip: The clip's frames; optional if this process made the store from it.
            point: Index of the point.
            frames: Frames to draw; by default up to five, spread over the clip.

        Returns:
            A picture, which a notebook shows.

        Raises:
            UsageError: no clip is given, and this process did not make the store.
        """
        clip = clip or known_clip(self.store, self.dataset.attrs["clip"])
        if clip is None:
            raise UsageError("a store holds descriptors but no frames; pass heatmap() the clip that it was made from")
        from difftrack.reports import draw_match_strip, spread_indices

        maps = self.probabilities(point)
        known = maps.frame.values.tolist()
        shown = [known[index] for index in spread_indices(len(known), most=5)] if frames is None else list(frames)
        query_frame = self.dataset.attrs["query_frame"]
        picture = draw_match_strip(
            clip.frames[query_frame],
            clip.frames[shown],
            maps.sel(frame=shown).values,
            point_xy_px=self.dataset["xy_px"].sel(frame=query_frame, point=point).values,
            matches_xy_px=self.dataset["xy_px"].sel(frame=shown, point=point).values,
            truth_xy_px=None,
        )
        return Image.fromarray(picture)

    def __repr__(self) -> str:
        about, sizes = self.dataset.attrs, self.dataset.sizes
        return (
            f"<PointMatches of {sizes['point']} point(s) of {about['clip']}, frame {about['query_frame']}, in "
            f"{sizes['frame']} frames; step {about['step']}, layer {about['layer']}, {about['kind']}>"
        )

    def _repr_html_(self) -> str:
        return self.dataset._repr_html_()


def match(
    store: Store,
    points: Points,
    *,
    step: int | None = None,
    layer: int | None = None,
    frame: int = 0,
    clip: str | None = None,
    heads: Sequence[int] | None = None,
    kind: str = "query_key",
    frequencies: FrequencyBands | Mapping[str, Sequence[float]] = ALL_FREQUENCIES,
    params: MatchingParams = CORRECTED,
) -> PointMatches:
    """Match points of one frame in all frames that ran through the backbone together with it.

    Args:
        store: Result of `extract` or `open_store`.
        points: (x, y) in pixels of the clip.
        step: Denoising step; optional if only one is stored.
        layer: Layer; optional if only one is stored.
        frame: Video frame of the points.
        clip: Name of the clip; optional if only one is stored.
        heads: Only these heads; None takes all stored ones.
        kind: `query_key`, or a kind that is matched with itself by cosine: `feature`, `query_query`, `key_key` ...
        frequencies: Bands of rotary frequencies of queries and keys that take part, such as `{"temporal": (0.5, 1)}`
            for the slower half of those that turn by latent frame.
        params: How to match.

    Raises:
        StoreError: the store lacks one of these.
        ValueError: a point lies outside the clip, several steps or layers are stored and none is named, a kind is
            unknown, or frequencies are chosen but no rotary layout is stored.
    """
    known = next((own for own in MATCH_KINDS if own == kind), None)
    if known is None:
        raise ValueError(f"kind is {kind!r}; known: {', '.join(MATCH_KINDS)}")
    bands = (
        frequencies if isinstance(frequencies, FrequencyBands) else parse(FrequencyBands, frequencies, "frequencies")
    )
    name = only_clip(store, clip)
    spec = store.spec(clip_groups(store, name)[0][0])
    dataset = find_points(
        store,
        points_array(points),
        clip=name,
        step=_only("step", step, spec.steps),
        layer=_only("layer", layer, spec.layers),
        frame=frame,
        heads=heads,
        kind=known,
        frequencies=bands,
        params=params,
    )
    return PointMatches(dataset, store, None if heads is None else tuple(heads), params, bands)


def _only(name: str, chosen: int | None, stored: Sequence[int]) -> int:
    if chosen is not None:
        return chosen
    if len(stored) > 1:
        raise ValueError(f"several {name}s are stored; name one of {list(stored)}")
    return stored[0]

"""Propagates labels of some frames to all others: each token takes the labels of the context tokens that it matches."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import normalize

from difftrack.correspondence import Descriptors, MatchingParams, match_rows
from difftrack.propagation._params import PropagationParams

__all__ = ["DescriptorChunk", "propagate_labels"]

Labels = Float[Tensor, "class row col"]

_COSINE_TEMPERATURE = 0.1


@dataclass(frozen=True, slots=True)
class DescriptorChunk:
    """Descriptors of frames that ran through the backbone together; read when needed.

    Raises:
        ValueError: the chunk has fewer than two frames, or a duplicate.
    """

    frames: tuple[int, ...]
    """Video frame of each latent frame; the anchor first."""
    read: Callable[[], Sequence[Descriptors]]
    """Return (query, key) of each averaged (step, layer), for the selected heads; a kind that is compared with itself
    is both.
    """

    def __post_init__(self) -> None:
        if len(self.frames) < 2 or len(set(self.frames)) < len(self.frames):
            raise ValueError(f"a chunk's frames are {list(self.frames)}; expected two or more different ones")


def propagate_labels(
    chunks: Iterable[DescriptorChunk],
    given: Mapping[int, Float[Tensor, "_ row col"]],
    params: PropagationParams,
) -> dict[int, Float[Tensor, "_ row col"]]:
    """Propagate labels from the anchor of each chunk to its other frames, the nearest first.

    With C the match probabilities between token i of the target frame t and token j of a context frame c, averaged over
    (step, layer) and heads as `correspondence.match_rows` defines them,

        W[i, (c, j)] = C_tc[i, j]  where |i - j| <= radius and among the top_k of i over all c, else 0
        L_t[i] = sum_cj W[i, (c, j)] L_c[j] / sum_cj W[i, (c, j)]

    The context is the anchor and the `num_context` labelled frames of the same chunk that come before the target, seen
    from the anchor. A frame in several chunks is labelled in the first, and is context in the others. Chunks whose
    anchor has no given labels are left out.

    Args:
        chunks: Chunks in processing order; each is read at most once.
        given: Video frame -> labels, for every anchor that is used. Labels of a token that sum to 1 over the classes do
            so in every frame.
        params: `kind`, `directions`, `num_context`, `radius_token`, `top_k` and `temperature` matter here.

    Returns:
        Video frame -> labels, for all frames of the used chunks; the given ones are unchanged.

    Raises:
        ValueError: no chunk has an anchor with given labels, or descriptors and labels have different grids.

    Source:
        Label propagation as of Jabri et al. 2020 (arXiv 2006.14613), appendix A; here match probabilities averaged over
        heads replace one softmax over cosines.
    """
    labels = {frame: own.float() for frame, own in given.items()}
    anchors: list[int] = []
    for chunk in chunks:
        anchors.append(chunk.frames[0])
        if chunk.frames[0] not in given:
            continue
        if all(frame in labels for frame in chunk.frames):
            continue
        _fill(chunk, labels, params)
    if not set(anchors) & set(given):
        raise ValueError(
            f"labels are given for frames {sorted(given)}, but the chunks start at frames {sorted(set(anchors))}; "
            "give labels for one of these"
        )
    return labels


def _fill(chunk: DescriptorChunk, labels: dict[int, Tensor], params: PropagationParams) -> None:
    """Label the frames of one chunk that have no labels yet."""
    pairs = [_comparable(pair, params) for pair in chunk.read()]
    anchor = chunk.frames[0]
    grid = labels[anchor].shape[1:]
    for query, key in pairs:
        if not query.shape[1:4] == key.shape[1:4] == (len(chunk.frames), *grid):
            raise ValueError(
                f"query {list(query.shape)} and key {list(key.shape)} do not fit; expected [head, latent_frame, row, "
                f"col, channel] with {[len(chunk.frames), *grid]} in the middle"
            )
    near = _near(*grid, radius=params.radius_token).to(pairs[0][0].device)
    outward = sorted(range(1, len(chunk.frames)), key=lambda place: abs(chunk.frames[place] - anchor))
    seen: list[int] = []
    for place in outward:
        frame = chunk.frames[place]
        if frame not in labels:
            side = [other for other in seen if (chunk.frames[other] > anchor) == (frame > anchor)]
            context = [0, *(side[-params.num_context :] if params.num_context else [])]
            labels[frame] = _attend(pairs, place, context, [labels[chunk.frames[c]] for c in context], near, params)
        seen.append(place)


def _attend(
    pairs: Sequence[Descriptors],
    target: int,
    context: Sequence[int],
    labels: Sequence[Labels],
    near: Bool[Tensor, "target_token token"],
    params: PropagationParams,
) -> Labels:
    """Label one frame from its context."""
    device = pairs[0][0].device
    known = torch.stack([own.to(device) for own in labels]).flatten(2).transpose(1, 2).flatten(0, 1)  # [c token, class]
    num_tokens = len(near)
    matching = _matching(params)
    batch = max(1, params.memory_limit_mb * 2**20 // (12 * len(context) * num_tokens))
    parts = []
    for tokens in torch.split(torch.arange(num_tokens, device=device), batch):
        rows = [
            match_rows(pairs, tokens, source_frame=target, target_frames=range(c, c + 1), params=matching)[0]
            for c in context
        ]
        # Where all probabilities vanish, the tokens within the radius have equal weights.
        least = torch.finfo(torch.float32).tiny
        weights = torch.stack([torch.where(near[tokens], row.clamp(min=least), 0.0) for row in rows], dim=1).flatten(1)
        if params.top_k is not None and params.top_k < weights.shape[1]:
            last = weights.topk(params.top_k, dim=1).values[:, -1:]
            weights = torch.where(weights >= last, weights, 0.0)
        parts.append(_unit_rows(weights) @ known)
    found: Tensor = torch.cat(parts).T.reshape(labels[0].shape)
    return found


def _unit_rows(weights: Float[Tensor, "token other"]) -> Float[Tensor, "token other"]:
    """Scale each row to sum 1; first by its largest entry, so that the smallest floats do not underflow."""
    weights = weights / weights.amax(dim=1, keepdim=True)
    unit: Tensor = weights / weights.sum(dim=1, keepdim=True)
    return unit


def _comparable(pair: Descriptors, params: PropagationParams) -> Descriptors:
    """Scale descriptors so that their products are the kind's scores: cosines, except for queries with keys."""
    if params.kind == "query_key":
        return pair
    if params.kind == "feature":
        first, second = (normalize(part.float().movedim(0, -2).flatten(-2)[None], dim=-1) for part in pair)
        return first, second
    first, second = (normalize(part.float(), dim=-1) for part in pair)
    return first, second


def _matching(params: PropagationParams) -> MatchingParams:
    own = "root_channel" if params.kind == "query_key" else _COSINE_TEMPERATURE
    return MatchingParams(
        directions=params.directions,
        temperature=own if params.temperature is None else params.temperature,  # type: ignore[arg-type]
        memory_limit_mb=params.memory_limit_mb,
    )


def _near(rows: int, cols: int, *, radius: int | None) -> Bool[Tensor, "token token"]:
    """Return which tokens lie within the radius of each other, along rows and along columns."""
    token = torch.arange(rows * cols)
    if radius is None:
        return torch.ones(len(token), len(token), dtype=torch.bool)
    row, col = token // cols, token % cols
    return ((row[:, None] - row).abs() <= radius) & ((col[:, None] - col).abs() <= radius)

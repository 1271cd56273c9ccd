"""The two costly computations: softmax rows averaged over heads, and the model's own attention."""

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor

from difftrack.correspondence._blocked import attention_parts_blocked, back_sums_blocked, pair_rows_blocked
from difftrack.correspondence._params import MatchingParams
from difftrack.correspondence._reference import attention_parts_reference, pair_rows_reference

__all__ = ["attention_parts", "back_sums", "choose_backend", "pair_rows"]

HAS_TRITON = importlib.util.find_spec("triton") is not None


def choose_backend(params: MatchingParams, *, on_cuda: bool) -> str:
    """Return the backend that runs.

    Raises:
        ValueError: `backend: triton` is forced where it cannot run.
    """
    if params.backend == "auto":
        return "triton" if on_cuda and HAS_TRITON else "blocked"
    if params.backend == "triton" and not HAS_TRITON:
        raise ValueError("backend is 'triton', but Triton is not installed here; use 'auto' or 'blocked'")
    return params.backend


def pair_rows(
    query: Float[Tensor, "head latent_frame token channel"],
    key: Float[Tensor, "head latent_frame token channel"],
    tokens: Int[Tensor, " query_token"],
    *,
    source_frame: int,
    targets: range,
    params: MatchingParams,
    head_weights: Float[Tensor, " head"] | None = None,
    per_head: bool = False,
    known_back_sums: Float[Tensor, "head latent_frame token"] | None = None,
) -> Float[Tensor, "group target_frame query_token token"]:
    """Give the match probabilities of some tokens of one latent frame over all tokens of others, in float32.

        F_h[i, x] = softmax_x(scale <q_hsi, k_hjx>)
        B_h[i, x] = softmax_i(scale <q_hjx, k_hsi>), the softmax over all tokens i
        C = sum_h w_h (F_h + B_h) / 2, or sum_h w_h F_h with `directions: forward`

    Args:
        query: Descriptors of one (layer, step); any float type.
        key: Keys of the same layer and step.
        tokens: Tokens i of the source frame, each at most once.
        source_frame: s.
        targets: Consecutive latent frames j.
        params: `directions`, `temperature` and `backend` matter here.
        head_weights: w, which sums to 1; uniform when None. Heads of weight 0 are skipped. Keep it on the CPU to avoid
            a wait for the GPU.
        per_head: Give C of every head alone instead of the mean.
        known_back_sums: From `back_sums` of the same descriptors, source frame and scale; for few tokens on a CPU they
            save nearly all work of B.

    Returns:
        C, with a leading axis of all heads, or of length one.
    """
    num_heads, _, _, num_channels = query.shape
    scale = params.score_scale(num_heads=num_heads, num_channels=num_channels)
    if head_weights is not None:
        used = head_weights.cpu().nonzero().flatten()
        if len(used) < num_heads:
            on_device = used.to(query.device, non_blocking=True)
            query, key, head_weights = query[on_device], key[on_device], head_weights[used.to(head_weights.device)]
            known_back_sums = None if known_back_sums is None else known_back_sums[on_device]
        head_weights = head_weights.to(query.device, non_blocking=True)
    backend: dict[str, Callable[..., Tensor]] = {
        "reference": pair_rows_reference,
        "blocked": partial(
            pair_rows_blocked,
            back_sums=None if known_back_sums is None else known_back_sums[:, targets.start : targets.stop],
        ),
        "triton": partial(_triton, "pair_rows_triton"),
    }
    return backend[_backend_for(tokens, params, on_cuda=query.is_cuda)](
        query,
        key,
        tokens,
        source_frame=source_frame,
        targets=slice(targets.start, targets.stop),
        head_weights=head_weights,
        scale=scale,
        both=params.directions == "both",
        per_head=per_head,
    )


def back_sums(
    query: Float[Tensor, "head latent_frame token channel"],
    key: Float[Tensor, "head latent_frame token channel"],
    *,
    source_frame: int,
    params: MatchingParams,
) -> Float[Tensor, "head latent_frame token"]:
    """Compute the normalisers of the backward softmaxes of `pair_rows`: log2 sum_i exp(scale <q_hjx, k_hsi>).

    Args:
        query: Descriptors of one (layer, step); any float type.
        key: Keys of the same layer and step.
        source_frame: s.
        params: `temperature` matters here.
    """
    scale = params.score_scale(num_heads=query.shape[0], num_channels=query.shape[-1])
    return back_sums_blocked(query, key, source_frame=source_frame, scale=scale)


def attention_parts(
    query: Float[Tensor, "head token channel"],
    key: Float[Tensor, "head latent_frame token channel"],
    text_key: Float[Tensor, "head text_token channel"],
    text_mask: Bool[Tensor, " text_token"] | None,
    tokens: Int[Tensor, " point"],
    *,
    params: MatchingParams,
    mean: bool,
    per_head: bool,
) -> tuple[
    Float[Tensor, "head part point"], Float[Tensor, "part point"] | None, Float[Tensor, "head part point"] | None
]:
    """Reduce the attention of some tokens over text and video, temperature sqrt(channel), part by part.

    Part 0 is the text (0 where there is none), part 1 + j latent frame j.

    Args:
        query: Queries of all tokens of one latent frame.
        key: Keys of the video.
        text_key: Keys of the text.
        text_mask: Text tokens that count; all when None.
        tokens: Query tokens of the points.
        params: `backend` and `memory_limit_mb` matter here.
        mean: Return the largest values of the mean over heads.
        per_head: Return the largest values of every head alone.

    Returns:
        Mass of every part in every head, largest value in the mean over heads, largest value in every head.
    """
    backend: dict[str, Callable[..., Any]] = {
        "reference": attention_parts_reference,
        "blocked": partial(attention_parts_blocked, memory_limit_mb=params.memory_limit_mb),
        "triton": partial(_triton, "attention_parts_triton"),
    }
    chosen = backend[_backend_for(tokens, params, on_cuda=key.is_cuda)]
    parts: tuple[Tensor, Tensor | None, Tensor | None]
    parts = chosen(query, key, text_key, text_mask, tokens, mean=mean, per_head=per_head)
    return parts


def _backend_for(tokens: Tensor, params: MatchingParams, *, on_cuda: bool) -> str:
    """Choose a backend; no points means no kernel."""
    chosen = choose_backend(params, on_cuda=on_cuda)
    return chosen if len(tokens) or chosen != "triton" else "blocked"


def _triton(name: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
    from difftrack.correspondence import kernels

    return getattr(kernels, name)(*args, **kwargs)

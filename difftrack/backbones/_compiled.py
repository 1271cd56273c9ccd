"""Compiled transformer blocks whose attention can be captured and replaced without recompilation.

A capture is Python state: a function and its counters. Inside a compiled graph such state is a guard, and every new
function would mean a new graph until the compiler gives up. So the graph always holds the same opaque operator in place
of scaled-dot-product attention. A tensor tells the operator its layer, and it looks up outside of the graph whether an
interception is active there.
"""

from collections.abc import Callable, Iterable, Mapping
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

__all__ = ["ARGUMENTS", "attend_by", "attend_plainly", "compile_blocks", "is_compiled"]

_SLOT = "_difftrack_slot"
"""Attribute of a compiled block's attention module: a tensor with the number that identifies its calls."""
ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
"""Arguments of scaled-dot-product attention by position."""
_DEFAULTS: Mapping[str, Any] = {
    "attn_mask": None,
    "dropout_p": 0.0,
    "is_causal": False,
    "scale": None,
    "enable_gqa": False,
}
_MOST_GRAPHS = 64
"""Graphs of a block: one for each shape of its inputs."""

_slots = count()
_attending: dict[int, Callable[[dict[str, Any]], Tensor]] = {}
_operators: dict[str, Any] = {}


def compile_blocks(blocks: Iterable[nn.Module], attention: Iterable[nn.Module], *, backend: str = "inductor") -> None:
    """Compile blocks in place, so that `attend_by` can intercept the calls of their attention.

    All blocks of a class share their graphs. Results equal uncompiled ones up to rounding.

    Args:
        blocks: Of one transformer.
        attention: The modules in them whose calls `attend_by` may intercept.
        backend: Of torch.compile.
    """
    if "attention" not in _operators:
        _operators["attention"] = _operator()
    config = torch._dynamo.config
    config.recompile_limit = max(config.recompile_limit, _MOST_GRAPHS)
    tapped: dict[type[nn.Module], type[nn.Module]] = {}
    for module in attention:
        kind = type(module)
        setattr(
            module, _SLOT, torch.tensor(next(_slots))
        )  # not a buffer, so it stays on the CPU and out of the weights
        module.__class__ = tapped.setdefault(kind, _tapped(kind))
    for block in blocks:
        block.compile(backend=backend, dynamic=False)


def is_compiled(module: nn.Module) -> bool:
    """Return whether `compile_blocks` was called for this attention module."""
    return _SLOT in module.__dict__


def attend_by(module: nn.Module, attend: Callable[[dict[str, Any]], Tensor]) -> None:
    """Pass every scaled-dot-product attention call in a module of `compile_blocks` to a function, arguments by name.

    The arguments are copies, because the compiler reuses the model's own memory.
    """
    _attending[int(getattr(module, _SLOT))] = attend


def attend_plainly(module: nn.Module) -> None:
    """Restore torch's attention in a module of `compile_blocks`."""
    _attending.pop(int(getattr(module, _SLOT)), None)


def _tapped(kind: type[nn.Module]) -> type[nn.Module]:
    """A class of the same name whose forward runs inside the function mode; shared, so that graphs are."""
    inner: Any = kind.forward

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        with _OperatorMode(getattr(self, _SLOT)):
            return inner(self, *args, **kwargs)

    named = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "forward": forward}
    return type(kind.__name__, (kind,), named)


class _OperatorMode(TorchFunctionMode):
    """Replaces scaled-dot-product attention with the operator."""

    def __init__(self, slot: Tensor) -> None:
        super().__init__()
        self._slot = slot
        self._operator = _operators["attention"]

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        given = dict(kwargs or {})
        if func is torch.Tensor.unflatten:  # the compiler does not follow torch's own spelling inside a mode
            tensor, dim, sizes = args
            at = dim % tensor.ndim
            return tensor.reshape(*tensor.shape[:at], *sizes, *tensor.shape[at + 1 :])
        if func is not scaled_dot_product_attention:
            return func(*args, **given)
        given |= dict(zip(ARGUMENTS, args, strict=False))
        ordered = [given[name] if name in given else _DEFAULTS[name] for name in ARGUMENTS]
        return self._operator(self._slot, *ordered)


def _operator() -> Any:  # noqa: ANN401
    """`difftrack::attention`; it is created when something is first compiled, because that takes a moment."""
    made = torch.library.custom_op("difftrack::attention", _attention, mutates_args=(), schema=_SCHEMA)
    made.register_fake(_shape_of_attention)
    return made


_SCHEMA = (
    "(Tensor slot, Tensor query, Tensor key, Tensor value, Tensor? attn_mask, float dropout_p, bool is_causal, "
    "float? scale, bool enable_gqa) -> Tensor"
)


def _attention(slot: Tensor, *ordered: Any) -> Tensor:  # noqa: ANN401
    given = dict(zip(ARGUMENTS, ordered, strict=True))
    attend = _attending.get(int(slot))
    if attend is None:
        output: Tensor = scaled_dot_product_attention(**given)
        return _laid_out(output)
    kept = {name: value.clone() if isinstance(value, Tensor) else value for name, value in given.items()}
    return _laid_out(attend(kept)).clone()


def _shape_of_attention(slot: Tensor, query: Tensor, key: Tensor, value: Tensor, *others: Any) -> Tensor:  # noqa: ANN401
    batch, heads, tokens, _ = query.shape
    return query.new_empty(batch, tokens, heads, value.shape[-1]).transpose(1, 2)


def _laid_out(output: Tensor) -> Tensor:
    """Lay heads out behind tokens in memory, as flash attention does, for any kernel."""
    return output.transpose(1, 2).contiguous().transpose(1, 2)

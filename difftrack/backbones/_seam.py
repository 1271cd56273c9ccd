"""The only place that reads or replaces attention inside an unmodified diffusers transformer.

Every architecture ends its attention in `torch.nn.functional.scaled_dot_product_attention`, where query and key are
final: normalised, rotated, split into heads. `intercept` passes that call, only while a chosen module runs, to a
    function of the caller. A function that calls `AttentionCall.run` observes the attention; one that returns something
    else replaces it. Interceptions nest: the newest sees the result of all older ones, so a capture inside an
    intervention records what the model really uses. Why this seam and no other: docs/decisions/0004-capture-seam.md.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from difftrack.backbones._compiled import ARGUMENTS, attend_by, attend_plainly, is_compiled

__all__ = ["AttentionCall", "AttentionFunction", "EditFunction", "intercept"]

_HOOK = "difftrack"


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One call of scaled-dot-product attention, about to happen inside a chosen module."""

    layer: int
    """0-based transformer block in execution order."""
    arguments: Mapping[str, Any]
    """The call's arguments by name, as the model and the edits of all interceptions gave them."""
    onward: "Callable[[Mapping[str, Any]], Tensor] | None" = field(default=None, repr=False)
    """Older interceptions of the same module; None if torch comes next."""

    @property
    def query(self) -> Float[Tensor, "batch head token channel"]:
        """Final queries: normalised and rotated."""
        query: Tensor = self.arguments["query"]
        return query

    @property
    def key(self) -> Float[Tensor, "batch head token channel"]:
        """Final keys, repeated where several query heads share one."""
        key: Tensor = self.arguments["key"]
        return key.repeat_interleave(self.query.shape[1] // key.shape[1], dim=1) if self._shares_keys else key

    @property
    def value(self) -> Float[Tensor, "batch head token channel"]:
        """Values, repeated where several query heads share one."""
        value: Tensor = self.arguments["value"]
        return value.repeat_interleave(self.query.shape[1] // value.shape[1], dim=1) if self._shares_keys else value

    @property
    def mask(self) -> Shaped[Tensor, "batch #head #query_token token"] | None:
        """Boolean (True = may be attended) or additive mask; None if every token attends to every token."""
        mask: Tensor | None = self.arguments.get("attn_mask")
        return mask

    @property
    def _shares_keys(self) -> bool:
        return bool(self.arguments.get("enable_gqa", False))

    def run(self) -> Float[Tensor, "batch head token channel"]:
        """Attend exactly as without this interception: same function, same arguments."""
        if self.onward is not None:
            return self.onward(self.arguments)
        return torch.nn.functional.scaled_dot_product_attention(**self.arguments)

    def with_heads(self, **tensors: Float[Tensor, "batch head token channel"]) -> "AttentionCall":
        """Replace `query`, `key` or `value`; keys and values have an entry for every query head."""
        own = {"key": self.key, "value": self.value, "enable_gqa": False} if self._shares_keys else {}
        return replace(self, arguments={**self.arguments, **own, **tensors})


AttentionFunction = Callable[[AttentionCall], Tensor]
"""Replaces scaled-dot-product attention; returns `[batch, head, token, channel]`."""

EditFunction = Callable[[AttentionCall], AttentionCall]
"""Changes a call's query, key or value before any interception sees it; see `AttentionCall.with_heads`."""


@contextmanager
def intercept(
    modules: Mapping[int, nn.Module], attend: AttentionFunction, *, edit: EditFunction | None = None
) -> Iterator[None]:
    """Pass every attention call inside the given modules to `attend`; restore the modules at the end.

    Where interceptions of one module nest, all their edits run first, from the oldest on. Then the newest attends; its
    `AttentionCall.run` calls the next older one, and the oldest one's calls torch.

    Args:
        modules: Attention module of each layer, or a `ModuleList` of alternating ones. The layer number is only a label
            for `AttentionCall.layer`.
        attend: Called in place of scaled-dot-product attention. It may raise to stop the forward.
        edit: Changes query, key or value beforehand.

    Source:
        The technique of diffusers' own `hooks/layer_skip.py`, a function mode around one module's forward.
    """
    with ExitStack() as stack:
        for layer, module in modules.items():
            for part in module if isinstance(module, nn.ModuleList) else (module,):
                scope = _compiled if is_compiled(part) else _hooked
                stack.enter_context(scope(part, _Interception(layer, attend, edit)))
        yield


@dataclass(frozen=True, slots=True, eq=False)
class _Interception:
    """One context of `intercept`, at one module."""

    layer: int
    attend: AttentionFunction
    edit: EditFunction | None


class _ScopeHook(ModelHook):
    """Runs one module's forward inside the function mode."""

    def __init__(self, attributes_before: set[str]) -> None:
        super().__init__()
        self.attributes_before = attributes_before
        """The module's attributes before it had this hook."""
        self.interceptions: list[_Interception] = []
        """Interceptions, the oldest first."""

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        with _AttentionMode(self.interceptions):
            return self.fn_ref.original_forward(*args, **kwargs)


class _AttentionMode(TorchFunctionMode):
    """Passes scaled-dot-product attention to interceptions and everything else to torch."""

    def __init__(self, interceptions: Sequence[_Interception]) -> None:
        super().__init__()
        self._interceptions = tuple(interceptions)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        arguments: Mapping[str, Any] = dict(zip(ARGUMENTS, args, strict=False)) | dict(kwargs or {})
        return _edit_and_attend(self._interceptions, arguments)


def _edit_and_attend(interceptions: Sequence[_Interception], arguments: Mapping[str, Any]) -> Tensor:
    """Apply the edits of all interceptions, the oldest first; then let the newest one attend."""
    for one in interceptions:
        if one.edit is not None:
            arguments = one.edit(AttentionCall(one.layer, arguments)).arguments
    return _attend_through(tuple(interceptions), arguments)


def _attend_through(interceptions: tuple[_Interception, ...], arguments: Mapping[str, Any]) -> Tensor:
    """Let the newest of these interceptions attend; it may call the older ones."""
    *older, newest = interceptions
    onward = partial(_attend_through, tuple(older)) if older else None
    return newest.attend(AttentionCall(newest.layer, arguments, onward))


@contextmanager
def _hooked(module: nn.Module, interception: _Interception) -> Iterator[None]:
    """Add an interception to a module's hook; the last one removes the hook and diffusers' empty registry."""
    attributes_before = set(module.__dict__)
    registry = HookRegistry.check_if_exists_or_initialize(module)
    hook = registry.get_hook(_HOOK)
    if hook is None:
        hook = _ScopeHook(attributes_before)
        registry.register_hook(hook, _HOOK)
    hook.interceptions.append(interception)
    try:
        yield
    finally:
        hook.interceptions.remove(interception)
        if not hook.interceptions:
            registry.remove_hook(_HOOK, recurse=False)
            for leftover in {"forward", "_diffusers_hook"} - hook.attributes_before:
                delattr(module, leftover)


_of_compiled: WeakKeyDictionary[nn.Module, list[_Interception]] = WeakKeyDictionary()
"""Interceptions of each compiled module, the oldest first; an attribute of the module would recompile its graph."""


@contextmanager
def _compiled(module: nn.Module, interception: _Interception) -> Iterator[None]:
    """Add an interception to a module of a compiled block; the last one restores torch's attention."""
    interceptions = _of_compiled.setdefault(module, [])
    interceptions.append(interception)
    attend_by(module, partial(_edit_and_attend, interceptions))
    try:
        yield
    finally:
        interceptions.remove(interception)
        if not interceptions:
            del _of_compiled[module]
            attend_plainly(module)

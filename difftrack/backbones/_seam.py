"""The one seam that taps or replaces attention inside an unmodified diffusers transformer.

Every architecture ends its attention in `torch.nn.functional.scaled_dot_product_attention`, where query and key are
final: normalised, rotated, split into heads. `intercept` hands that call, and only while a chosen module runs, to a
function of the caller: one that calls `AttentionCall.run` taps it, one that returns something else replaces it.
Why this seam and no other: docs/decisions/0004-capture-seam.md.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from diffusers.hooks.hooks import HookRegistry, ModelHook
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from difftrack.backbones._compiled import attended, is_compiled

__all__ = ["AttentionCall", "AttentionFunction", "intercept"]

_HOOK = "difftrack"
_ARGUMENTS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")


@dataclass(frozen=True, slots=True)
class AttentionCall:
    """One call of scaled-dot-product attention, about to happen inside a chosen module."""

    layer: int
    """0-based transformer block in execution order."""
    arguments: Mapping[str, Any]
    """The call's arguments by name, as the model gave them."""

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
        """Boolean (True = may be attended) or additive mask; None where every token attends to every token."""
        mask: Tensor | None = self.arguments.get("attn_mask")
        return mask

    @property
    def _shares_keys(self) -> bool:
        return bool(self.arguments.get("enable_gqa", False))

    def run(self) -> Float[Tensor, "batch head token channel"]:
        """Attend exactly as the model would have: same function, same arguments."""
        return torch.nn.functional.scaled_dot_product_attention(**self.arguments)


AttentionFunction = Callable[[AttentionCall], Tensor]
"""Takes the place of scaled-dot-product attention; returns `[batch, head, token, channel]`."""


@contextmanager
def intercept(modules: Mapping[int, nn.Module], attend: AttentionFunction) -> Iterator[None]:
    """Hand every attention call inside the given modules to `attend`; leave nothing behind on the way out.

    Args:
        modules: Attention module of each layer, or a `ModuleList` of those that take turns in it. The layer number is
            only a label for `AttentionCall.layer`.
        attend: Called in place of scaled-dot-product attention. May raise to stop the forward.

    Source:
        The technique of diffusers' own `hooks/layer_skip.py`, a function mode around one module's forward.
    """
    with ExitStack() as stack:
        for layer, module in modules.items():
            for part in module if isinstance(module, nn.ModuleList) else (module,):
                if is_compiled(part):
                    stack.enter_context(attended(part, partial(_call, layer, attend)))
                else:
                    stack.enter_context(_hooked(part, _ScopeHook(layer, attend)))
        yield


def _call(layer: int, attend: AttentionFunction, arguments: Mapping[str, Any]) -> Tensor:
    return attend(AttentionCall(layer, arguments))


class _ScopeHook(ModelHook):
    """Runs one module's forward inside the function mode."""

    def __init__(self, layer: int, attend: AttentionFunction) -> None:
        super().__init__()
        self._layer = layer
        self._attend = attend

    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        with _AttentionMode(self._layer, self._attend):
            return self.fn_ref.original_forward(*args, **kwargs)


class _AttentionMode(TorchFunctionMode):
    """Hands scaled-dot-product attention to the caller's function and everything else to torch."""

    def __init__(self, layer: int, attend: AttentionFunction) -> None:
        super().__init__()
        self._layer = layer
        self._attend = attend

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        arguments = dict(zip(_ARGUMENTS, args, strict=False)) | dict(kwargs or {})
        return self._attend(AttentionCall(self._layer, arguments))


@contextmanager
def _hooked(module: nn.Module, hook: ModelHook) -> Iterator[None]:
    """Register a hook, and remove it together with the attributes that diffusers' registry leaves on the module."""
    attributes_before = set(module.__dict__)
    registry = HookRegistry.check_if_exists_or_initialize(module)
    registry.register_hook(hook, _HOOK)
    try:
        yield
    finally:
        registry.remove_hook(_HOOK, recurse=False)
        for leftover in {"forward", "_diffusers_hook"} - attributes_before:
            delattr(module, leftover)

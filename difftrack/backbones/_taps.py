"""Records inputs or outputs of modules besides attention, at no cost if none are requested."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

__all__ = ["FEATURE", "NO_TAPS", "UNROTATED", "Taps"]

FEATURE = "feature"
UNROTATED = ("query_pre_rotary", "key_pre_rotary")

Heard = Callable[[int, str, object], None]
"""Called with layer, name and value."""


@dataclass(frozen=True, slots=True)
class Taps:
    """Modules to record, by layer."""

    unrotated: Mapping[int, Mapping[str, nn.Module]] = field(default_factory=dict)
    """Modules whose outputs are query and key before rotary positions turn them, by `UNROTATED`."""
    features: Mapping[int, nn.Module] = field(default_factory=dict)
    """Module whose input or output is the hidden state."""
    takes_in: bool = False
    """Whether the hidden state is the module's input."""

    @contextmanager
    def listen(self, heard: Heard) -> Iterator[None]:
        """Call `heard` with every value; remove all hooks at the end.

        Query and key before the rotation are copied, because some models turn them in place.
        """
        handles = []
        try:
            for layer, modules in self.unrotated.items():
                for name, module in modules.items():
                    handles.append(module.register_forward_hook(_telling(heard, layer, name)))
            for layer, module in self.features.items():
                if self.takes_in:
                    handles.append(module.register_forward_pre_hook(_telling_input(heard, layer), with_kwargs=True))
                else:
                    handles.append(module.register_forward_hook(_telling(heard, layer, FEATURE)))
            yield
        finally:
            for handle in handles:
                handle.remove()


NO_TAPS = Taps()


def _telling(heard: Heard, layer: int, name: str) -> Callable[..., None]:
    def tell(module: nn.Module, inputs: Any, output: Any) -> None:  # noqa: ANN401
        heard(layer, name, output.clone() if name in UNROTATED and isinstance(output, Tensor) else output)

    return tell


def _telling_input(heard: Heard, layer: int) -> Callable[..., None]:
    def tell(module: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        heard(layer, FEATURE, inputs[0] if inputs else named.get("hidden_states", next(iter(named.values()), None)))

    return tell

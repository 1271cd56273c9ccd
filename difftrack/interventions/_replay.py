"""Temporarily replaces a module's forward."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["Prefix", "blocks_around", "layers_around", "replaced_forward"]


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Call `forward` whenever `module` is called; restore the module at the end.

    A compiled module runs uncompiled meanwhile, so that `forward` causes no recompilation.
    """
    names = ("forward", "_compiled_call_impl")
    own = {name: module.__dict__[name] for name in names if name in module.__dict__}
    module.forward, module._compiled_call_impl = forward, None
    try:
        yield
    finally:
        for name in names:
            if name in own:
                setattr(module, name, own[name])
            else:
                delattr(module, name)


def blocks_around(transformer: nn.Module, modules: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the direct parent of each of `modules`."""
    names = {id(module): name for name, module in transformer.named_modules()}
    return [transformer.get_submodule(names[id(module)].rpartition(".")[0]) for module in modules]


def layers_around(transformer: nn.Module, modules: Sequence[nn.Module]) -> list[nn.Module]:
    """Return the layer, an entry of the transformer's list of layers, that contains each of `modules`."""
    names = {id(module): name for name, module in transformer.named_modules()}
    layers = []
    for module in modules:
        name = own = names[id(module)].rpartition(".")[0]
        while name and not isinstance(transformer.get_submodule(name.rpartition(".")[0]), nn.ModuleList):
            name = name.rpartition(".")[0]
        layers.append(transformer.get_submodule(name or own))
    return layers


class Prefix:
    """The blocks before the first perturbed layer, which need not run twice.

    Up to there the perturbed branch equals the conditional one, so the output of the last of these blocks is kept for
    one forward, and each of them returns it.

    Args:
        blocks: Blocks in execution order; may be empty.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self._blocks = blocks
        self._output: Any = None

    @contextmanager
    def recorded(self, rows: slice) -> Iterator[None]:
        """Keep these rows of the last block's output."""
        if not self._blocks:
            yield
            return
        run = self._blocks[-1].forward

        def forward(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
            output = run(*args, **kwargs)
            self._output = output[rows] if isinstance(output, Tensor) else tuple(part[rows] for part in output)
            return output

        with replaced_forward(self._blocks[-1], forward):
            yield

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Return the kept output instead of running the blocks, and free it afterwards."""
        with ExitStack() as stack:
            for block in self._blocks:
                stack.enter_context(replaced_forward(block, lambda *args, **kwargs: self._output))
            yield
        self._output = None

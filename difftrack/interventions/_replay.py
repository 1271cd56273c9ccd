"""Putting something else in the place of a module's forward, for a while."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

__all__ = ["Prefix", "blocks_around", "layers_around", "replaced_forward"]


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Call `forward` whenever `module` is called; leave the module as it was on the way out.

    A compiled module runs uncompiled meanwhile, so that nothing is compiled anew for the sake of `forward`.
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
    """The module that each of `modules` is a direct part of."""
    names = {id(module): name for name, module in transformer.named_modules()}
    return [transformer.get_submodule(names[id(module)].rpartition(".")[0]) for module in modules]


def layers_around(transformer: nn.Module, modules: Sequence[nn.Module]) -> list[nn.Module]:
    """The whole layer that each of `modules` is inside of: what stands in the transformer's list of layers."""
    names = {id(module): name for name, module in transformer.named_modules()}
    layers = []
    for module in modules:
        name = own = names[id(module)].rpartition(".")[0]
        while name and not isinstance(transformer.get_submodule(name.rpartition(".")[0]), nn.ModuleList):
            name = name.rpartition(".")[0]
        layers.append(transformer.get_submodule(name or own))
    return layers


class Prefix:
    """The blocks in front of the first perturbed layer, which need not run twice.

    Up to there the perturbed branch is the conditional one, so what the last of these blocks gave is kept for one
    forward, and given out again by each of them.

    Args:
        blocks: In execution order; may be none.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self._blocks = blocks
        self._output: Any = None

    @contextmanager
    def recorded(self, rows: slice) -> Iterator[None]:
        """Keep these rows of the batch that the last block gives."""
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
        """Give out what was kept in place of running the blocks, and let go of it afterwards."""
        with ExitStack() as stack:
            for block in self._blocks:
                stack.enter_context(replaced_forward(block, lambda *args, **kwargs: self._output))
            yield
        self._output = None

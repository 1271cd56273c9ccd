"""Applies all interventions of one context, at the capture seam and around blocks."""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from difftrack.backbones import AttentionCall, intercept
from difftrack.interventions._attends import Attend
from difftrack.interventions._attention import SequenceLayout
from difftrack.interventions._branches import Branch
from difftrack.interventions._edits import Edit, Target
from difftrack.interventions._errors import InterventionError
from difftrack.interventions._replay import layers_around, replaced_forward
from difftrack.interventions._sites import BranchName, Intervention, Site
from difftrack.interventions._skip import PassThrough, SkipLayer

__all__ = ["Engine", "Moment", "Part"]


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Entries of a batch that belong to one branch."""

    branch: BranchName | None
    """The branch; None if it does not matter."""
    entries: slice
    """Rows of the batch."""
    clip: int
    """Index of their first clip among those sampled at once."""


@dataclass(frozen=True, slots=True)
class Moment:
    """Step and branches of one transformer forward."""

    step: int | None
    batch_size: int
    parts: tuple[Part, ...]

    @classmethod
    def of(cls, step: int | None, branch: Branch | None, batch_size: int) -> "Moment":
        """One forward for one branch, or for both in one batch, unconditional half first."""
        if branch != "both":
            return cls(step, batch_size, (Part(branch, slice(0, batch_size), 0),))
        half = batch_size // 2
        parts = (Part("uncond", slice(0, half), 0), Part("cond", slice(half, batch_size), 0))
        return cls(step, batch_size, parts)

    def parts_of(self, batch_size: int, call: int) -> tuple[Part, ...]:
        """Split one attention call's batch by branch.

        Args:
            batch_size: Batch size of the call.
            call: Number of earlier calls of the same module within this forward: if clips' prompts differ in length, a
                module attends for each clip separately.
        """
        if batch_size == self.batch_size:
            return self.parts
        first = call * batch_size
        if batch_size > self.batch_size or first >= self.batch_size:
            raise InterventionError(
                f"call {call + 1} of a layer's attention has a batch of {batch_size}, which does not fit the forward's "
                f"batch of {self.batch_size}; set num_clips and calls to how the pipeline runs its branches"
            )
        found = []
        for part in self.parts:
            start, stop = max(part.entries.start, first), min(part.entries.stop, first + batch_size)
            if start < stop:
                clip = part.clip + start - part.entries.start
                found.append(Part(part.branch, slice(start - first, stop - first), clip))
        return tuple(found)


class Engine:
    """Runs interventions inside one transformer.

    Within a layer, edits of query, key and value come first, then ways of attending, then edits of the output; those of
    one kind run in list order, each on the result of the earlier ones.

    Args:
        interventions: Interventions to apply.
        modules: Attention over video tokens of every layer, in execution order.
        layout: Places of video and text in their sequence.
    """

    def __init__(
        self, interventions: Sequence[Intervention], modules: Sequence[nn.Module], layout: SequenceLayout
    ) -> None:
        for intervention in interventions:
            intervention.chosen("layers", len(modules))
            if not isinstance(intervention, Edit | Attend | SkipLayer):
                raise InterventionError(
                    f"{type(intervention).__name__} is not an intervention; derive from interventions.Edit or .Attend"
                )
        self._interventions = tuple(interventions)
        self._layout = layout
        self._modules = {
            layer: module
            for layer, module in enumerate(modules)
            if any(one.acts_in(layer) and not isinstance(one, SkipLayer) for one in interventions)
        }
        self._skipped = {
            layer: module
            for layer, module in enumerate(modules)
            if any(one.acts_in(layer) and isinstance(one, SkipLayer) for one in interventions)
        }
        self._memories: list[dict[Hashable, Any]] = [{} for _ in interventions]
        self._moment: Moment | None = None
        self._calls: dict[int, int] = {}
        self._left_out: set[int] = set()
        self._passing: dict[int, PassThrough] = {}
        self._seen: set[int] = set()
        self.acted = [0] * len(interventions)
        """How often each intervention has changed or recorded a tensor, or skipped a layer."""

    @contextmanager
    def installed(self, transformer: nn.Module) -> Iterator[None]:
        """Act inside this transformer; restore it at the end."""
        with ExitStack() as stack:
            stack.enter_context(intercept(self._modules, self._attend, edit=self._edit))
            layers, modules = list(self._skipped), list(self._skipped.values())
            for layer, block in zip(layers, layers_around(transformer, modules), strict=True):
                passing = self._passing.setdefault(layer, PassThrough(layer))
                passing.run = block.forward
                stack.enter_context(replaced_forward(block, partial(self._run_block, layer, passing)))
            yield

    def begin(self, moment: Moment) -> None:
        """Set the step and branches of the next forward."""
        self._moment = moment
        self._calls.clear()
        self._left_out.clear()

    def end(self) -> None:
        """Check a finished forward; guidance repeats layers of an earlier one without running them.

        Raises:
            InterventionError: a layer's attention was never seen.
        """
        self._seen |= self._calls.keys() | self._left_out
        silent = sorted(self._modules.keys() - self._seen)
        if silent:
            raise InterventionError(
                f"layers {silent} never called torch's scaled-dot-product attention, so nothing was perturbed there; "
                f"call transformer.set_attention_backend('native') and unset DIFFUSERS_ATTN_BACKEND"
            )

    def _edit(self, call: AttentionCall) -> AttentionCall:
        """Apply edits of query, key and value."""
        parts = self._parts(call)
        for target in ("query", "key", "value"):
            tensor = getattr(call, target)
            changed = self._edited(tensor, call.layer, parts, target)
            if changed is not tensor:
                call = call.with_heads(**{target: changed})
        return call

    def _attend(self, call: AttentionCall) -> Float[Tensor, "batch head token channel"]:
        """Replace the attention, and apply edits of its output."""
        parts = self._parts(call)
        self._calls[call.layer] = self._calls.get(call.layer, 0) + 1
        output = self._attended(call, parts)
        return self._edited(output, call.layer, parts, "output")

    def _parts(self, call: AttentionCall) -> tuple[Part, ...]:
        batch_size = len(call.query)
        moment = self._moment or Moment.of(None, None, batch_size)
        return moment.parts_of(batch_size, self._calls.get(call.layer, 0))

    def _at_work(self, kind: type[Intervention], layer: int, parts: Sequence[Part]) -> Iterator[tuple[int, Any, Part]]:
        step = None if self._moment is None else self._moment.step
        for number, intervention in enumerate(self._interventions):
            if isinstance(intervention, kind):
                for part in parts:
                    if intervention.acts_at(layer, step, part.branch):
                        yield number, intervention, part

    def _attended(self, call: AttentionCall, parts: Sequence[Part]) -> Float[Tensor, "batch head token channel"]:
        ways = list(self._at_work(Attend, call.layer, parts))
        output: Tensor | None = None
        batch_size, num_heads = call.query.shape[:2]
        for number, way, part in ways:
            self.acted[number] += 1
            heads = way.chosen("heads", num_heads)
            found = way.attend(call, part.entries, _index(heads), self._layout)
            if len(found) == batch_size and len(heads) == num_heads and heads == tuple(range(num_heads)):
                output = found
                continue
            output = call.run().clone() if output is None else output.clone()
            output[part.entries, _index(heads)] = found
        return call.run() if output is None else output

    def _edited(
        self,
        tensor: Float[Tensor, "batch head token channel"],
        layer: int,
        parts: Sequence[Part],
        target: Target,
    ) -> Float[Tensor, "batch head token channel"]:
        """Return the tensor with all edits of this target; the tensor itself if there are none."""
        num_heads, num_tokens = tensor.shape[1:3]
        own = tensor
        for number, edit, part in self._at_work(Edit, layer, parts):
            if edit.target != target:
                continue
            rows = _rows(edit.tokens, self._layout, num_tokens)
            heads = _index(edit.chosen("heads", num_heads))
            chosen = tensor[part.entries][:, heads][:, :, rows]
            if not chosen.numel():
                continue
            self.acted[number] += 1
            step = None if self._moment is None else self._moment.step
            site = Site(layer, step, part.branch, part.clip, self._layout, self._memories[number])
            changed = edit.edit(chosen, site)
            if changed is chosen:
                continue
            if tensor is own:
                tensor = own.clone()
            tensor[part.entries, heads, rows] = changed
        return tensor

    def _run_block(self, layer: int, passing: PassThrough, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        """Replace a block's forward."""
        moment = self._moment
        parts = (Part(None, slice(None), 0),) if moment is None else moment.parts
        skipped = dict.fromkeys(part for _, _, part in self._at_work(SkipLayer, layer, parts))
        for number in {number for number, _, _ in self._at_work(SkipLayer, layer, parts)}:
            self.acted[number] += 1
        if not skipped:
            return passing.run(*args, **kwargs)
        if len(skipped) == len(parts):
            self._left_out.add(layer)
            return passing(*args, **kwargs)
        (part,) = skipped
        return passing.mixed(part.entries, *args, **kwargs)


def _index(heads: Sequence[int]) -> list[int] | slice:
    """Return a slice for consecutive heads; a list of indices would make the host wait for the GPU."""
    first = heads[0] if heads else 0
    following = tuple(heads) == tuple(range(first, first + len(heads)))
    return slice(first, first + len(heads)) if following else list(heads)


def _rows(tokens: str, layout: SequenceLayout, num_tokens: int) -> slice:
    if tokens == "all":
        return slice(None)
    return layout.video(num_tokens) if tokens == "video" else layout.text(num_tokens)

"""Plan the stage `extract` from params and clips, and time one step with a probe."""

import time
from collections.abc import Mapping

import numpy as np
import torch

from difftrack.extraction import CapturedUnit, CapturePlan, ClipReader, ExtractParams, Mode
from difftrack.planning._plan import Plan, Rates
from difftrack.planning._ratios import recorded_ratio
from difftrack.store import DescriptorSpec, free_bytes, measured_ratio, planned_bytes, stored_bytes, trial_encoding

__all__ = ["plan_extraction", "probe"]


def plan_extraction(
    source: ClipReader,
    params: ExtractParams,
    outlines: Mapping[str, Mapping[str, DescriptorSpec]],
    *,
    name: str,
    store: str,
    rates: Rates | None = None,
    workers: int = 1,
    left_out: Mapping[str, str] | None = None,
) -> Plan:
    """Compute the plan of one store.

    Args:
        source: The clips and their backbone.
        params: The section `extract`.
        outlines: Clip -> group -> spec of what the group will contain.
        name: Name of the run, for messages.
        store: Path or URL of the store; existing shards are used to measure the compression ratio.
        rates: Measured rates from `probe`.
        workers: Number of workers that share the work.
        left_out: Clip that a rule leaves out -> the reason.
    """
    specs = [spec for groups in outlines.values() for spec in groups.values()]
    ratio, ratio_source = measured_ratio(store, params.store), f"measured in {store}"
    if ratio is None and rates is not None:
        ratio, ratio_source = rates.ratio, "from the probe's step"
    if ratio is None:
        ratio = recorded_ratio(params.store, computed_in=source.extractor.backbone.params.dtype)
        ratio_source = "recorded"
    return Plan(
        name=name,
        store=store,
        clips=len(outlines),
        groups=len(specs),
        steps=max((len(spec.steps) for spec in specs), default=0),
        layers=max((len(spec.layers) for spec in specs), default=0),
        units=sum(len(spec.units) for spec in specs),
        forwards=sum(_forwards(source, spec) for spec in specs),
        raw_bytes=sum(planned_bytes(spec, params.store) for spec in specs),
        there_bytes=stored_bytes(store, outlines),
        ratio=ratio,
        ratio_source=ratio_source,
        max_bytes=params.max_bytes,
        free_bytes=free_bytes(store),
        rates=rates,
        workers=workers,
        left_out=left_out or {},
        captures=_captures(outlines),
    )


def _captures(outlines: Mapping[str, Mapping[str, DescriptorSpec]]) -> tuple[str, ...]:
    plans = (CapturePlan.whole(group, spec) for groups in outlines.values() for group, spec in groups.items())
    return tuple(dict.fromkeys(str(plan) for plan in plans))


def probe(source: ClipReader, params: ExtractParams, clip: str) -> Rates:
    """Time one step of one clip, after the weights have been loaded.

    Args:
        source: The clips and their backbone.
        params: The section `extract`.
        clip: Name of a clip that can be run.
    """
    extractor, values = source.extractor, dict[str, np.ndarray]()

    def keep(unit: CapturedUnit) -> None:
        values.update({entry: tensor.float().cpu().clone().numpy() for entry, tensor in unit.tensors.items()})

    def one_step() -> tuple[DescriptorSpec, float, float]:
        """Return the spec, the seconds of a clip with one step, and the seconds of the step alone."""
        started = _now()
        extraction = source.prepare(clip)
        group, spec = next(iter(extraction.groups.items()))
        step, layers = spec.steps[-1], extractor.layers
        one_layer = extraction.plan(group).only([(step, layers[-1])])
        all_layers = extraction.plan(group).only((step, layer) for layer in layers)
        extraction.run(one_layer, keep)
        extraction.run(all_layers, lambda unit: None)
        between = _now()
        extraction.run(all_layers, lambda unit: None)
        return spec, between - started, _now() - between

    one_step()
    spec, whole, forward = one_step()
    ratio, encoded_bytes_per_s = trial_encoding(spec, params.store, values)
    return Rates(max(whole - 2 * forward, 0.0), forward, ratio, encoded_bytes_per_s)


def _forwards(source: ClipReader, spec: DescriptorSpec) -> int:
    """Count the forward passes of a group.

    The inversion runs every step from the clean end to the first requested step; `denoise` runs every step from its
    first.
    """
    params = source.extractor.params
    mode: Mode = spec.fingerprint_parts["mode"]
    sampled, first = 0, min(spec.steps)
    if mode == "denoise":
        first = params.first_step(spec.steps)
        guided = (
            params.denoise.cfg_scale != 1 and params.prompt == "clip" and not source.extractor.backbone.reads_guidance
        )
        sampled = (max(spec.steps) - first) * (2 if guided else 1)
    if "ddim_inversion" not in (mode, params.denoise.start if mode == "denoise" else None):
        return len(spec.steps) + sampled
    span = params.num_inference_steps - first
    each = 1 + params.inversion.iterations if params.inversion.form == "fixed_point" else 1
    back = span if params.inversion.report_round_trip else 0
    return len(spec.steps) + sampled + span * each + back


def _now() -> float:
    """Read the clock, in seconds, after the device has finished all queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()

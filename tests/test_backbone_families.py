"""Laws that every architecture obeys, each tested on a small saved pipeline folder of its own classes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import save_file
from tiny_pipelines import REPEATED, ROWS, VARIANTS, Unguarded, clip_size
from torch import Tensor

from difftrack.backbones import (
    CHECKPOINTS,
    Backbone,
    BackboneError,
    CaptureError,
    LayerDescriptors,
    ModelParams,
    intercept,
    load_backbone,
    round_trip_error,
)
from difftrack.backbones._params import Expert
from difftrack.backbones._sampling import TrajectoryRecorder
from difftrack.backbones.families.consisid._face import FaceFeatures, read_face
from difftrack.correspondence import ClipMatcher, MatchSection, label_matches, latent_to_frames
from difftrack.datasets import Clip
from difftrack.extraction import AnalysisParams, Extractor, ModeParams
from difftrack.guidance import Guidance, GuidanceError, guided
from difftrack.interventions import InterventionError, OwnFrame, intervening
from difftrack.metrics import score_clip
from difftrack.store import DescriptorSpec
from difftrack.testing import BackboneLaws
from difftrack.tracking import ChunkDescriptors, TrackParams, track_clip

pytestmark = [
    # diffusers' own: numpy 2 on a tensor, in three schedulers; autocast to float32 on a CPU, in Mochi's transformer.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept context:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:In CPU autocast, but the target dtype is not supported:UserWarning"),
]

PROMPT = "a red disc moves left"
TEXT_FIRST, TEXT_LAST = ("cogvideox", "easyanimate", "consisid"), ("hunyuan", "mochi", "motif", "framepack")


@dataclass(frozen=True)
class Case:
    name: str
    backbone: Backbone
    size: tuple[int, int, int]
    frames: np.ndarray
    latents: Tensor

    def conditions(self, latents: Tensor) -> dict[str, Any]:
        if not self.backbone.needs_image:
            return {}
        return {"conditioning": self.backbone.condition(self.frames[0], len(latents), frames_alone=False)}

    def predict(self, prompt: str = PROMPT) -> Tensor:
        embedding = self.backbone.embed(prompt)
        return self.backbone.predict(self.latents, torch.tensor(500), embedding, **self.conditions(self.latents))

    def capture(self, latents: Tensor, layers: list[int], prompt: str = PROMPT) -> dict[int, LayerDescriptors]:
        records = self.backbone.capture(
            latents,
            4,
            self.backbone.schedule(10, grid=self.backbone.token_grid(*self.size)),
            self.backbone.embed(prompt),
            layers=layers,
            **self.conditions(latents),
        )
        return {record.layer: record for record in records}

    @property
    def attends_to_text(self) -> bool:
        return self.name.startswith(TEXT_FIRST + TEXT_LAST)


DISTILLED = ("hunyuan-video", "framepack-i2v")
"""Rows that read a guidance scale as an input and run no other branch."""

FIRST_FRAME = ("2.5 from an image", "vace from an image")
"""Variants that read an image if they get one."""

FEATURES = ("heads", "attention", "mlp", "block", "attention_input", "mlp_input")
MISSING_STATES = {
    "hunyuan-video-1.5": (),
    "hunyuan-video": ("mlp", "mlp_input"),  # single-stream layers compute attention and feed-forward by one projection
    "motif": ("mlp", "mlp_input"),
    "framepack": ("mlp", "mlp_input"),
    "kandinsky-6": ("block",),  # the transformer calls the parts of its blocks, not the blocks
}
"""Hidden states that no module of a layer outputs by itself, by the start of a row's name."""

ONE_BRANCH_AT_A_TIME = (
    "hunyuan",
    "wan",
    "skyreels",
    "cosmos",
    "kandinsky",
    "chronoedit",
    "motif",
    "helios",
    "framepack",
)
"""Families whose pipelines run the branches of guided sampling one after the other; the others batch them."""


@pytest.fixture(scope="module", autouse=True)
def no_guardrail() -> Iterator[None]:
    """Cosmos samples behind a guardrail, whose package is not installed here."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("pipeline_cosmos2_video2world", "pipeline_cosmos2_5_predict"):
            patch.setattr(f"diffusers.pipelines.cosmos.{module}.CosmosSafetyChecker", Unguarded)
        yield


@pytest.fixture(
    scope="session",
    params=[pytest.param(name, marks=pytest.mark.long) if name in REPEATED else name for name in [*ROWS, *VARIANTS]],
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    save = (ROWS | VARIANTS)[request.param]
    params = ModelParams(image_condition="first_frame") if request.param.endswith(FIRST_FRAME) else ModelParams()
    backbone = load_backbone(f"path:{save(tmp_path_factory.mktemp('pipeline'))}", params)
    size = clip_size(request.param)
    frames = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    return Case(request.param, backbone, size, frames, backbone.encode(frames, frames_alone=False))


def test_every_named_backbone_has_a_small_folder_here() -> None:
    assert set(ROWS) == set(CHECKPOINTS)


# Capture


class TestLaws(BackboneLaws):
    """The laws of `difftrack.testing`, on a small saved folder of every row."""

    @pytest.fixture
    def backbone(self, case: Case) -> Backbone:
        return case.backbone

    @pytest.fixture
    def clip_size(self, case: Case) -> tuple[int, int, int]:
        return case.size

    @pytest.fixture
    def frames(self, case: Case) -> np.ndarray:
        return case.frames

    @pytest.fixture
    def latents(self, case: Case) -> Tensor:
        return case.latents

    @pytest.fixture(autouse=True)
    def settings(self, case: Case) -> None:
        self.cfg_scale = 6.0 if case.name in DISTILLED else 1.0
        self.frames_alone_together = 2 if "causal blocks" in case.name else 3
        if case.name.startswith("kandinsky-5"):
            self.rotary_tolerance = 2**-7  # this class rotates queries and keys in bfloat16
        missing = next((own for name, own in MISSING_STATES.items() if case.name.startswith(name)), ())
        self.features = tuple(feature for feature in FEATURES if feature not in missing)

    test_sampling_records_the_latents_that_enter_every_step = None  # type: ignore[assignment]
    """`test_sampled_trajectory_and_its_levels_are_the_stock_pipelines` below tests this, and more."""

    def check_analysis(self, units: Sequence[Any], spec: DescriptorSpec) -> None:
        """Captured descriptors can be matched and scored."""
        assert_scored(list(units), spec)

    def check_tracking(self, unit: Any, spec: DescriptorSpec) -> None:
        """Captured descriptors can be tracked."""
        descriptors = torch.from_numpy(unit.arrays["query"]), torch.from_numpy(unit.arrays["key"])
        chunk = ChunkDescriptors(frames=spec.frames, read=lambda step, layer: descriptors, heads=spec.heads)
        queries = np.array([[0, 9.0, 9.0], [0, 17.0, 9.0]], dtype=np.float32)
        tracks = track_clip([chunk], queries, sources=[(49, unit.layer)], grid=spec.grid, params=TrackParams())
        assert tracks.points_xy_px.shape == (len(spec.frames), 2, 2)
        assert np.isfinite(tracks.points_xy_px).all()


def test_a_small_folder_has_the_tokens_that_were_worked_out_by_hand(case: Case) -> None:
    grid = case.backbone.token_grid(*case.size)
    rows, cols = (5, 7) if case.name == "cogvideox-5b-i2v" else (3, 5)
    folded = not case.name.startswith(("cogvideox", "consisid")) or "1.5" in case.name
    assert (grid.num_latent_frames, grid.rows, grid.cols) == (2 if folded else 3, rows, cols)
    assert case.backbone.num_layers == 4


def test_text_is_where_it_belongs_and_padding_is_masked(case: Case) -> None:
    records = {prompt: case.capture(case.latents, [0], prompt)[0] for prompt in ("blue", PROMPT)}
    attended = [int(record.text_mask.sum()) for record in records.values()]
    if case.name.startswith(TEXT_FIRST):
        assert attended == [case.backbone.num_text_tokens] * 2  # padding takes part in its attention
    elif case.name.startswith(TEXT_LAST):
        words = [len(case.backbone.components["tokenizer"](prompt).input_ids) for prompt in records]
        assert attended[1] - attended[0] == words[1] - words[0] > 0
        for record in records.values():
            assert record.text_mask.tolist() == sorted(record.text_mask.tolist(), reverse=True)
    else:
        assert attended == [0, 0]
    if not case.name.startswith(
        ("hunyuan", "mochi", "kandinsky", "framepack")
    ):  # there, the pooled prompt modulates every layer
        one, other = records.values()
        assert torch.equal(one.query, other.query)
        assert torch.equal(one.key, other.key)


@pytest.mark.filterwarnings("ignore::UserWarning")  # flex attention warns that it is slow without a compiler
@pytest.mark.parametrize("name", ["wan2.1-1.3b", "hunyuan-video", "ltx-2b"])
def test_flex_attention_is_refused_by_name(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    backbone = load_backbone(f"path:{ROWS[name](tmp_path_factory.mktemp('pipeline'))}")
    _, height, width = clip_size(name)
    scale = backbone.spatial_stride
    latents = backbone.placeholder_latents(2, height // scale, width // scale)
    schedule, prompt = backbone.schedule(10, grid=backbone.grid_of(latents)), backbone.embed("")
    backbone.transformer.set_attention_backend("flex")
    try:
        with pytest.raises(CaptureError, match=r"0 records for 2 layers.*backend .*FLEX.*set_attention_backend"):
            list(backbone.capture(latents, 4, schedule, prompt, layers=[0, 1]))
    finally:
        backbone.transformer.set_attention_backend("native")
    assert len(list(backbone.capture(latents, 4, schedule, prompt, layers=[0, 1]))) == 2


# Modes


def test_sampled_trajectory_and_its_levels_are_the_stock_pipelines(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """Captures from the trajectory equal captures while the pipeline samples one branch, bit by bit."""
    used: list[Any] = []
    make = case.backbone.sampling_scheduler
    monkeypatch.setattr(case.backbone, "sampling_scheduler", lambda: (used.append(make()), used[-1])[1])
    on_the_way: list[Tensor] = []
    module = case.backbone.attention_modules()[1]
    image = {"image": case.frames[0]} if case.backbone.needs_image else {}
    with intercept({1: module}, lambda call: (on_the_way.append(call.query.clone()), call.run())[1]):
        num_frames, height, width = case.size
        generated = case.backbone.generate(
            PROMPT,
            seed=3,
            num_inference_steps=3,
            cfg_scale=6.0 if case.name in DISTILLED else 1.0,
            num_frames=num_frames,
            height=height,
            width=width,
            **image,
        )
    scheduler = used[0]
    assert generated.frames.shape == (*case.size, 3)
    assert generated.trajectory.latents.shape[1:] == case.latents.shape
    assert len(on_the_way) == 3
    schedule = case.backbone.schedule(3, grid=case.backbone.token_grid(*case.size))
    assert torch.equal(schedule.timesteps, timesteps_read(case.name, scheduler))
    sampled = Clip("clip", generated.frames, fps=8.0, prompt=PROMPT, source="generated")
    params = analysis(case, mode=ModeParams(generated="generate"), num_inference_steps=3, steps=(0, 1, 2), layers=(1,))
    extraction = Extractor(case.backbone, params).prepare(sampled, trajectory=generated.trajectory)
    grid = case.backbone.grid_of(case.latents)
    units = list(extraction.units(extraction.plan("clip")))
    assert_scored(units, extraction.groups["clip"])
    for unit, query in zip(units, on_the_way, strict=True):
        head_major = torch.from_numpy(unit.arrays["query"]).flatten(1, 3)
        assert torch.equal(head_major, case.backbone.clip_tokens(query[0], grid))
        ones, zeros = torch.ones(1), torch.zeros(1)
        shares = (schedule.add_noise(ones, zeros, unit.step), schedule.add_noise(zeros, ones, unit.step))
        assert tuple(map(float, shares)) == pytest.approx(data_and_noise(case.name, scheduler, unit.step), abs=1e-6)


def test_the_conditional_branch_of_guided_sampling_is_what_is_captured(case: Case) -> None:
    """A branch is found by its numbers, not by its place.

    Alone in its batch it is bit-equal; in a batch of two, matrix products are summed in another order. The capture for
    the empty prompt is the other branch.
    """
    on_the_way: list[Tensor] = []
    image = {"image": case.frames[0]} if case.backbone.needs_image else {}
    module = case.backbone.attention_modules()[1]
    with intercept({1: module}, lambda call: (on_the_way.append(call.query.clone()), call.run())[1]):
        num_frames, height, width = case.size
        generated = case.backbone.generate(
            PROMPT,
            seed=3,
            num_inference_steps=2,
            cfg_scale=6.0,
            num_frames=num_frames,
            height=height,
            width=width,
            **image,
        )
    branches = [branch for call in on_the_way for branch in call]
    num_branches = len(branches) // 2
    assert num_branches == (1 if case.name in DISTILLED else 2)  # distilled: the guidance scale is an input
    alone = len(on_the_way) == len(branches) and case.name != "mochi-1"  # whose attention takes one clip at a time
    assert alone == case.name.startswith(ONE_BRANCH_AT_A_TIME)
    tolerance = 0.0 if alone else 2e-5
    schedule = case.backbone.schedule(2, grid=case.backbone.token_grid(*case.size))
    for step, latents in enumerate(generated.trajectory.latents):
        there = branches[step * num_branches : (step + 1) * num_branches]
        for prompt in (PROMPT, "")[:num_branches]:
            embedding = case.backbone.embed(prompt)
            (record,) = case.backbone.capture(
                latents,
                step,
                schedule,
                embedding,
                layers=[1],
                kinds=["query"],
                inputs=generated.trajectory.inputs_at(step),
                **case.conditions(latents),
            )
            query, grid = record.query.flatten(1, 3), case.backbone.grid_of(latents)
            errors = [float((case.backbone.clip_tokens(branch, grid) - query).abs().max()) for branch in there]
            assert min(errors) <= tolerance
            assert num_branches == 1 or max(errors) > 10 * tolerance


def analysis(case: Case, **choices: Any) -> AnalysisParams:
    num_frames, height, width = case.size
    return AnalysisParams(num_frames=num_frames, height=height, width=width, **choices)


def timesteps_read(name: str, scheduler: Any) -> Tensor:
    """What the stock pipeline passes to the transformer at each step: the scheduler's timesteps, except for Cosmos."""
    if not name.startswith("cosmos"):
        timesteps: Tensor = scheduler.timesteps
        return timesteps
    sigmas: Tensor = scheduler.sigmas[: len(scheduler.timesteps)]
    return sigmas if "2.5" in name else sigmas / (sigmas + 1)


def data_and_noise(name: str, scheduler: Any, step: int) -> tuple[float, float]:
    """Shares of data and noise at a step, from the stock scheduler's own levels."""
    if name.startswith(("cogvideox", "consisid")):
        signal = float(scheduler.alphas_cumprod[scheduler.timesteps[step]])
        return signal**0.5, (1 - signal) ** 0.5
    sigma = float(scheduler.sigmas[step])
    if name.startswith("cosmos-predict2-"):
        return 1 / (1 + sigma), sigma / (1 + sigma)
    if name == "allegro":
        return 1 / (1 + sigma**2) ** 0.5, sigma / (1 + sigma**2) ** 0.5
    return (sigma, 1 - sigma) if name == "mochi-1" else (1 - sigma, sigma)


def assert_scored(units: list[Any], spec: DescriptorSpec) -> None:
    """Units of layers 1 and 3 at one step are matched and scored; the scores are numbers."""
    points = np.array([[9.0, 9.0], [17.0, 9.0]])
    matcher = ClipMatcher(MatchSection(per_head=False, device="cpu"), points, spec.grid.stride_px, spec.text_mask)
    cells = {
        (unit.step, unit.layer): matcher.match(lambda kind, unit=unit: torch.from_numpy(unit.arrays[kind]))
        for unit in units
    }
    matches = label_matches(cells, spec, points=np.arange(2), points_xy_px=points)
    num_frames = spec.grid.num_frames
    scores = score_clip(
        matches,
        np.broadcast_to(points.astype(np.float32), (num_frames, 2, 2)),
        np.ones((num_frames, 2), dtype=bool),
        to_frames=lambda xy: latent_to_frames(
            torch.from_numpy(xy),
            num_frames=num_frames,
            temporal_stride=spec.grid.temporal_stride,
            first_frames=spec.grid.first_frames,
        ).numpy(),
        temporal_stride=spec.grid.temporal_stride,
        first_frames=spec.grid.first_frames,
    )
    for name in ("matching_accuracy", "feature_accuracy", "confidence", "attention_score"):
        assert scores[name].shape == (len(spec.steps), len(spec.layers))
        assert bool(np.isfinite(scores[name]).all()), name


# Experts


@pytest.fixture(scope="module")
def two_experts(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Expert], Backbone]:
    folder = ROWS["wan2.2-t2v-a14b"](tmp_path_factory.mktemp("pipeline"))
    return lambda expert: load_backbone(f"path:{folder}", ModelParams(expert=expert))


def test_each_step_is_captured_in_the_transformer_that_samples_it(
    two_experts: Callable[[Expert], Backbone],
) -> None:
    """Four of 8 steps shifted by 3 have a level of 0.875 or more; layers stay 0 to 3 in both experts."""
    backbone = two_experts("by_step")
    schedule = backbone.schedule(8)
    assert [backbone.expert_at(timestep) for timestep in schedule.timesteps] == ["high_noise"] * 3 + ["low_noise"] * 5
    assert [float(timestep) >= 875 for timestep in schedule.timesteps] == [True] * 3 + [False] * 5
    latents, prompt = backbone.placeholder_latents(2, 6, 10), backbone.embed(PROMPT)
    alone = {expert: two_experts(expert) for expert in ("high_noise", "low_noise")}
    for step in (1, 6):
        own, high, low = (
            next(each.capture(latents, step, schedule, prompt, layers=[3], kinds=["query"])).query
            for each in (backbone, *alone.values())
        )
        assert torch.equal(own, high) == (step == 1)
        assert torch.equal(own, low) == (step == 6)
    assert backbone.num_layers == 4
    assert backbone.loading_choices() != alone["low_noise"].loading_choices()


def test_the_expert_of_each_step_is_part_of_what_made_the_descriptors(
    two_experts: Callable[[Expert], Backbone],
) -> None:
    clip = Clip("clip", np.zeros((5, 48, 80, 3), np.uint8), fps=8.0, prompt="", source="folder")
    params = AnalysisParams(
        num_frames=5, height=48, width=80, num_inference_steps=8, steps=(1, 6), layers=(1,), mode=ModeParams()
    )
    for expert, ran in (("by_step", ["high_noise", "low_noise"]), ("low_noise", ["low_noise", "low_noise"])):
        parts = Extractor(two_experts(expert), params).prepare(clip).groups["clip"].fingerprint_parts
        assert parts["experts"] == ran
        assert parts["expert"] == expert


# Schedules


@pytest.mark.parametrize("name", ["cogvideox-5b", "wan2.1-1.3b", "mochi-1", "allegro"])
def test_fixed_point_inversion_returns_on_a_linear_denoiser(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    def denoise(latents: Tensor, timestep: Tensor) -> Tensor:
        return (0.4 - 0.9 * float(timestep) / 1000) * latents + 0.05 * latents.flip(-1)

    backbone = load_backbone(f"path:{ROWS[name](tmp_path_factory.mktemp('pipeline'))}")
    schedule, clean = backbone.schedule(50), torch.randn(2, 5, 3, 7, dtype=torch.float64)
    *_, (step, noisy) = schedule.invert(clean, denoise, iterations=15)
    assert step == 0
    assert round_trip_error(schedule, clean, noisy, denoise, step=0) <= 1e-6


def test_levels_come_from_the_step_where_scale_noise_forgets_it_or_swaps_data_and_noise() -> None:
    """The stock scheduler has two slips here that our levels must not follow.

    After `set_begin_index` it noises to its first level whatever the request, and it takes Mochi's share of data for a
    share of noise. `test_sampled_trajectory_...` holds our levels to the formula.
    """
    ones, zeros = torch.ones(1), torch.zeros(1)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    scheduler.set_timesteps(10)
    scheduler.set_begin_index(0)
    assert float(scheduler.scale_noise(zeros, scheduler.timesteps[5:6], ones)) == 1.0 != float(scheduler.sigmas[5])
    mochi = FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    mochi.set_timesteps(10)
    assert float(mochi.scale_noise(zeros, mochi.timesteps[:1], ones)) == 0.0


def test_levels_that_depend_on_the_size_need_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    backbone = load_backbone(f"path:{ROWS['ltx-2b'](tmp_path_factory.mktemp('pipeline'))}")
    with pytest.raises(BackboneError, match="depend on the clip's size: give schedule"):
        backbone.schedule(10)
    small, large = (backbone.schedule(10, grid=backbone.token_grid(9, 96, 32 * cols)) for cols in (2, 11))
    assert float(small.timesteps[5]) < float(large.timesteps[5])


# History


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("helios-base", {"long": (4, 1, 2), "mid": (1, 2, 3), "first": (1, 3, 5), "short": (1, 3, 5)}),
        ("framepack-i2v", {"long": (4, 1, 2), "mid": (1, 2, 3), "short": (1, 3, 5)}),
    ],
)
def test_frames_of_history_are_named_and_stand_where_the_model_has_them(
    name: str, shapes: dict[str, tuple[int, int, int]], tmp_path: Path
) -> None:
    """The history's keys are labelled by frame, and only they depend on its latents.

    Tokens: 3 rows and 5 cols. Of 16 latent frames 4 are folded into one, of 2 both, and as many rows and cols, rounded
    up. Changed latents of the history change the keys of its own frames in layer 0, and none of the clip's.
    """
    backbone = load_backbone(f"path:{ROWS[name](tmp_path)}")
    latents, prompt = backbone.placeholder_latents(2, 6, 10), backbone.embed(PROMPT)
    conditioning = backbone.placeholder_conditioning(latents)
    grid = backbone.grid_of(latents)
    schedule = backbone.schedule(10, grid=grid)
    whole: list[Tensor] = []

    def captured(more: dict[str, Tensor]) -> LayerDescriptors:
        with intercept({0: backbone.attention_modules()[0]}, lambda call: (whole.append(call.key[0]), call.run())[1]):
            (record,) = backbone.capture(
                latents, 4, schedule, prompt, layers=[0], conditioning=conditioning, inputs=more
            )
        return record

    record = captured({})
    assert {part: tuple(found.key.shape[1:4]) for part, found in record.history.items()} == shapes
    assert list(record.history) == list(shapes)
    places = {"long": slice(0, 8), "mid": slice(8, 14)}
    if name == "helios-base":
        places |= {"first": slice(14, 29), "short": slice(29, 44)}
        assert torch.equal(record.key.flatten(1, 3), whole[0][:, 44:74])
    else:  # the image is frame 0, in front of the nearest frame of history
        places |= {"short": slice(29, 44)}
        assert torch.equal(record.key[:, 0].flatten(1, 2), whole[0][:, 14:29])
        assert torch.equal(record.key[:, 1].flatten(1, 2), whole[0][:, 44:59])
    for part, where in places.items():
        assert torch.equal(record.history[part].key.flatten(1, 3), whole[0][:, where])
    assert backbone.num_history_tokens(grid) == sum(where.stop - where.start for where in places.values())
    argument = "latents_history_long" if name == "helios-base" else "latents_history_4x"
    other = captured({argument: torch.ones(1, 6, 16, 6, 10)})
    moved = [part for part in shapes if not torch.equal(other.history[part].key, record.history[part].key)]
    assert moved == ["long"]
    assert torch.equal(other.key, record.key)


def test_a_second_chunk_is_captured_beside_the_first_as_helios_samples_it(tmp_path: Path) -> None:
    """10 frames are two chunks of 2 latent frames; the second chunk reads the first as history, at every step."""
    backbone = load_backbone(f"path:{ROWS['helios-base'](tmp_path)}")
    queries: list[Tensor] = []
    recorded = TrajectoryRecorder(torch.zeros(1, 6, 2, 6, 10))
    pipeline = backbone.sampling_pipeline(backbone.sampling_scheduler())
    with intercept({3: backbone.attention_modules()[3]}, lambda call: (queries.append(call.query[0]), call.run())[1]):
        pipeline(
            **backbone.sampling_inputs(backbone.embed(PROMPT)),
            num_latent_frames_per_chunk=2,
            num_frames=10,
            height=48,
            width=80,
            num_inference_steps=2,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(3),
            callback_on_step_end=recorded,
            output_type="np",
        )
    _, _, first, entering, _ = (latents[0].transpose(0, 1) for latents in recorded._after_steps)
    assert len(queries) == 4
    grid = backbone.grid_of(first)
    schedule, prompt = backbone.schedule(2, grid=grid), backbone.embed(PROMPT)
    captured = [
        next(backbone.capture(entering, 1, schedule, prompt, layers=[3], kinds=["query"], conditioning=history))
        for history in (backbone.history(first), None)
    ]
    of_second = backbone.clip_tokens(queries[3], grid)
    assert torch.equal(captured[0].query.flatten(1, 3), of_second)
    assert not torch.equal(captured[1].query.flatten(1, 3), of_second)  # without a history it is another chunk


def test_what_asks_where_frames_are_refuses_a_history(tmp_path: Path) -> None:
    backbone = load_backbone(f"path:{ROWS['helios-base'](tmp_path)}")
    grid = backbone.token_grid(5, 48, 80)
    with (
        pytest.raises(
            InterventionError, match=r"OwnFrame needs the places of the clip's frames, but .* frames of history"
        ),
        intervening(backbone, [OwnFrame(layers=0)], grid=grid),
    ):
        pass
    with (
        pytest.raises(GuidanceError, match="attends to frames of history"),
        guided(backbone, Guidance(layers=(1,), scale=1.0), grid=grid, calls="named"),
    ):
        pass


# A face


def test_the_features_of_a_face_decide_what_is_captured_and_are_on_record(tmp_path: Path) -> None:
    folder = ROWS["consisid"](tmp_path / "pipeline")
    one, other = (load_backbone(f"path:{folder}") for _ in range(2))
    other.face = FaceFeatures(one.face.identity + 1, one.face.vit_hidden)
    latents, prompt = one.placeholder_latents(3, 6, 10), one.embed(PROMPT)
    image = np.full((24, 40, 3), 60, np.uint8)
    outputs = [
        each.predict(
            latents, torch.tensor(500), prompt, conditioning=each.condition(image, len(latents), frames_alone=False)
        )
        for each in (one, other)
    ]
    assert not torch.equal(*outputs)
    assert one.loading_choices()["face"] != other.loading_choices()["face"]
    other.face = FaceFeatures(one.face.identity[:, :16], one.face.vit_hidden)
    with pytest.raises(BackboneError, match=r"identity of 17 channels and 3 hidden states of 6; .* has 16, 3 and 6"):
        other.condition(image, len(latents), frames_alone=False)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "reads the features of a face, but none are given; write face.safetensors"),
        (b"a picture", r"face\.safetensors cannot be read"),
        (
            {"id_cond": torch.zeros(1, 17)},
            r"holds \{'id_cond': \(1, 17\)\}; expected id_cond \[1, channel\] and id_vit",
        ),
        (
            {"id_cond": torch.full((1, 17), torch.inf), "id_vit_hidden": torch.zeros(3, 1, 5, 6)},
            "numbers that are not finite",
        ),
    ],
)
def test_a_face_that_is_missing_or_damaged_is_named(content: Any, said: str, tmp_path: Path) -> None:
    file = tmp_path / "face.safetensors"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        save_file(content, file)
    with pytest.raises(BackboneError, match=said) as raised:
        read_face(tmp_path, name="consisid")
    assert "\n" not in str(raised.value)


# A control clip


def test_a_control_clip_is_blank_for_text_and_begins_with_the_image_where_one_is_read(tmp_path: Path) -> None:
    """The control clip's mask is 1 everywhere for text; clip and mask are what the stock pipeline makes of no video."""
    folder = ROWS["wan2.1-vace-1.3b"](tmp_path / "pipeline")
    from_text, from_image = (
        load_backbone(f"path:{folder}", ModelParams(image_condition=chosen)) for chosen in ("checkpoint", "first_frame")
    )
    assert (from_text.needs_image, from_image.needs_image) == (False, True)
    control = from_text.transformer_inputs(from_text.embed(PROMPT), 2, 6, 10)["control_hidden_states"]
    blank = from_text.encode_videos(torch.zeros(1, 3, 5, 48, 80))[0].transpose(0, 1)
    for part in (control[0, :6], control[0, 6:12]):
        torch.testing.assert_close(part, blank, rtol=0, atol=1e-6)
    assert bool((control[0, 12:] == 1).all())
    image = np.full((48, 80, 3), 60, np.uint8)
    given = from_image.condition(image, 2, frames_alone=False)
    assert given.latents.shape == (2, 0, 6, 10)
    first = given.extras["control_hidden_states"][0, :, 0]
    wanted = from_image.encode_videos(torch.full((1, 3, 1, 48, 80), 60 / 127.5 - 1))[0, 0]
    torch.testing.assert_close(first[:6], wanted, rtol=0, atol=1e-5)  # where the mask is 0
    with pytest.raises(BackboneError, match=r"every_frame, but .* reads an image as its first frame"):
        load_backbone(f"path:{folder}", ModelParams(image_condition="every_frame")).condition(
            image, 2, frames_alone=False
        )

"""Laws of capture that every backbone obeys."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from difftrack.backbones import AttentionCall, Backbone, BackboneError, LayerDescriptors, intercept
from difftrack.datasets import Clip
from difftrack.extraction import AnalysisParams, Extractor, InversionParams, ModeParams, TrackingViewParams
from difftrack.interventions import Intervention, Patch, Recording, SkipLayer, Zero, intervening
from difftrack.store import DescriptorSpec

__all__ = ["BackboneLaws"]

Mode = Literal["add_noise", "ddim_inversion", "clean"]
_MODES = ("add_noise", "ddim_inversion", "clean")


class BackboneLaws:
    """Laws of a family of backbones, tried on a small one.

    A subclass overrides the fixture `backbone`, with a backbone of random weights, and `clip_size`, with the (frames,
    height, width) of a clip that it takes: two token frames or more, 3 x 4 tokens or more. The backbone has at least
    two layers, and encodes clips and prompts.
    """

    prompt = "a red disc moves left"
    """A prompt to run with."""
    cfg_scale = 1.0
    """Guidance scale at which the stock pipeline runs one branch alone."""
    frames_alone_together = 3
    """Frames of the tracking view that are run together; a multiple of what the transformer attends over at once."""

    @pytest.fixture
    def backbone(self) -> Backbone:
        """The backbone under test."""
        raise NotImplementedError("a subclass of BackboneLaws gives the fixture `backbone`")

    @pytest.fixture
    def clip_size(self) -> tuple[int, int, int]:
        """(frames, height, width) of a clip that it takes."""
        raise NotImplementedError("a subclass of BackboneLaws gives the fixture `clip_size`")

    @pytest.fixture
    def frames(self, clip_size: tuple[int, int, int]) -> np.ndarray:
        """The clip's frames [frame, row, col, rgb]: noise, so that no two patches are alike."""
        return np.random.default_rng(0).integers(0, 256, (*clip_size, 3), dtype=np.uint8)

    @pytest.fixture
    def latents(self, backbone: Backbone, frames: np.ndarray) -> Tensor:
        """The clip encoded [latent_frame, channel, row, col]."""
        return backbone.encode(frames, frames_alone=False)

    def predict(self, backbone: Backbone, latents: Tensor, frames: np.ndarray) -> Tensor:
        """The transformer's output for the clip's latents."""
        embedding = backbone.embed(self.prompt)
        return backbone.predict(latents, torch.tensor(500), embedding, **_conditions(backbone, latents, frames))

    def capture(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray, layers: Sequence[int]
    ) -> dict[int, LayerDescriptors]:
        """Descriptors of layers at one step, by layer."""
        schedule = backbone.schedule(10, grid=backbone.grid_of(latents))
        conditions = _conditions(backbone, latents, frames)
        records = backbone.capture(latents, 4, schedule, backbone.embed(self.prompt), layers=layers, **conditions)
        return {record.layer: record for record in records}

    def check_analysis(self, units: Sequence[Any], spec: DescriptorSpec) -> None:
        """Hold a clip's units of the analysis view, of two layers at one step, to more; nothing by default."""

    def check_tracking(self, unit: Any, spec: DescriptorSpec) -> None:  # noqa: ANN401
        """Hold the unit of one chunk of the tracking view to more; nothing by default."""

    def test_capture_leaves_the_output_as_it_is_and_sees_what_attention_uses(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray
    ) -> None:
        """Layers in execution order; the output bit-identical; attention recomputed from the captured tensors, too."""
        before = self.predict(backbone, latents, frames)
        order: list[int] = []
        errors: list[float] = []

        def check(call: AttentionCall) -> Tensor:
            order.append(call.layer)
            own = call.run()
            again = torch.nn.functional.scaled_dot_product_attention(
                call.query, call.key, call.value, attn_mask=call.mask
            )
            errors.append(float((own - again).abs().max()))
            return own

        with intercept(dict(enumerate(backbone.attention_modules())), check):
            assert torch.equal(self.predict(backbone, latents, frames), before)
        assert before.shape == latents.shape
        assert order == list(range(backbone.num_layers))
        assert errors == [0.0] * backbone.num_layers

    def test_descriptors_have_heads_grid_and_channels(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray, clip_size: tuple[int, int, int]
    ) -> None:
        """The shapes are those that the backbone says, and the grid is that of the clip's size and of its latents."""
        grid, of_latents = backbone.token_grid(*clip_size), backbone.grid_of(latents)
        tokens = (grid.num_latent_frames, grid.rows, grid.cols)
        assert tokens == (of_latents.num_latent_frames, of_latents.rows, of_latents.cols)
        last = backbone.num_layers - 1
        for record in self.capture(backbone, latents, frames, [0, last]).values():
            for kind in (record.query, record.key, record.feature):
                assert kind is not None
                assert kind.shape == (backbone.num_heads, *tokens, backbone.num_channels)

    def test_tokens_run_latent_frame_row_col_and_text_is_apart(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray
    ) -> None:
        """In layer 0 one latent patch changes one query and nothing else."""
        changed = latents.clone()
        fold, patch = backbone.latents_per_token_frame, backbone.patch_size
        changed[fold * 1, :, patch * 2, patch * 3] += 1
        before, after = (self.capture(backbone, each, frames, [0])[0] for each in (latents, changed))
        assert before.query is not None
        assert after.query is not None
        assert before.text_key is not None
        assert after.text_key is not None
        differs = (before.query != after.query).any(dim=0).any(dim=-1)
        assert differs.nonzero().tolist() == [[1, 2, 3]]
        assert torch.equal(before.text_key, after.text_key)

    def test_text_has_its_length_and_comes_before_its_padding(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray
    ) -> None:
        """Where text stands in the sequence, its mask is as long as its keys, and padding comes last."""
        record = self.capture(backbone, latents, frames, [0])[0]
        assert record.text_key is not None
        mask = record.text_mask.tolist()
        assert record.text_key.shape[-2] == len(mask) <= backbone.num_text_tokens
        assert mask == sorted(mask, reverse=True)
        assert (backbone.text_position == "none") == (not mask)

    def test_early_exit_and_one_layer_at_a_time_give_bit_equal_descriptors(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray
    ) -> None:
        """What is captured of a layer does not depend on the other layers that are asked for."""
        middle = backbone.num_layers // 2
        every = self.capture(backbone, latents, frames, range(backbone.num_layers))
        alone = self.capture(backbone, latents, frames, [middle])[middle]
        for kind in ("query", "key", "feature", "text_key"):
            assert torch.equal(getattr(alone, kind), getattr(every[middle], kind)), kind

    def test_nothing_of_the_pipeline_is_left_changed(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray
    ) -> None:
        """Capture takes away what it put into the modules."""
        attributes = [set(module.__dict__) for module in backbone.transformer.modules()]
        self.capture(backbone, latents, frames, [0, backbone.num_layers - 1])
        assert [set(module.__dict__) for module in backbone.transformer.modules()] == attributes

    def test_interventions_do_what_they_say_and_leave_nothing_behind(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray
    ) -> None:
        """Where none acts every bit is as before; a run patched with itself, too; a head is removed once."""
        grid, last = backbone.grid_of(latents), backbone.num_layers - 1
        head = backbone.num_heads - 1
        attributes = [set(module.__dict__) for module in backbone.transformer.modules()]

        def under(*interventions: Intervention) -> Tensor:
            with intervening(backbone, interventions, grid=grid, calls="cond") as acted:
                output = self.predict(backbone, latents, frames)
            assert [bool(times) for times in acted] == [one.steps == "all" for one in interventions]
            return output

        recording = Recording(layers=(0, last))
        before = self.predict(backbone, latents, frames)
        assert torch.equal(under(recording, Zero(steps=7)), before)
        assert torch.equal(under(Patch(source=recording, layers=last)), before)
        without = under(Zero(layers=last, heads=head))
        assert torch.equal(under(Zero(layers=last, heads=head), Zero(layers=last, heads=head)), without)
        assert not torch.equal(without, before)
        skipped = under(SkipLayer(layers=last))
        assert skipped.shape == before.shape
        assert not torch.equal(skipped, before)
        with intervening(backbone, [Zero(layers=0, heads=head)], grid=grid):
            feature = self.capture(backbone, latents, frames, [0])[0].feature
        assert feature is not None
        assert not feature[head].any()
        assert feature[0].any() or head == 0
        assert [set(module.__dict__) for module in backbone.transformer.modules()] == attributes
        assert torch.equal(self.predict(backbone, latents, frames), before)

    def test_sampling_records_the_latents_that_enter_every_step(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray, clip_size: tuple[int, int, int]
    ) -> None:
        """Captures from the trajectory equal captures while the pipeline samples one branch, bit by bit."""
        num_frames, height, width = clip_size
        queries: list[Tensor] = []
        image = {"image": frames[0]} if backbone.needs_image else {}
        module = backbone.attention_modules()[1]

        def keep(call: AttentionCall) -> Tensor:
            queries.append(call.query.clone())
            return call.run()

        with intercept({1: module}, keep):
            generated = backbone.generate(
                self.prompt,
                seed=3,
                num_inference_steps=3,
                cfg_scale=self.cfg_scale,
                num_frames=num_frames,
                height=height,
                width=width,
                **image,
            )
        assert generated.frames.shape == (*clip_size, 3)
        assert generated.trajectory.latents.shape == (3, *latents.shape)
        assert len(queries) == 3
        schedule = backbone.schedule(3, grid=backbone.token_grid(*clip_size))
        first = backbone.num_text_tokens if backbone.text_position == "first" else 0
        for step, (entering, query) in enumerate(zip(generated.trajectory.latents, queries, strict=True)):
            (record,) = backbone.capture(
                entering,
                step,
                schedule,
                backbone.embed(self.prompt),
                layers=[1],
                kinds=["query"],
                inputs=generated.trajectory.inputs_at(step),
                **_conditions(backbone, entering, frames),
            )
            assert record.query is not None
            captured = record.query.flatten(1, 3)
            assert torch.equal(captured, query[0, :, first : first + captured.shape[1]])

    @pytest.mark.parametrize("mode", _MODES)
    def test_real_clips_go_through_every_mode(
        self, backbone: Backbone, frames: np.ndarray, clip_size: tuple[int, int, int], mode: Mode
    ) -> None:
        """The analysis view of a clip: its units have the shapes that its spec says, and their numbers are finite."""
        num_frames, height, width = clip_size
        last = backbone.num_layers - 1
        params = AnalysisParams(
            num_frames=num_frames,
            height=height,
            width=width,
            steps=(49,),
            layers=(1, last),
            mode=ModeParams(folder=mode),
            inversion=InversionParams(iterations=1),
        )
        clip = Clip("clip", frames, fps=8.0, prompt=self.prompt, source="folder")
        extraction = Extractor(backbone, params).prepare(clip)
        spec = extraction.groups["clip"]
        units = list(extraction.units(extraction.plan("clip")))
        assert [(unit.step, unit.layer) for unit in units] == [(49, 1), (49, last)]
        for unit in units:
            assert {entry: array.shape for entry, array in unit.arrays.items()} == {
                entry: spec.entry_shape(entry) for entry in spec.entries
            }
            assert all(np.isfinite(array).all() for array in unit.arrays.values())
        self.check_analysis(units, spec)
        assert ("clip" in extraction.round_trip_errors) == (mode == "ddim_inversion")

    @pytest.mark.parametrize("mode", _MODES)
    def test_frames_encoded_alone_make_a_token_frame_each(
        self, backbone: Backbone, frames: np.ndarray, clip_size: tuple[int, int, int], mode: Mode
    ) -> None:
        """The tracking view of a clip: every frame has tokens of its own."""
        _, height, width = clip_size
        num_frames, layer = self.frames_alone_together, backbone.num_layers - 1
        params = TrackingViewParams(
            height=height,
            width=width,
            steps=(49,),
            layers=(layer,),
            descriptors=("query", "key"),
            mode=ModeParams(folder=mode),
            inversion=InversionParams(iterations=1),
        )
        clip = Clip("clip", frames[:num_frames], fps=8.0, prompt="", source="folder")
        extraction = Extractor(backbone, params).prepare(clip, chunks=[tuple(range(num_frames))])
        (unit,) = extraction.units(extraction.plan("clip/chunk_000"))
        stride_px = backbone.stride_px
        assert unit.arrays["key"].shape[1:4] == (num_frames, height // stride_px, width // stride_px)
        self.check_tracking(unit, extraction.groups["clip/chunk_000"])

    def test_a_size_that_does_not_fit_is_refused_in_one_line(
        self, backbone: Backbone, clip_size: tuple[int, int, int]
    ) -> None:
        """The message names the backbone or the size."""
        num_frames, height, width = clip_size
        with pytest.raises(BackboneError) as raised:
            backbone.check_size(num_frames, height + 1, width)
        assert "\n" not in str(raised.value)
        assert str(height + 1) in str(raised.value)

    def test_the_code_that_makes_descriptors_is_on_record(self, backbone: Backbone) -> None:
        """Of the family's own module, so that a change of it makes its descriptors anew."""
        made_by = backbone.made_by("difftrack.extraction")
        assert made_by.to_json() == backbone.made_by("difftrack.extraction").to_json()
        room = type(backbone).__module__.partition(".")[0]
        assert ("backbones" if room == "difftrack" else room) in made_by.code


def _conditions(backbone: Backbone, latents: Tensor, frames: np.ndarray) -> dict[str, Any]:
    if not backbone.needs_image:
        return {}
    return {"conditioning": backbone.condition(frames[0], len(latents), frames_alone=False)}

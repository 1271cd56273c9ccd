"""Laws of capture for every backbone."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from difftrack.backbones import (
    DEFAULT_KINDS,
    AttentionCall,
    Backbone,
    BackboneError,
    CapturedKind,
    CaptureError,
    FeatureKind,
    LayerDescriptors,
    intercept,
)
from difftrack.datasets import Clip
from difftrack.extraction import AnalysisParams, Extractor, InversionParams, ModeParams, TrackingViewParams
from difftrack.interventions import Intervention, Patch, Recording, SkipLayer, Zero, intervening
from difftrack.rotary import AXES, RotaryLayout
from difftrack.store import DescriptorSpec

__all__ = ["BackboneLaws"]

Mode = Literal["add_noise", "ddim_inversion", "clean"]
_MODES = ("add_noise", "ddim_inversion", "clean")


class BackboneLaws:
    """Laws of a family of backbones, tested on a small backbone.

    A subclass overrides two fixtures: `backbone`, a backbone with random weights, and `clip_size`, the (frames, height,
    width) of a clip that it accepts, with at least two token frames and 3 x 4 tokens. The backbone needs at least two
    layers and must encode clips and prompts.
    """

    prompt = "a red disc moves left"
    """Prompt of the test clips."""
    cfg_scale = 1.0
    """Guidance scale at which the unmodified pipeline runs only one branch."""
    frames_alone_together = 3
    """Frames processed together in the tracking view; a multiple of the transformer's attention window."""
    rotary_tolerance = 1e-4
    """Maximum difference of a turned query from the model's own, as a share of its largest value."""
    features: tuple[FeatureKind, ...] = ("heads", "attention", "mlp", "block", "attention_input", "mlp_input")
    """Hidden states that its first and last layer provide; the others are refused."""
    gives_unrotated = True
    """Whether its layers provide queries and keys before rotary positions; otherwise they are refused."""

    @pytest.fixture
    def backbone(self) -> Backbone:
        """The backbone under test."""
        raise NotImplementedError("a subclass of BackboneLaws must override the fixture `backbone`")

    @pytest.fixture
    def clip_size(self) -> tuple[int, int, int]:
        """(frames, height, width) of a clip that the backbone accepts."""
        raise NotImplementedError("a subclass of BackboneLaws must override the fixture `clip_size`")

    @pytest.fixture
    def frames(self, clip_size: tuple[int, int, int]) -> np.ndarray:
        """Frames of the clip [frame, row, col, rgb]: noise, so that all patches differ."""
        return np.random.default_rng(0).integers(0, 256, (*clip_size, 3), dtype=np.uint8)

    @pytest.fixture
    def latents(self, backbone: Backbone, frames: np.ndarray) -> Tensor:
        """The encoded clip [latent_frame, channel, row, col]."""
        return backbone.encode(frames, frames_alone=False)

    def predict(self, backbone: Backbone, latents: Tensor, frames: np.ndarray) -> Tensor:
        """Run the transformer on the clip's latents."""
        embedding = backbone.embed(self.prompt)
        return backbone.predict(latents, torch.tensor(500), embedding, **_conditions(backbone, latents, frames))

    def capture(
        self,
        backbone: Backbone,
        latents: Tensor,
        frames: np.ndarray,
        layers: Sequence[int],
        kinds: Sequence[CapturedKind] = DEFAULT_KINDS,
        feature: FeatureKind = "heads",
    ) -> dict[int, LayerDescriptors]:
        """Capture descriptors of layers at one step, by layer."""
        schedule = backbone.schedule(10, grid=backbone.grid_of(latents))
        conditions = _conditions(backbone, latents, frames)
        records = backbone.capture(
            latents,
            4,
            schedule,
            backbone.embed(self.prompt),
            layers=layers,
            kinds=kinds,
            feature=feature,
            **conditions,
        )
        return {record.layer: record for record in records}

    def check_analysis(self, units: Sequence[Any], spec: DescriptorSpec) -> None:
        """Check more properties of a clip's units in the analysis view (two layers, one step); nothing by default."""

    def check_tracking(self, unit: Any, spec: DescriptorSpec) -> None:  # noqa: ANN401
        """Check more properties of one chunk's unit in the tracking view; nothing by default."""

    def test_capture_leaves_the_output_as_it_is_and_sees_what_attention_uses(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray
    ) -> None:
        """Layers run in order, the output is bit-identical, and captured tensors reproduce the attention exactly."""
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
        """The shapes agree with the backbone, and the grid with the clip's size and with its latents."""
        grid, latent_grid = backbone.token_grid(*clip_size), backbone.grid_of(latents)
        tokens = (grid.num_latent_frames, grid.rows, grid.cols)
        assert tokens == (latent_grid.num_latent_frames, latent_grid.rows, latent_grid.cols)
        last = backbone.num_layers - 1
        for record in self.capture(backbone, latents, frames, [0, last]).values():
            for kind in (record.query, record.key, record.feature):
                assert kind is not None
                assert kind.shape == (backbone.num_heads, *tokens, backbone.num_channels)

    def test_tokens_run_latent_frame_row_col_and_text_is_apart(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray
    ) -> None:
        """In layer 0, a change of one latent patch changes exactly one query."""
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
        """The text mask is as long as the text keys, and padding comes last."""
        record = self.capture(backbone, latents, frames, [0])[0]
        assert record.text_key is not None
        mask = record.text_mask.tolist()
        assert record.text_key.shape[-2] == len(mask) <= backbone.num_text_tokens
        assert mask == sorted(mask, reverse=True)
        assert (backbone.text_position == "none") == (not mask)

    def test_early_exit_and_one_layer_at_a_time_give_bit_equal_descriptors(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray
    ) -> None:
        """The descriptors of a layer do not depend on which other layers are captured."""
        middle = backbone.num_layers // 2
        every = self.capture(backbone, latents, frames, range(backbone.num_layers))
        alone = self.capture(backbone, latents, frames, [middle])[middle]
        for kind in ("query", "key", "feature", "text_key"):
            assert torch.equal(getattr(alone, kind), getattr(every[middle], kind)), kind

    def test_cross_attention_to_the_text_is_captured_as_the_model_has_it(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray
    ) -> None:
        """Cross queries and keys are bit-identical; the rest of a capture and the output do not change."""
        last = backbone.num_layers - 1
        schedule, conditions = (
            backbone.schedule(10, grid=backbone.grid_of(latents)),
            _conditions(backbone, latents, frames),
        )
        prompt = backbone.embed(self.prompt)

        def capture(*kinds: CapturedKind) -> dict[int, LayerDescriptors]:
            asked = {"layers": [0, last], "kinds": kinds, **conditions}
            return {record.layer: record for record in backbone.capture(latents, 4, schedule, prompt, **asked)}

        if backbone.cross_attention_key is None:
            with pytest.raises(BackboneError, match="has no cross-attention") as raised:
                capture("cross_query")
            assert "\n" not in str(raised.value)
            return
        calls: dict[int, list[AttentionCall]] = {}

        def keep(call: AttentionCall) -> Tensor:
            calls.setdefault(call.layer, []).append(call)
            return call.run()

        timestep = schedule.timesteps[4]
        modules = dict(enumerate(backbone.cross_attention_of(backbone.transformer_at(timestep))))
        assert len(modules) == backbone.num_layers
        with intercept(modules, keep):
            listened = backbone.predict(latents, timestep, prompt, **conditions)
        assert torch.equal(backbone.predict(latents, timestep, prompt, **conditions), listened)
        without, beside, alone = capture(*DEFAULT_KINDS), capture(*DEFAULT_KINDS, "cross_query"), capture("cross_query")
        for layer in (0, last):
            call, record = calls[layer][backbone.text_call], beside[layer]
            assert record.cross_query is not None
            assert record.cross_query.shape[1:] == (*_grid_of(backbone, latents), backbone.num_channels)
            assert torch.equal(record.cross_query.flatten(1, 3), call.query[0])
            assert record.text_key is not None
            assert torch.equal(record.text_key, call.key[0])
            assert record.text_mask.tolist() == backbone.cross_text_mask(prompt).tolist()
            by_itself = alone[layer].cross_query
            assert by_itself is not None
            assert torch.equal(by_itself, record.cross_query)
            for kind in DEFAULT_KINDS:
                assert torch.equal(getattr(record, kind), getattr(without[layer], kind)), kind

    def test_every_text_token_is_of_a_word_or_of_none(self, backbone: Backbone) -> None:
        """There is one entry per token that attention sees; words have tokens, in the prompt's order."""
        prompt = backbone.embed(self.prompt)
        found = backbone.text_tokens(self.prompt, prompt)
        if found is None:  # its tokenizer does not report them
            return
        mask = backbone.text_mask(prompt) if backbone.cross_attention_key is None else backbone.cross_text_mask(prompt)
        assert len(found) == len(mask)
        assert sorted(token for tokens in found.groups().values() for token in tokens) == list(range(len(mask)))
        assert [word.text for word in found.words] == self.prompt.split()
        tokens = [token for word in found.words for token in word.tokens]
        assert tokens == sorted(tokens)
        assert tokens
        assert all(bool(mask[token]) for token in tokens)

    def test_the_rotary_layout_says_which_channels_turn_with_which_axis(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray
    ) -> None:
        """Turning the unrotated queries and keys by the layout gives the model's own; lengths never change.

        A family that declares no layout may also refuse unrotated queries and keys, in one line.

        One angle per pair of channels and place along its axis must fit all heads and all places along the other axes:
        a wrong pair, a wrong axis, or a missing channel fails. Frequencies descend.
        """
        last = backbone.num_layers - 1
        wanted: tuple[CapturedKind, ...] = ("query", "key", "query_pre_rotary", "key_pre_rotary")
        if not self.gives_unrotated:
            with pytest.raises(BackboneError) as raised:
                self.capture(backbone, latents, frames, [0, last], kinds=wanted)
            assert "\n" not in str(raised.value)
            assert backbone.rotary is None
            return
        for record in self.capture(backbone, latents, frames, [0, last], kinds=wanted).values():
            for turned, plain in ((record.query, record.query_pre_rotary), (record.key, record.key_pre_rotary)):
                assert turned is not None
                assert plain is not None
                limit = self.rotary_tolerance * float(turned.abs().max())
                lengths = [part.double().square().sum(dim=(0, -1)).sqrt() for part in (turned, plain)]
                most = limit * (turned.shape[0] * turned.shape[-1]) ** 0.5
                torch.testing.assert_close(lengths[0], lengths[1], rtol=0, atol=most)
                if backbone.rotary is not None:
                    again = _turned(plain.double(), turned.double(), backbone.rotary)
                    torch.testing.assert_close(again, turned.double(), rtol=0, atol=limit)

    def test_values_are_those_that_attention_mixes(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray
    ) -> None:
        """Values equal those of the attention call, with the video's shape."""
        values: list[Tensor] = []

        def keep(call: AttentionCall) -> Tensor:
            values.append(call.value.clone())
            return call.run()

        schedule = backbone.schedule(10, grid=backbone.grid_of(latents))
        conditions = _conditions(backbone, latents, frames)
        with intercept({0: backbone.attention_of(backbone.transformer_at(schedule.timesteps[4]))[0]}, keep):
            backbone.predict(latents, schedule.timesteps[4], backbone.embed(self.prompt), **conditions)
        (record,) = self.capture(backbone, latents, frames, [0], kinds=["value"]).values()
        assert record.value is not None
        assert torch.equal(record.value.flatten(1, 3), backbone.clip_tokens(values[0][0], backbone.grid_of(latents)))

    def test_every_hidden_state_is_given_or_refused(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray
    ) -> None:
        """The hidden states in `features` are finite, have the shape of a feature, and differ from each other.

        Only the attention's output may be that of its heads: some single-stream layers project it later.
        """
        every: tuple[FeatureKind, ...] = ("heads", "attention", "mlp", "block", "attention_input", "mlp_input")
        layers = [0, backbone.num_layers - 1]
        found: list[Tensor] = []
        for feature in every:
            if feature not in self.features:
                with pytest.raises((BackboneError, CaptureError)) as raised:
                    self.capture(backbone, latents, frames, layers, ["feature"], feature)
                assert "\n" not in str(raised.value)
                continue
            own = [
                record.feature
                for record in self.capture(backbone, latents, frames, layers, ["feature"], feature).values()
            ]
            assert len(own) == len(layers)
            for each in own:
                assert each is not None
                assert each.shape[0] == backbone.num_heads
                assert each.shape[-1] == backbone.num_channels
                assert bool(each.isfinite().all())
                assert feature == "attention" or not any(torch.equal(each, other) for other in found)
                found.append(each)

    def test_nothing_of_the_pipeline_is_left_changed(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray
    ) -> None:
        """Capture leaves no attributes in the modules."""
        attributes = [set(module.__dict__) for module in backbone.transformer.modules()]
        self.capture(backbone, latents, frames, [0, backbone.num_layers - 1])
        unrotated: list[CapturedKind] = ["query_pre_rotary"] if self.gives_unrotated else []
        self.capture(backbone, latents, frames, [0], [*unrotated, "feature"], "attention")
        left = [set(module.__dict__) for module in backbone.transformer.modules()]
        assert [a ^ b for a, b in zip(left, attributes, strict=True)] == [set()] * len(left)

    def test_interventions_do_what_they_say_and_leave_nothing_behind(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray
    ) -> None:
        """Without an acting intervention, or patched with itself, a run is bit-identical; a head is removed once."""
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
        left = [set(module.__dict__) for module in backbone.transformer.modules()]
        assert [a ^ b for a, b in zip(left, attributes, strict=True)] == [set()] * len(left)
        assert torch.equal(self.predict(backbone, latents, frames), before)

    def test_sampling_records_the_latents_that_enter_every_step(
        self, backbone: Backbone, latents: Tensor, frames: np.ndarray, clip_size: tuple[int, int, int]
    ) -> None:
        """Captures from the recorded trajectory are bit-equal to captures during sampling with one branch."""
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
            assert torch.equal(record.query.flatten(1, 3), backbone.clip_tokens(query[0], backbone.grid_of(entering)))

    @pytest.mark.parametrize("mode", _MODES)
    def test_real_clips_go_through_every_mode(
        self, backbone: Backbone, frames: np.ndarray, clip_size: tuple[int, int, int], mode: Mode
    ) -> None:
        """In the analysis view, units have the shapes of the spec, and their values are finite."""
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
        """In the tracking view, every frame has its own tokens."""
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
        """The message names the size."""
        num_frames, height, width = clip_size
        with pytest.raises(BackboneError) as raised:
            backbone.check_size(num_frames, height + 1, width)
        assert "\n" not in str(raised.value)
        assert str(height + 1) in str(raised.value)

    def test_the_code_that_makes_descriptors_is_on_record(self, backbone: Backbone) -> None:
        """The record includes the family's module, so that a change of the module invalidates its descriptors."""
        made_by = backbone.made_by("difftrack.extraction")
        assert made_by.to_json() == backbone.made_by("difftrack.extraction").to_json()
        room = type(backbone).__module__.partition(".")[0]
        assert ("backbones" if room == "difftrack" else room) in made_by.code


def _grid_of(backbone: Backbone, latents: Tensor) -> tuple[int, int, int]:
    grid = backbone.grid_of(latents)
    return (grid.num_latent_frames, grid.rows, grid.cols)


def _turned(plain: Tensor, turned: Tensor, layout: RotaryLayout) -> Tensor:
    """Turn descriptors [head, latent_frame, row, col, channel] by the angles that best fit the model's own.

    One angle for each pair of channels at each place along its axis; channels without a pair do not change.
    """
    again = plain.clone()
    for place, axis in enumerate(AXES, start=1):
        pairs = torch.tensor(getattr(layout, axis)).reshape(-1, 2)
        before, after = (torch.complex(part[..., pairs[:, 0]], part[..., pairs[:, 1]]) for part in (plain, turned))
        others = [other for other in range(4) if other != place]
        turn = (after * before.conj()).sum(dim=others, keepdim=True)
        turn = turn / turn.abs()
        by_pair = (turn * turn.roll(1, dims=place).conj()).narrow(place, 1, 1).angle().abs().flatten()
        assert len(by_pair) == 0 or float(by_pair[-1]) == float(by_pair.min()), f"{axis}: frequencies do not descend"
        now = before * turn
        again[..., pairs[:, 0]], again[..., pairs[:, 1]] = now.real, now.imag
    return again


def _conditions(backbone: Backbone, latents: Tensor, frames: np.ndarray) -> dict[str, Any]:
    if not backbone.needs_image:
        return {}
    return {"conditioning": backbone.condition(frames[0], len(latents), frames_alone=False)}

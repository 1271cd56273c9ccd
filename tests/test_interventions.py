"""Interventions are exact, composable, limited to the branch and step that they name, and gone afterwards."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pipelines import ROWS, clip_size
from torch import Tensor

import difftrack as dt
from difftrack.backbones import AttentionCall, Backbone, Generated, intercept, load_backbone
from difftrack.guidance import Guidance, guided
from difftrack.interventions import (
    Edit,
    Freeze,
    Identity,
    Intervention,
    InterventionError,
    Mean,
    OwnFrame,
    Patch,
    Recording,
    Scale,
    SequenceLayout,
    Site,
    SkipLayer,
    Swap,
    Zero,
    perturbed_attention,
    read_intervention,
)

pytestmark = [
    # diffusers' own: numpy 2 on a tensor, in a scheduler; autocast to float32 on a CPU, in Mochi's transformer.
    pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:In CPU autocast, but the target dtype is not supported:UserWarning"),
]

PROMPT = "a red disc moves left"
LAYERS, HEADS, STEPS = 4, 2, 3


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load("cogvideox-5b", tmp_path_factory.mktemp("one"))


def load(name: str, folder: Path) -> Backbone:
    backbone = load_backbone(f"path:{ROWS[name](folder)}")
    backbone.name = name
    return backbone


def sample(model: Backbone, *interventions: Intervention, steps: int = STEPS) -> Generated:
    frames, height, width = size = clip_size(model.name)
    with dt.intervene(model, *interventions, size=size):
        return model.generate(
            PROMPT, seed=7, num_inference_steps=steps, cfg_scale=6.0, num_frames=frames, height=height, width=width
        )


@pytest.fixture(scope="module")
def plain(model: Backbone) -> Generated:
    return sample(model)


@pytest.fixture(scope="module")
def recording(model: Backbone, plain: Generated) -> Recording:
    """Record all heads of layers 1 and 2 while the plain sample is made again, with the same bits."""
    recording = Recording(layers=(1, 2))
    assert torch.equal(sample(model, recording).trajectory.latents, plain.trajectory.latents)
    return recording


def outputs(model: Backbone, *interventions: Intervention, layer: int = 1) -> tuple[Tensor, AttentionCall]:
    """One layer's attention under interventions, [batch, head, token, channel], and the call of it."""
    seen: list[tuple[Tensor, AttentionCall]] = []

    def keep(call: AttentionCall) -> Tensor:
        output = call.run()
        seen.append((output, call))
        return output

    latents = torch.randn(3, 6, 10, 14, generator=torch.Generator().manual_seed(0))
    with (
        dt.intervene(model, *interventions, size=clip_size(model.name), calls="cond"),
        intercept({layer: model.attention_modules()[layer]}, keep),
    ):
        model.predict(latents, torch.tensor(500), model.embed(PROMPT))
    (found,) = seen
    return found


def layout(model: Backbone) -> SequenceLayout:
    grid = model.token_grid(*clip_size(model.name))
    return SequenceLayout(grid.num_latent_frames, grid.tokens_per_frame, model.text_position)


# What each operation does to a tensor


def test_means_worked_by_hand() -> None:
    """Text 5 and 7; frames (1, 2, 6) and (3, 8, 10): clip 5, frames 3 and 7, places 2, 5 and 8."""
    site = Site(1, 0, "cond", 0, SequenceLayout(2, 3, "first"), {})
    tensor = torch.tensor([5.0, 7, 1, 2, 6, 3, 8, 10]).reshape(1, 1, 8, 1)
    wanted = {
        "clip": [6, 6, 5, 5, 5, 5, 5, 5],
        "frame": [6, 6, 3, 3, 3, 7, 7, 7],
        "time": [6, 6, 2, 5, 8, 2, 5, 8],
    }
    for over, numbers in wanted.items():
        assert Mean(over=over).edit(tensor, site).flatten().tolist() == numbers  # type: ignore[arg-type]
    last = Site(1, 0, "cond", 0, SequenceLayout(2, 3, "last"), {})
    assert Mean(over="frame").edit(tensor.flip(2), last).flatten().tolist() == [7, 7, 7, 3, 3, 3, 6, 6]


def test_chosen_heads_and_tokens_change_and_no_others(model: Backbone) -> None:
    plain, call = outputs(model)
    video = layout(model).video(plain.shape[2])
    zeroed, _ = outputs(model, Zero(layers=1, heads=1, tokens="video"))
    assert not zeroed[:, 1, video].any()
    assert torch.equal(zeroed[:, 0], plain[:, 0])
    assert torch.equal(zeroed[:, :, : video.start], plain[:, :, : video.start])
    scaled, _ = outputs(model, Scale(factor=-2.0, layers=1, heads=0))
    assert torch.equal(scaled[:, 0], plain[:, 0] * -2)
    swapped, _ = outputs(model, Swap(layers=1, heads=(0, 1)))
    assert torch.equal(swapped, plain.flip(1))
    identity, _ = outputs(model, Identity(layers=1, heads=1))
    assert torch.equal(identity[:, 1], call.value[:, 1])
    assert torch.equal(identity[:, 0], plain[:, 0])
    own, _ = outputs(model, OwnFrame(layers=1, heads=1))
    wanted = perturbed_attention(call.query, call.key, call.value, layout(model), variant="zeroed")
    torch.testing.assert_close(own[:, 1], wanted[:, 1], rtol=0, atol=1e-6)
    assert torch.equal(own[:, 0], plain[:, 0])


def test_edits_of_a_key_are_attended_with_and_captured(model: Backbone) -> None:
    """A head with zero keys returns the mean of its values; a capture inside the intervention sees those keys."""
    output, call = outputs(model, Zero(layers=1, heads=1, target="key"))
    assert not call.key[:, 1].any()
    assert call.key[:, 0].any()
    torch.testing.assert_close(output[:, 1], call.value[:, 1].mean(dim=1, keepdim=True).expand_as(output[:, 1]))


def test_within_a_layer_inputs_come_first_then_ways_of_attending_then_outputs(model: Backbone) -> None:
    """The order in the list has no effect, except among edits of the output."""
    ways = (Zero(layers=1, target="value", heads=1), Identity(layers=1), Scale(factor=3.0, layers=1))
    output, call = outputs(model, *ways)
    assert not output[:, 1].any()
    assert torch.equal(output[:, 0], call.value[:, 0] * 3)
    assert torch.equal(outputs(model, *reversed(ways))[0], output)
    first, _ = outputs(model, Scale(factor=3.0, layers=1, heads=0), Swap(layers=1, heads=(0, 1)))
    other, _ = outputs(model, Swap(layers=1, heads=(0, 1)), Scale(factor=3.0, layers=1, heads=0))
    plain, _ = outputs(model)
    assert torch.equal(first, torch.stack([plain[:, 1], plain[:, 0] * 3], dim=1))
    assert torch.equal(other, torch.stack([plain[:, 1] * 3, plain[:, 0]], dim=1))


# Laws


NOTHING: dict[str, list[Intervention]] = {
    "none": [],
    "no head": [Zero(heads=())],
    "no such step": [Zero(steps=(99,)), SkipLayer(steps=99), OwnFrame(steps=99)],
    "factor one": [Scale(factor=1.0)],
    "swapped back": [Swap(heads=(0, 1)), Swap(heads=(1, 0))],
}


@pytest.mark.parametrize("nothing", NOTHING)
def test_what_changes_nothing_leaves_every_bit(model: Backbone, plain: Generated, nothing: str) -> None:
    found = sample(model, *NOTHING[nothing])
    assert torch.equal(found.trajectory.latents, plain.trajectory.latents)
    assert np.array_equal(found.frames, plain.frames)


TWICE = [Zero(layers=1, heads=0), Mean(layers=1, heads=0), OwnFrame(layers=2), Identity(layers=2), SkipLayer(layers=3)]


@pytest.mark.parametrize("once", TWICE, ids=lambda once: type(once).__name__)
def test_doing_it_twice_is_doing_it_once(model: Backbone, plain: Generated, once: Intervention) -> None:
    twice = sample(model, once, once).trajectory.latents
    wanted = sample(model, once).trajectory.latents
    torch.testing.assert_close(twice, wanted, rtol=0, atol=0 if not isinstance(once, Mean) else 1e-5)
    assert not torch.equal(wanted, plain.trajectory.latents)


def test_patching_a_run_with_itself_changes_nothing(model: Backbone, plain: Generated, recording: Recording) -> None:
    """Patching restores the sample, whole or for some heads and steps; from another run it gives another sample."""
    assert len(recording.tensors) == 2 * STEPS * 2
    assert recording.num_bytes == sum(tensor.numel() * 4 for tensor in recording.tensors.values())
    for patch in (Patch(source=recording), Patch(source=recording, layers=2, heads=1, steps=(1, 2))):
        assert torch.equal(sample(model, patch).trajectory.latents, plain.trajectory.latents)
    other = Recording(layers=(1, 2))
    changed = sample(model, Scale(factor=2.0, layers=0), other)
    patched = sample(model, Patch(source=other))
    assert not torch.equal(patched.trajectory.latents, plain.trajectory.latents)
    assert not torch.equal(patched.trajectory.latents, changed.trajectory.latents)


def test_a_recording_that_does_not_fit_is_refused_in_one_line(model: Backbone, recording: Recording) -> None:
    with pytest.raises(InterventionError, match="has nothing for layer 0, step 0, branch uncond"):
        sample(model, Patch(source=recording, layers=(0, 1)))
    with pytest.raises(InterventionError, match="recording has target 'output', but Patch has target 'key'"):
        Patch(source=recording, target="key")
    with pytest.raises(InterventionError, match=r"the recording holds no heads \[1\]; it holds \[0\]"):
        sample(model, Patch(source=_recorded(model, heads=0), heads=1))


def _recorded(model: Backbone, **where: int) -> Recording:
    recording = Recording(layers=1, **where)
    sample(model, recording, steps=1)
    return recording


def test_a_frozen_head_gives_out_what_it_gave_at_that_step(model: Backbone, recording: Recording) -> None:
    """Up to the step every bit is the plain run's; afterwards the head's output stays that of the step."""
    frozen = Recording(layers=1)
    sample(model, Freeze(layers=1, heads=1, at=1), frozen)
    for branch in ("cond", "uncond"):
        for step in (0, 1):
            assert torch.equal(frozen.tensors[1, step, branch, 0], recording.tensors[1, step, branch, 0])  # type: ignore[index]
        at, after = (frozen.tensors[1, step, branch, 0] for step in (1, 2))  # type: ignore[index]
        assert torch.equal(after[:, 1], at[:, 1])
        assert not torch.equal(after[:, 0], at[:, 0])


def test_an_exception_leaves_the_model_untouched(model: Backbone, plain: Generated) -> None:
    attributes = [set(module.__dict__) for module in model.transformer.modules()]

    class Fails(Edit):
        def edit(self, tensor: Tensor, site: Site) -> Tensor:
            raise RuntimeError("in the middle of it")

    with pytest.raises(RuntimeError, match="in the middle of it"):
        sample(model, Zero(layers=0), SkipLayer(layers=1), Fails(layers=2))
    assert [set(module.__dict__) for module in model.transformer.modules()] == attributes
    assert torch.equal(sample(model).trajectory.latents, plain.trajectory.latents)


# Steps and branches


@pytest.fixture(scope="module", params=["cogvideox-5b", "wan2.1-1.3b", "mochi-1"])
def sampling(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """Both branches in one batch, one after the other, or in one batch whose clips attend one by one."""
    return load(request.param, tmp_path_factory.mktemp("sampling"))


def test_each_branch_and_step_is_met_alone_however_the_pipeline_calls(sampling: Backbone) -> None:
    """At step 0 the other branch's layer is bit-equal; the union of branches and steps covers everything."""
    plain, cond = Recording(layers=1), Recording(layers=1)
    sample(sampling, plain, steps=2)
    one = Zero(layers=0, heads=0, branches="cond")
    sample(sampling, one, cond, steps=2)
    at = [(1, 0, branch, 0) for branch in ("cond", "uncond")]
    assert len(plain.tensors) == 4
    assert not torch.equal(cond.tensors[at[0]], plain.tensors[at[0]])  # type: ignore[index]
    assert torch.equal(cond.tensors[at[1]], plain.tensors[at[1]])  # type: ignore[index]
    everywhere = sample(sampling, Zero(layers=0, heads=0), steps=2).trajectory.latents
    parts = [one, *(Zero(layers=0, heads=0, branches="uncond", steps=step) for step in (0, 1))]
    assert torch.equal(sample(sampling, *parts, steps=2).trajectory.latents, everywhere)


def test_a_layer_is_left_out_of_one_branch_alone(model: Backbone) -> None:
    plain, skipped = Recording(layers=2), Recording(layers=2)
    sample(model, plain, steps=1)
    sample(model, SkipLayer(layers=1, branches="uncond"), skipped, steps=1)
    assert torch.equal(skipped.tensors[2, 0, "cond", 0], plain.tensors[2, 0, "cond", 0])
    assert not torch.equal(skipped.tensors[2, 0, "uncond", 0], plain.tensors[2, 0, "uncond", 0])


@pytest.mark.parametrize("variant", ["identity", "skip"])
def test_guidance_by_other_perturbations_is_the_explicit_sum(model: Backbone, variant: str) -> None:
    """Guidance is e + s (e - e_perturbed), with e_perturbed predicted under the intervention itself."""
    latents = torch.randn(3, 6, 10, 14, generator=torch.Generator().manual_seed(0))
    prompt, timestep = model.embed(PROMPT), torch.tensor(500)
    cut = Identity(layers=(1, 3)) if variant == "identity" else SkipLayer(layers=(1, 3))
    grid = model.token_grid(*clip_size(model.name))
    plain = model.predict(latents, timestep, prompt)
    with dt.intervene(model, cut, size=clip_size(model.name)):
        perturbed = model.predict(latents, timestep, prompt)
    with guided(model, Guidance(layers=(1, 3), scale=0.7, variant=variant), grid=grid, calls="cond"):  # type: ignore[arg-type]
        found = model.predict(latents, timestep, prompt)
    torch.testing.assert_close(found, plain + 0.7 * (plain - perturbed), rtol=0, atol=2e-6)


def test_guidance_inside_an_intervention_perturbs_what_the_intervention_leaves(model: Backbone) -> None:
    """Both forwards lack the head, and an intervention inside another adds to it."""
    latents = torch.randn(3, 6, 10, 14, generator=torch.Generator().manual_seed(0))
    prompt, timestep, size = model.embed(PROMPT), torch.tensor(500), clip_size(model.name)
    grid, zero, cut = model.token_grid(*size), Zero(layers=0, heads=0), OwnFrame(layers=2)
    with dt.intervene(model, zero, size=size):
        plain = model.predict(latents, timestep, prompt)
        with dt.intervene(model, cut, size=size):
            perturbed = model.predict(latents, timestep, prompt)
        with guided(model, Guidance(layers=(2,), scale=0.7), grid=grid, calls="cond"):
            found = model.predict(latents, timestep, prompt)
    torch.testing.assert_close(found, plain + 0.7 * (plain - perturbed), rtol=0, atol=2e-6)
    with dt.intervene(model, zero, cut, size=size):
        assert torch.equal(model.predict(latents, timestep, prompt), perturbed)


def test_interventions_go_around_guidance_and_not_into_it(model: Backbone) -> None:
    grid = model.token_grid(*clip_size(model.name))
    with (
        guided(model, Guidance(layers=(1,)), grid=grid),
        pytest.raises(InterventionError, match="enter it inside the interventions"),
        dt.intervene(model, Zero(layers=0), size=clip_size(model.name)),
    ):
        pass


# What is refused


def test_choices_that_there_are_not_are_refused_in_one_line(model: Backbone) -> None:
    refused: dict[str, Intervention] = {
        r"Zero names layers \[4\]; there are layers 0 to 3": Zero(layers=LAYERS),
        r"Zero names heads \[0, 2\]; there are heads 0 to 1": Zero(heads=(0, HEADS)),
    }
    for complaint, intervention in refused.items():
        with pytest.raises(InterventionError, match=complaint), dt.intervene(model, intervention):
            pass
    for wrong, complaint in (
        ({"layers": (1, 1)}, "each once"),
        ({"heads": -1}, "from 0 on"),
    ):
        with pytest.raises(InterventionError, match=complaint):
            Zero(**wrong)  # type: ignore[arg-type]
    with pytest.raises(InterventionError, match="needs two heads"):
        Swap(heads=(0, 1, 2))


def test_a_clip_of_another_size_is_refused_where_frames_matter(model: Backbone) -> None:
    latents = torch.zeros(5, 6, 10, 14)
    with (
        dt.intervene(model, OwnFrame(layers=1), size=(17, 40, 88)),
        pytest.raises(InterventionError, match="set it up for the sampled size"),
    ):
        model.predict(latents, torch.tensor(500), model.embed(PROMPT))


@pytest.mark.parametrize(
    ("words", "kind"),
    [("zero", Zero), ("mean:time", Mean), ("scale:0.5", Scale), ("freeze:2", Freeze), ("own_frame:masked", OwnFrame),
     ("identity", Identity), ("skip", SkipLayer)],
)  # fmt: skip
def test_interventions_are_read_from_words(words: str, kind: type[Intervention]) -> None:
    read = read_intervention(words, layers=3)
    assert type(read) is kind
    assert read.layers == (3,)


@pytest.mark.parametrize("words", ["remove", "mean:all", "scale", "scale:much", "zero:1", "skip:2"])
def test_other_words_are_refused_with_those_that_are_known(words: str) -> None:
    with pytest.raises(InterventionError, match=r"is not an intervention; expected zero, mean"):
        read_intervention(words)

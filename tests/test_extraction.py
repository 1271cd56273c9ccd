from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_pipelines import HEIGHT, NUM_FRAMES, WIDTH, save_cogvideox
from torch import Tensor

from difftrack.backbones import Backbone, BackboneError, load_backbone, read_trajectory, write_trajectory
from difftrack.datasets import Clip, read_clip, write_clip, write_manifest
from difftrack.extraction import (
    AnalysisParams,
    ClipExtraction,
    ClipReader,
    DenoiseParams,
    ExtractionError,
    Extractor,
    InversionParams,
    ModeParams,
    TrackingViewParams,
    Unit,
    _clips,
    _extract,
    ranges,
)
from difftrack.extraction._step_latents import denoised_latents
from difftrack.params import ParamsError, parse
from difftrack.store import StoreError, create_group, open_store

CHUNKS = [(0, 1, 3), (0, 2, 4)]


@pytest.fixture(scope="session")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return load_backbone(f"path:{save_cogvideox(tmp_path_factory.mktemp('cogvideox'))}")


@pytest.fixture(scope="session")
def clip() -> Clip:
    frames = np.random.default_rng(1).integers(0, 256, (11, 31, 37, 3), dtype=np.uint8)
    return Clip("first", frames, fps=8.0, prompt="a red disc moves", source="rendered")


def analysis(**changes: object) -> AnalysisParams:
    params = AnalysisParams(height=HEIGHT, width=WIDTH, num_frames=NUM_FRAMES, num_inference_steps=10, steps=(2, 9))
    return replace(params, **changes)


def tracking(**changes: object) -> TrackingViewParams:
    return replace(TrackingViewParams(height=HEIGHT, width=WIDTH, num_inference_steps=10, steps=(9,)), **changes)


def every_unit(extraction: ClipExtraction) -> dict[tuple[str, int, int], Unit]:
    return {
        (unit.group, unit.step, unit.layer): unit
        for group in extraction.groups
        for unit in extraction.units(extraction.plan(group))
    }


# Reading ahead


def test_a_clip_that_was_expected_gives_the_same_as_one_that_was_not(
    backbone: Backbone, clip: Clip, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        frames = np.roll(clip.frames, len(name), axis=1)
        write_clip(tmp_path, replace(clip, name=name, frames=frames))
    source = ClipReader(Extractor(backbone, analysis()), tmp_path)
    plain = {name: every_unit(source.prepare(name)) for name in ("first", "second")}
    source.expect("first")
    source.expect("second")
    for name in ("second", "first"):
        expected = every_unit(source.prepare(name))
        assert list(expected) == list(plain[name])
        for key, unit in expected.items():
            for entry, array in unit.arrays.items():
                assert array.tobytes() == plain[name][key].arrays[entry].tobytes()


def test_a_clip_is_read_once_though_the_one_after_it_is_announced_before_its_turn(
    backbone: Backbone, clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["a", "b", "c", "d"]
    for name in names:
        write_clip(tmp_path, replace(clip, name=name))
    source, read = ClipReader(Extractor(backbone, analysis()), tmp_path), []
    monkeypatch.setattr(_clips, "read_clip", lambda folder, name: (read.append(name), read_clip(folder, name))[1])
    for name, following in zip(names, [*names[1:], None], strict=True):
        if following:
            source.expect(following)
        source.prepare(name)
    assert sorted(read) == names
    for name in names:  # no caller takes them
        source.expect(name)
    assert list(source._expected) == ["c", "d"]


def test_what_is_wrong_with_an_expected_clip_is_said_when_it_is_prepared(
    backbone: Backbone, clip: Clip, tmp_path: Path
) -> None:
    write_clip(tmp_path, replace(clip, name="short", frames=clip.frames[: NUM_FRAMES - 1]))
    source = ClipReader(Extractor(backbone, analysis()), tmp_path)
    source.expect("short")
    with pytest.raises(ExtractionError, match=f"clip short has {NUM_FRAMES - 1} frames"):
        source.prepare("short")
    source.expect("none")
    with pytest.raises((ValueError, OSError), match="none"):
        source.prepare("none")


def test_embeddings_of_the_last_prompts_alone_are_kept(
    backbone: Backbone, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    embed = backbone.embed
    monkeypatch.setattr(backbone, "embed", lambda prompt: (asked.append(prompt), embed(prompt))[1])
    monkeypatch.setattr(_extract, "_MOST_EMBEDDINGS", 2)
    extractor = Extractor(backbone, analysis())
    for prompt in ("red", "green", "green", "blue", "green", "red"):
        extractor.prepare(replace(clip, prompt=prompt))
    assert asked == ["red", "green", "blue", "red"]


# What a group will hold


def test_analysis_spec_says_which_frame_each_latent_frame_describes(backbone: Backbone, clip: Clip) -> None:
    (spec,) = Extractor(backbone, analysis()).prepare(clip).groups.values()
    assert spec.frames == (0, 4, 8)
    assert spec.units == [(step, layer) for step in (2, 9) for layer in (0, 1, 2, 3)]
    assert spec.timesteps == (799.0, 99.0)
    assert (spec.clip_size, spec.size) == ((31, 37), (40, 56))
    assert spec.num_text_tokens == 11


def test_tracking_spec_has_a_group_per_chunk_with_its_own_frames(backbone: Backbone, clip: Clip) -> None:
    groups = Extractor(backbone, tracking()).prepare(clip, chunks=CHUNKS).groups
    assert {group: spec.frames for group, spec in groups.items()} == {
        "first/chunk_000": (0, 1, 3),
        "first/chunk_001": (0, 2, 4),
    }
    assert {spec.grid.temporal_stride for spec in groups.values()} == {1}


@pytest.mark.parametrize(
    "changes",
    [{"noise_seed": 1}, {"prompt": "empty"}, {"num_inference_steps": 11}, {"mode": ModeParams(rendered="denoise")}],
)
def test_fingerprint_follows_what_changes_the_numbers(
    backbone: Backbone, clip: Clip, changes: dict[str, object]
) -> None:
    before, after = (Extractor(backbone, p).prepare(clip).groups["first"] for p in (analysis(), analysis(**changes)))
    assert before.fingerprint_parts != after.fingerprint_parts
    painted = replace(clip, frames=255 - clip.frames)
    assert Extractor(backbone, analysis()).prepare(painted).groups["first"] != before


# What the units are


def test_units_have_the_shapes_that_the_spec_promises(backbone: Backbone, clip: Clip) -> None:
    extraction = Extractor(backbone, analysis(heads=(1,), layers=(1, 3))).prepare(clip)
    units = every_unit(extraction)
    assert sorted(units) == [("first", step, layer) for step in (2, 9) for layer in (1, 3)]
    spec = extraction.groups["first"]
    for unit in units.values():
        assert {name: array.shape for name, array in unit.arrays.items()} == {
            entry: spec.entry_shape(entry) for entry in spec.entries
        }


def test_selected_heads_are_the_ones_named(backbone: Backbone, clip: Clip) -> None:
    every = every_unit(Extractor(backbone, analysis()).prepare(clip))
    second = every_unit(Extractor(backbone, analysis(heads=(1,))).prepare(clip))
    for key, unit in second.items():
        for entry, array in unit.arrays.items():
            assert np.array_equal(array, every[key].arrays[entry][1:2])


def test_a_step_is_the_same_whatever_else_is_asked(backbone: Backbone, clip: Clip) -> None:
    wide = every_unit(Extractor(backbone, analysis()).prepare(clip))
    narrow = every_unit(Extractor(backbone, analysis(steps=(2,), layers=(1,), descriptors=("key",))).prepare(clip))
    assert np.array_equal(narrow["first", 2, 1].arrays["key"], wide["first", 2, 1].arrays["key"])


def test_only_the_units_that_a_resumed_run_misses_are_run(
    backbone: Backbone, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    extraction = Extractor(backbone, analysis()).prepare(clip)
    forwards: list[int] = []
    predict = backbone.predict
    monkeypatch.setattr(backbone, "predict", lambda *a, **k: (forwards.append(int(a[1])), predict(*a, **k))[1])
    units = list(extraction.units(extraction.plan("first").only([(9, 2), (9, 0)])))
    assert [(unit.step, unit.layer) for unit in units] == [(9, 0), (9, 2)]
    assert forwards == [99]
    assert list(extraction.units(extraction.plan("first").only([]))) == []


def test_each_frame_is_encoded_once_and_keeps_its_noise_in_every_chunk(
    backbone: Backbone, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Tensor] = []
    encodings: list[int] = []
    encode, predict = backbone.encode, backbone.predict
    monkeypatch.setattr(backbone, "encode", lambda x, **k: (encodings.append(len(x)), encode(x, **k))[1])
    monkeypatch.setattr(backbone, "predict", lambda *a, **k: (seen.append(a[0]), predict(*a, **k))[1])
    every_unit(Extractor(backbone, tracking(layers=(0,))).prepare(clip, chunks=CHUNKS))
    assert encodings == [5]
    assert torch.equal(seen[0][0], seen[1][0])
    assert not torch.equal(seen[0][1], seen[1][1])


def test_a_prompt_is_embedded_once_for_all_clips(
    backbone: Backbone, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded: list[str] = []
    embed = backbone.embed
    monkeypatch.setattr(backbone, "embed", lambda prompt: (embedded.append(prompt), embed(prompt))[1])
    extractor = Extractor(backbone, analysis())
    for name in ("one", "two"):
        extractor.prepare(replace(clip, name=name))
    assert embedded == ["a red disc moves"]
    Extractor(backbone, analysis(guidance_branch="uncond")).prepare(clip)
    assert embedded[1:] == [""]


def test_what_is_written_comes_back_from_the_store(backbone: Backbone, clip: Clip, tmp_path: Path) -> None:
    extraction = Extractor(backbone, analysis(layers=(2,))).prepare(clip)
    writer = create_group(tmp_path, "first", extraction.groups["first"])
    units = list(extraction.units(extraction.plan("first").only(writer.missing())))
    for unit in units:
        writer.write(unit.step, unit.layer, unit.arrays)
    writer.finish()
    assert writer.missing() == []
    stored = open_store(tmp_path).sel(clip="first", step=9, layer=2, kind="query")
    np.testing.assert_allclose(stored, units[-1].arrays["query"], atol=2e-3)


# Modes


def visited(backbone: Backbone, clip: Clip, params: AnalysisParams, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    seen: list[Tensor] = []
    predict = backbone.predict
    monkeypatch.setattr(backbone, "predict", lambda *a, **k: (seen.append(a[0]), predict(*a, **k))[1])
    every_unit(Extractor(backbone, params).prepare(clip))
    return seen


def test_add_noise_reaches_each_level_by_the_analytic_formula_with_one_noise(
    backbone: Backbone, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy, less_noisy = visited(backbone, clip, analysis(layers=(0,)), monkeypatch)
    (clean,) = visited(backbone, clip, analysis(steps=(9,), mode=ModeParams(rendered="clean")), monkeypatch)
    signal = backbone.components["scheduler"].alphas_cumprod[[799, 99]].float()
    noise = (noisy - signal[0].sqrt() * clean) / (1 - signal[0]).sqrt()
    torch.testing.assert_close(less_noisy, signal[1].sqrt() * clean + (1 - signal[1]).sqrt() * noise, atol=2e-5, rtol=0)
    assert abs(float(noise.mean())) < 0.1
    assert abs(float(noise.std()) - 1) < 0.1


def test_noise_differs_between_clips_and_seeds(backbone: Backbone, clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    params = analysis(layers=(0,), steps=(0,))
    one, again = (visited(backbone, clip, params, monkeypatch)[0] for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.allclose(one, visited(backbone, replace(clip, name="second"), params, monkeypatch)[0])
    assert not torch.allclose(one, visited(backbone, clip, replace(params, noise_seed=7), monkeypatch)[0])


def test_inversion_visits_the_wanted_steps_and_reports_its_round_trip(backbone: Backbone, clip: Clip) -> None:
    error = {}
    for form in ("explicit", "fixed_point"):
        params = analysis(
            num_inference_steps=50,
            steps=(47, 49),
            layers=(1,),
            mode=ModeParams(rendered="ddim_inversion"),
            inversion=InversionParams(form=form, iterations=12),
        )
        extraction = Extractor(backbone, params).prepare(clip)
        assert sorted(every_unit(extraction)) == [("first", 47, 1), ("first", 49, 1)]
        error[form] = extraction.round_trip_errors["first"]
    assert error["fixed_point"] < 1e-5
    assert error["fixed_point"] < error["explicit"] < 1


def test_denoise_runs_the_sampler_from_its_first_step_to_the_last_wanted_one(
    backbone: Backbone, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captured at 8 and 9, entered at 7 with clean latents, as in the released tracking pipeline."""
    mode, denoise = ModeParams(rendered="denoise"), DenoiseParams(first_step=7, cfg_scale=3.0)
    params = analysis(steps=(8, 9), layers=(1,), mode=mode, denoise=denoise)
    (clean,) = visited(backbone, clip, analysis(steps=(9,), mode=ModeParams(rendered="clean")), monkeypatch)
    schedule, prompts = backbone.schedule(10), [backbone.embed(text) for text in (clip.prompt, "")]
    entering = [clean]
    for step in (7, 8):
        cond, uncond = (backbone.predict(entering[-1], schedule.timesteps[step], prompt) for prompt in prompts)
        entering.append(schedule.advance(entering[-1], uncond + 3.0 * (cond - uncond), step))
    seen = visited(backbone, clip, params, monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(seen, [entering[i] for i in (0, 0, 1, 1, 1, 2)], strict=True))
    unconditional = visited(backbone, clip, replace(params, guidance_branch="uncond"), monkeypatch)
    assert torch.equal(unconditional[-1], entering[2])  # the same path, another branch captured
    without_prompt = visited(backbone, clip, replace(params, prompt="empty"), monkeypatch)
    assert len(without_prompt) == 4  # both branches are one
    (spec,) = Extractor(backbone, params).outline(clip).values()
    assert (spec.steps, spec.fingerprint_parts["denoise"]) == ((8, 9), [7, "clean", 3.0])


def test_denoise_walks_the_path_of_the_stock_sampler(backbone: Backbone) -> None:
    how = {"num_inference_steps": 5, "num_frames": NUM_FRAMES, "height": HEIGHT, "width": WIDTH}
    sampled = backbone.generate("blue disc", seed=3, cfg_scale=3.0, **how).trajectory.latents
    cond, uncond = (backbone.embed(text) for text in ("blue disc", ""))

    def guided(latents: Tensor, timestep: Tensor) -> Tensor:
        without = backbone.predict(latents, timestep, uncond)
        return without + 3.0 * (backbone.predict(latents, timestep, cond) - without)

    found = dict(denoised_latents(backbone.schedule(5), sampled[1], guided, [1, 3, 4], first=1))
    assert list(found) == [1, 3, 4]
    for step, latents in found.items():
        torch.testing.assert_close(latents, sampled[step], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("start", ["add_noise", "ddim_inversion"])
def test_denoise_may_start_where_the_other_modes_would_be(
    backbone: Backbone, clip: Clip, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    asked = {"layers": (0,), "inversion": InversionParams(form="explicit", report_round_trip=False)}
    there = visited(backbone, clip, analysis(steps=(7,), mode=ModeParams(rendered=start), **asked), monkeypatch)[-1]
    denoise = DenoiseParams(first_step=7, start=start, cfg_scale=1.0)
    params = analysis(steps=(7, 9), mode=ModeParams(rendered="denoise"), denoise=denoise, **asked)
    seen = visited(backbone, clip, params, monkeypatch)
    assert any(torch.equal(latents, there) for latents in seen)
    assert not torch.allclose(seen[-1], there)


def test_steps_that_a_mode_does_not_visit_are_refused_in_the_params() -> None:
    everywhere = dict.fromkeys(("rendered", "generated", "folder"), "clean")
    given = {"height": 40, "width": 56, "steps": [47, 48, 49], "mode": everywhere}
    with pytest.raises(ParamsError, match=r"extract\.tracking: steps is \[47, 48, 49\], but .*mode to denoise"):
        parse(TrackingViewParams, given, "extract.tracking")
    assert parse(TrackingViewParams, {**given, "steps": [49]}, "extract.tracking").steps == (49,)
    with pytest.raises(ParamsError, match=r"denoise\.first_step is 50, but the last step is 49"):
        parse(TrackingViewParams, {**given, "steps": [49], "denoise": {"first_step": 50}}, "extract.tracking")


def test_generate_captures_at_the_latents_of_the_stored_trajectory(
    backbone: Backbone, clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generated = backbone.generate(
        "blue disc", seed=3, num_inference_steps=5, cfg_scale=3.0, num_frames=9, height=HEIGHT, width=WIDTH
    )
    file = tmp_path / "trajectory.safetensors"
    write_trajectory(file, generated.trajectory, fingerprint=backbone.fingerprint)
    trajectory = read_trajectory(file, fingerprint=backbone.fingerprint)
    assert torch.equal(trajectory.latents, generated.trajectory.latents)
    sampled = Clip("sampled", generated.frames, fps=8.0, prompt="blue disc", source="generated")
    params = analysis(num_inference_steps=5, steps=(1, 4), layers=(0,), mode=ModeParams(generated="generate"))
    seen: list[Tensor] = []
    predict = backbone.predict
    monkeypatch.setattr(backbone, "predict", lambda *a, **k: (seen.append(a[0]), predict(*a, **k))[1])
    extraction = Extractor(backbone, params).prepare(sampled, trajectory=trajectory)
    assert len(every_unit(extraction)) == 2
    assert torch.equal(seen[0], trajectory.latents[1])
    assert torch.equal(seen[1], trajectory.latents[4])
    with pytest.raises(BackboneError, match="another backbone sampled this clip"):
        read_trajectory(file, fingerprint="another backbone")
    with pytest.raises(ExtractionError, match=r"sampled was sampled with .* \(5, 3, 40, 56\).*\(6, 3, 40, 56\)"):
        Extractor(backbone, replace(params, num_inference_steps=6)).prepare(sampled, trajectory=trajectory)
    with pytest.raises(ExtractionError, match=r"\(5, 3, 40, 56\).*\(5, 2, 40, 56\): set num_frames"):
        Extractor(backbone, replace(params, num_frames=5)).prepare(sampled, trajectory=trajectory)


# Bad input


def test_a_clip_that_is_too_short_is_named(backbone: Backbone, clip: Clip) -> None:
    short = replace(clip, name="short", frames=clip.frames[:8])
    with pytest.raises(ExtractionError, match=r"clip short has 8 frames, but extract\.analysis\.num_frames is 9"):
        Extractor(backbone, analysis()).prepare(short)


def test_a_mode_that_lacks_something_says_what(backbone: Backbone, clip: Clip) -> None:
    with pytest.raises(ExtractionError, match="clip first: mode generate needs the trajectory"):
        Extractor(backbone, analysis(mode=ModeParams(rendered="generate"))).prepare(clip)
    for steps in ((2,), (8, 9)):  # as many as the store would lack without an error
        one_clean = Extractor(backbone, analysis(steps=steps, mode=ModeParams(rendered="clean")))
        for ask in (one_clean.prepare, one_clean.outline):
            with pytest.raises(ExtractionError, match=r"clip first: steps is .* visits only the last step, 9; set"):
                ask(clip)
    with pytest.raises(ExtractionError, match="clip first: the tracking view needs"):
        Extractor(backbone, tracking()).prepare(clip)


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"steps": (10,)}, r"steps \[10\].*0 to 9"), ({"layers": (0, 4)}, r"layers \[4\].*0 to 3"),
     ({"heads": (2,)}, r"heads \[2\].*0 to 1"), ({"height": 41}, "height 41"), ({"num_frames": 10}, "nearest: 9")],
)  # fmt: skip
def test_what_the_backbone_does_not_have_is_refused_with_the_range(
    backbone: Backbone, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(BackboneError, match=said):
        Extractor(backbone, analysis(**changes))


def test_params_name_key_value_and_what_is_allowed() -> None:
    given = {"height": 40, "width": 56, "num_frames": 9}
    with pytest.raises(ParamsError, match=r"analysis\.mode\.folder is 'noise'.*add_noise"):
        parse(AnalysisParams, {**given, "mode": {"folder": "noise"}}, "extract.analysis")
    with pytest.raises(ParamsError, match=r"layers is \[1, 1\]"):
        parse(AnalysisParams, {**given, "layers": [1, 1]}, "extract.analysis")
    with pytest.raises(ParamsError, match=r"mode\.folder is generate, but the tracking view"):
        parse(TrackingViewParams, {"height": 40, "width": 56, "mode": {"folder": "generate"}}, "extract.tracking")
    parsed = parse(TrackingViewParams, {"height": 40, "width": 56, "steps": [9]}, "extract.tracking")
    assert parsed.prompt == "empty"


# The stage


def test_stage_writes_a_complete_store_names_the_clips_that_fail_or_are_left_out_and_resumes(
    backbone: Backbone, clip: Clip, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from difftrack.pipeline.extract import main

    write_clip(tmp_path / "clips", clip)
    params = {
        "item": {"backbone": "tiny", "view": "analysis"},
        "backbones": {"tiny": {"path": str(backbone.components._folder.path)}},
        "extract": {
            "analysis": {"height": 40, "width": 56, "num_frames": 9, "steps": [49], "layers": [1]},
            "tracking": {"height": 40, "width": 56, "steps": [49], "layers": [1], "chunks": {"chunk_len": 5}},
        },
    }
    deps, outs = {"clips": tmp_path / "clips"}, {"descriptors": tmp_path / "analysis"}
    main(params, deps, outs)
    assert open_store(tmp_path / "analysis").groups() == ["first"]
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "analysis" / "first").rglob("*") if file.is_file()}

    write_clip(tmp_path / "clips", replace(clip, name="short", frames=clip.frames[:3]))
    main(params, deps, outs)
    assert "left out        short: clip short has 3 frames" in capsys.readouterr().out
    write_clip(tmp_path / "clips", replace(clip, name="gone"))
    write_manifest(tmp_path / "clips", ["first", "gone", "short"])
    (tmp_path / "clips" / "gone" / "clip.json").unlink()
    with pytest.raises(
        SystemExit, match=r"1 of 2 clips failed\n  gone: .*gone/clip\.json: the file does not exist; run"
    ):
        main(params, deps, outs)
    assert open_store(tmp_path / "analysis").manifest().clips == ["first", "gone"]
    write_manifest(tmp_path / "clips", ["first", "short"])
    assert {file: file.stat().st_mtime_ns for file in files} == files

    tracking_item = params | {"item": {"backbone": "tiny", "view": "tracking"}}
    main(tracking_item, deps, {"descriptors": tmp_path / "tracking"})
    groups = open_store(tmp_path / "tracking").groups()
    assert groups == ["first/chunk_000", "first/chunk_001", "first/chunk_002", "short/chunk_000"]
    assert capsys.readouterr().err == ""

    too_big = params | {"extract": params["extract"] | {"max_bytes": 1.0}}
    with pytest.raises(StoreError, match=r"extract\.max_bytes"):
        main(too_big, deps, {"descriptors": tmp_path / "other"})
    assert not (tmp_path / "other").exists()


# The plan of a capture


def test_a_capture_plan_names_every_array_by_step_layer_head_and_kind(backbone: Backbone, clip: Clip) -> None:
    view = analysis(layers=(2, 0), heads=(1,), descriptors=("query", "key"))
    plan = Extractor(backbone, view).prepare(clip).plan("first").only([(9, 2), (2, 0), (9, 0)])
    assert [tuple(capture) for capture in plan] == [
        ("first", step, layer, 1, kind) for step, layer in ((2, 0), (9, 0), (9, 2)) for kind in ("query", "key")
    ]
    assert len(plan) == 6
    assert str(plan) == "steps 2 of layers 0; steps 9 of layers 0, 2; heads 1; query, key, text_key"


def test_a_unit_that_the_params_do_not_ask_for_cannot_be_planned(backbone: Backbone, clip: Clip) -> None:
    plan = Extractor(backbone, analysis(layers=(2,))).prepare(clip).plan("first")
    with pytest.raises(ValueError, match="first: step 9, layer 1 is not planned; steps 2, 9 of layers 2;"):
        plan.only([(9, 1)])


def test_the_captured_arrays_are_those_of_the_plan(backbone: Backbone, clip: Clip) -> None:
    extraction = Extractor(backbone, analysis(layers=(2,), heads=(1,), descriptors=("feature",))).prepare(clip)
    plan = extraction.plan("first")
    found = [
        (unit.group, unit.step, unit.layer, plan.heads[head], kind)
        for unit in extraction.units(plan)
        for kind, array in unit.arrays.items()
        for head in range(len(array))
    ]
    assert found == [tuple(capture) for capture in plan]


@pytest.mark.parametrize(
    ("numbers", "text"), [((), ""), ((3,), "3"), ((4, 3), "3, 4"), ((0, 1, 2, 3, 6), "0-3, 6"), ((7, 5, 9), "5, 7, 9")]
)
def test_ranges_are_written_shortly(numbers: tuple[int, ...], text: str) -> None:
    assert ranges(numbers) == text

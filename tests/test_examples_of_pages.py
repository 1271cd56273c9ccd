"""Every Python block of README, docs and the model card runs as it stands, and so do the notebooks of examples/."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import difftrack as dt
from difftrack.backbones import shipped_backbone
from difftrack.rendering import RenderSpec, render_clip

ROOT = Path(__file__).parents[1]
CARD = "data/backbones/cogvideox-mini/README.md"

READ_ONLY = {
    "docs/explore.md": "it opens a browser; tests/test_explorer.py and tests/test_explorer_browser.py call it",
    "docs/extending.md": "excerpts of examples/extension, which tests/test_extension.py installs and runs",
    "docs/scale.md": "it submits SLURM jobs",
}
"""Pages whose blocks are only compiled, and why."""

SHORTER = {
    "data/descriptors/<backbone>": "data/descriptors/cogvideox-mini",
    "num_frames=17,\n    max_sequence_length": "num_frames=9, num_inference_steps=1,\n    max_sequence_length",
    '{"query": ..., "key": ..., "feature": ..., "text_key": ...}': "values",
}
"""Replacements: a placeholder, sampling that takes a minute, values that the page leaves out."""


def blocks(page: str) -> list[str]:
    """The Python blocks of a page, in order."""
    return re.findall(
        r"^```python\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
    )


def all_pages() -> list[str]:
    files = [ROOT / "README.md", ROOT / CARD, *sorted((ROOT / "docs").rglob("*.md"))]
    return [str(file.relative_to(ROOT)) for file in files if "_build" not in file.parts and blocks(str(file))]


def run(page: str, names: dict[str, Any]) -> dict[str, Any]:
    """Run the blocks of a page one after the other; return the names that they define."""
    for number, block in enumerate(blocks(page)):
        for long, short in SHORTER.items():
            block = block.replace(long, short)
        exec(compile(block, f"{page}, block {number}", "exec"), names)
    return names


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video, the shipped weights, and a small store of each view."""
    from difftrack.media import write_video

    here = tmp_path_factory.mktemp("pages")
    write_video(here / "my.mp4", render_clip(RenderSpec(seed=5, num_frames=5)).frames, 8.0, lossless=False)
    frames = render_clip(RenderSpec(seed=5, num_frames=13, height=64, width=96)).frames
    (here / "data").mkdir()
    (here / "data/backbones").symlink_to(ROOT / "data/backbones")
    model = dt.load_backbone("cogvideox-mini", device="cpu")
    for view, kinds in (("analysis", ("query", "key", "feature")), ("tracking", ("query", "key"))):
        for name in ("camel", "generated-000"):
            dt.extract(
                model,
                dt.read_clip(frames, name=name, prompt="a red disc moves left"),
                view=view,
                steps=[49],
                layers=[6, 7],
                descriptors=kinds,
                size=(64, 96),
                num_frames=13 if view == "analysis" else None,
                to=here / f"data/descriptors/cogvideox-mini/{view}",
                progress=False,
            )
    return here


def no_names() -> dict[str, Any]:
    return {}


def a_pipeline() -> dict[str, Any]:
    from diffusers import CogVideoXPipeline

    return {"pipe": CogVideoXPipeline.from_pretrained(shipped_backbone())}


def frames_and_noise() -> dict[str, Any]:
    import torch

    frames = render_clip(RenderSpec(seed=5, num_frames=5, height=64, width=96)).frames
    model = dt.load_backbone("cogvideox-mini", device="cpu")
    latents = model.encode(frames, frames_alone=False)
    return {"frames": frames, "noise": torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))}


def a_group_to_write() -> dict[str, Any]:
    """Names that docs/store.md uses: the values of an existing group, to be written into another store."""
    from difftrack.store import StoreParams, create_group, open_store

    store = open_store("data/descriptors/cogvideox-mini/analysis")
    spec = store.spec("camel")
    values = {kind: store.sel(clip="camel", step=49, layer=6, kind=kind) for kind in spec.entries}
    names = {"create_group": create_group, "StoreParams": StoreParams, "spec": spec, "root": "written.zarr"}
    return {**names, "values": values}


def a_store_folder() -> dict[str, Any]:
    import xarray

    from difftrack.store import open_store

    return {"xarray": xarray, "open_store": open_store, "store_folder": "data/descriptors/cogvideox-mini/analysis"}


GIVEN: dict[str, Callable[[], dict[str, Any]]] = {
    "README.md": a_pipeline,
    "docs/backbones.md": frames_and_noise,
    "docs/store.md": a_group_to_write,
    "docs/sweeps.md": a_store_folder,
    "docs/tracking.md": lambda: {"query_points": np.array([[0, 30.0, 20.0], [2, 60.0, 40.0]], np.float32)},
    "docs/tutorials/own_model.md": lambda: {"checkpoint": str(shipped_backbone())},
}
"""Names that a page does not define itself."""


LOOKED_AT = ("docs/propagate.md", "docs/probe.md", "docs/interventions.md")
"""Pages whose results are checked below."""


@pytest.mark.parametrize("page", [page for page in all_pages() if page not in (*READ_ONLY, *LOOKED_AT)])
@pytest.mark.filterwarnings("default")
def test_the_blocks_of_a_page_run(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    run(page, GIVEN.get(page, no_names)())


@pytest.mark.parametrize("page", list(READ_ONLY))
def test_the_blocks_of_a_page_that_is_not_run_are_python(page: str) -> None:
    assert blocks(page)
    for number, block in enumerate(blocks(page)):
        compile(block, f"{page}, block {number}", "exec")


def test_masks_are_propagated_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run("docs/propagate.md", {})
    assert names["found"].masks.shape == (5, 128, 192)
    assert len(list(Path("thing-masks").glob("*.png"))) == 5
    assert Path("thing.mp4").exists()
    (printed,) = re.findall(r"\[.*\]", capsys.readouterr().out)
    assert all(0.8 < float(number) <= 1 for number in re.findall(r"\d\.\d+", printed))


def test_a_training_is_probed_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    watch = run("docs/probe.md", {})["watch"]
    assert sorted(set(watch.table["training_step"])) == [2, 4]
    assert Path("run/probe/probe.csv").exists()
    assert Path("run/probe/emergence.png").exists()
    assert "matching_accuracy" in capsys.readouterr().out


def test_words_are_mapped_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names = run("docs/words.md", {})
    assert names["square"].dims == ("frame", "row", "col")
    assert names["heads"].dims == ("step", "head", "frame", "row", "col")
    assert {"triangle", "square", "flower", "(padding)"} <= set(names["every"].word.values.tolist())
    assert sorted(path.name for path in Path("words").iterdir()) == [
        f"three-square.{end}" for end in ("mp4", "npz", "png")
    ]
    prompt, share = capsys.readouterr().out.splitlines()
    assert prompt.startswith("a orange photo triangle")
    assert 0 < float(share) < 1


def test_heads_are_removed_and_patched_as_the_page_says(capsys: pytest.CaptureFixture[str]) -> None:
    names = run("docs/interventions.md", {})
    assert names["acted"] == [2]  # one step, two branches
    assert len(names["other"].tensors) == 3 * 2
    printed = [float(number) for number in re.findall(r"(\d+\.\d) grey levels", capsys.readouterr().out)]
    assert len(printed) == 2
    assert min(printed) > 0.5


# Notebooks

NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[file.stem for file in NOTEBOOKS])
@pytest.mark.filterwarnings("default")
def test_a_notebook_runs_from_top_to_bottom(notebook: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for number, cell in enumerate(json.loads(notebook.read_text(encoding="utf-8"))["cells"]):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"{notebook.name}, cell {number}", "exec"), names)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[file.stem for file in NOTEBOOKS])
def test_a_notebook_is_small_and_holds_the_outputs_of_a_run_without_errors(notebook: Path) -> None:
    cells = [cell for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert str(os.sep) + "tmp" not in json.dumps(
        [output for output in outputs if "image/png" not in output.get("data", {})]
    )
    assert notebook.stat().st_size < 200_000

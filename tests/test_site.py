"""The first page, the documentation site, and the links between files of the repository."""

import importlib.util
import re
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import difftrack
import difftrack.testing

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_site", DOCS / "_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The first page


def test_readme_has_at_most_700_words() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 700


def test_the_animated_picture_is_animated_and_below_2_mb() -> None:
    from PIL import Image

    file = DOCS / "images" / "difftrack.webp"
    with Image.open(file) as picture:
        assert picture.n_frames >= 17  # type: ignore[attr-defined]
    assert file.stat().st_size <= 2e6
    assert "docs/images/difftrack.webp" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_model_card_has_the_metadata_that_hugging_face_reads() -> None:
    from huggingface_hub import ModelCard

    card = ModelCard.load(ROOT / "data/backbones/cogvideox-mini/README.md").data.to_dict()
    assert sorted(card) == ["language", "library_name", "license", "pipeline_tag", "tags"]
    assert f'license = "{card["license"].replace("apache", "Apache")}"' in (ROOT / "pyproject.toml").read_text()
    assert (card["library_name"], card["pipeline_tag"], card["language"]) == ("diffusers", "text-to-video", ["en"])
    assert all(re.fullmatch(r"[a-z-]+", tag) for tag in card["tags"])


# Links


def pages() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", "*.md"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:  # an unpacked sdist
        return sorted(file for file in ROOT.rglob("*.md") if not {".venv", "_build"} & set(file.parts))
    return [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(file: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and MyST make them."""
    headings = re.findall(r"^#+ +(.+)$", file.read_text(encoding="utf-8"), flags=re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings]
    return {re.sub(r"[^\w\- ]", "", heading).strip().replace(" ", "-") for heading in plain}


def dead_links(page: Path) -> list[str]:
    text = without_code(page.read_text(encoding="utf-8"))
    dead = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name).resolve() if name else page
        if not file.exists() or (anchor and file.suffix == ".md" and anchor not in anchors(file)):
            dead.append(target)
    return dead


def test_every_link_between_files_leads_somewhere() -> None:
    assert {str(page.relative_to(ROOT)): dead for page in pages() if (dead := dead_links(page))} == {}


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    (tmp_path / "there.md").write_text("# One `two`, three\n")
    page = tmp_path / "page.md"
    page.write_text(
        "[a](there.md#one-two-three) [b](there.md#four) [c](gone.md) `[d](gone.md)`\n```\n[e](gone.md)\n```\n"
    )
    assert dead_links(page) == ["there.md#four", "gone.md"]


# The site


def test_every_public_name_is_in_the_api_reference() -> None:
    documented = set(
        re.findall(r"^\.\. auto\w+:: (\S+)$", "\n".join(p.read_text() for p in DOCS.glob("api/*.md")), re.M)
    )
    elsewhere = {"Backbone": "backbones", "register_backbone": "backbones", "register_tracker": "annotation"}
    wanted = {
        f"difftrack.{elsewhere[name]}.{name}" if name in elsewhere else f"difftrack.{name}"
        for name in difftrack.__all__
    }
    wanted |= {f"difftrack.testing.{name}" for name in difftrack.testing.__all__}
    assert wanted - documented == set()


def test_every_page_is_in_a_table_of_contents() -> None:
    listed = set()
    for page in DOCS.rglob("*.md"):
        for block in re.findall(r"```\{toctree\}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL):
            for line in block.split("\n"):
                if line and not line.startswith(":"):
                    listed |= {file.resolve() for file in page.parent.glob(f"{line}.md")}
    assert {page for page in DOCS.rglob("*.md") if "_build" not in page.parts} - listed == {DOCS / "index.md"}


def test_published_numbers_of_the_tutorial_are_those_of_the_presets() -> None:
    page = (DOCS / "tutorials" / "reproduce.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(tracking-[\w-]+)` \| (.+) \|$", page, flags=re.MULTILINE)
    presets = sorted((ROOT / "difftrack" / "presets").glob("tracking-*.yaml"))
    assert [name for name, _ in rows] == [preset.stem for preset in presets]
    for (_, cells), preset in zip(rows, presets, strict=True):
        published = [entry["value"] for entry in yaml.safe_load(preset.read_text())["published"]]
        assert [float(cell) for cell in cells.split(" | ")] == published


def test_docstrings_are_escaped_outside_of_literals(site: ModuleType) -> None:
    lines = ["Take `a *b*` and c*d* of x_ | y.", "", "    >>> code * is_ kept", "", "Args:", "    x: Of `y`."]
    assert site.plain_docstring(lines) == [
        r"Take ``a *b*`` and c\*d\* of x\_ \| y.",
        "",
        "::",
        "",
        "    >>> code * is_ kept",
        "",
        "",
        "Args:",
        "    x: Of ``y``.",
    ]


def test_a_paragraph_of_a_docstring_whose_lines_are_not_aligned_stays_one(site: ModuleType) -> None:
    lines = ["Axes: step, layer. A", "    or a", "part of it.", "", "* One", "    two", "", "    code"]
    found = site.plain_docstring(lines)
    assert found[:6] == ["Axes: step, layer. A", "or a", "part of it.", "", "* One", "    two"]


def test_links_out_of_the_docs_lead_to_the_page_that_shows_the_file(site: ModuleType) -> None:
    page = DOCS / "tutorials" / "sweep.md"
    text = "[log](../../CHANGELOG.md#x) [code](../../examples) [here](../sweeps.md) [web](https://a.b)"
    found = site.rewritten(text, source=page, page=page)
    assert found == "[log](../changelog.md#x) code (`examples`) [here](../sweeps.md) [web](https://a.b)"


def test_a_page_that_loads_from_another_host_is_told(site: ModuleType) -> None:
    assert site.foreign_loads('<a href="https://a.b">x</a><script src="_static/a.js"></script>') == []
    assert len(site.foreign_loads('<link rel="preconnect" href="https://a.b"><img alt="" src="//a.b/c.png">')) == 2


def test_the_command_line_is_listed_with_every_verb(site: ModuleType) -> None:
    from difftrack.cli import app

    page = site.command_reference()
    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert set(re.findall(r"^## (\S+)$", page, flags=re.MULTILINE)) == names
    assert "`--grid`" in page

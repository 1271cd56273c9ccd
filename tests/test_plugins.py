"""Families and trackers of other packages: how they are found, and what happens if they are broken or clash."""

import logging
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from difftrack.annotation import TRACKERS, TrackerUnavailableError, make_tracker, register_tracker
from difftrack.backbones import (
    CHECKPOINTS,
    KNOWN,
    BackboneError,
    BackboneFamily,
    constructed_backbone,
    register_backbone,
)
from difftrack.backbones._registry import FAMILIES, families, family_of, find_class
from difftrack.plugins import PluginError, Registry
from difftrack.provenance import code_of

Install = Callable[..., None]


def checked(name: str, entry: Any) -> int:
    if not isinstance(entry, int):
        raise TypeError(f"it is {entry!r}; expected an integer")
    return entry


def numbers() -> Registry[int]:
    """A registry of its own group; `one` is built in."""
    return Registry("difftrack.numbers", noun="number", built_in={"one": "math:inf"}, check=lambda name, _: 1)


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put a package with entry points where Python looks for packages."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(package: str, code: str, group: str, **points: str) -> None:
        (tmp_path / f"{package}.py").write_text(textwrap.dedent(code))
        info = tmp_path / f"{package}-1.2.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.2\n")
        lines = [f"{name} = {value}" for name, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines]) + "\n")

    return put


def test_a_package_adds_entries_and_is_imported_when_one_is_asked_for(install: Install) -> None:
    install("numbers_a", "TWO = 2", "difftrack.numbers", two="numbers_a:TWO")
    registry = Registry("difftrack.numbers", noun="number", built_in={}, check=checked)
    assert registry.names() == ("two",)
    assert registry.get("two") == 2
    assert registry.giver("two") == "numbers_a 1.2"


def test_one_that_raises_on_import_is_named_in_one_line_and_the_others_work(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("numbers_b", "raise RuntimeError('no such\\n  card')", "difftrack.numbers", bad="numbers_b:X")
    install("numbers_c", "raise SystemExit(3)", "difftrack.numbers", worse="numbers_c:X")
    install("numbers_d", "THREE = 3\nTEXT = 'x'", "difftrack.numbers", three="numbers_d:THREE", text="numbers_d:TEXT")
    registry = Registry("difftrack.numbers", noun="number", built_in={}, check=checked)
    with caplog.at_level(logging.WARNING, logger="difftrack"):
        assert registry.items() == {"three": 3}
        assert registry.items() == {"three": 3}
    assert caplog.messages == [
        "number 'bad' from numbers_b 1.2 cannot be loaded (RuntimeError: no such card)",
        "number 'worse' from numbers_c 1.2 cannot be loaded (SystemExit: 3)",
        "number 'text' from numbers_d 1.2 cannot be loaded (TypeError: it is 'x'; expected an integer)",
    ]
    with pytest.raises(PluginError, match=r"unknown number 'four'; known: bad, text, three, worse; number 'bad' from"):
        registry.get("four")


def test_of_two_with_one_name_the_built_in_one_stays_and_a_line_names_both(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("numbers_e", "ONE = 11", "difftrack.numbers", one="numbers_e:ONE", six="numbers_e:ONE")
    install("numbers_f", "SIX = 6", "difftrack.numbers", six="numbers_f:SIX")
    registry = numbers()
    with caplog.at_level(logging.WARNING, logger="difftrack"):
        assert registry.names() == ("one", "six")
    assert registry.get("one") == 1
    assert caplog.messages == [
        "number 'one' is provided by math and by numbers_e 1.2; the one from math is used",
        "number 'six' is provided by numbers_e 1.2 and by numbers_f 1.2; the one from numbers_e 1.2 is used",
    ]


def test_a_notebook_registers_once_or_says_that_it_replaces() -> None:
    registry = Registry("difftrack.numbers", noun="number", built_in={}, check=checked, reserved=frozenset({"auto"}))
    registry.register("seven", 7)
    registry.register("seven", 7)
    with pytest.raises(PluginError, match="'seven' is already registered; pass replace=True"):
        registry.register("seven", 8)
    registry.register("seven", 8, replace=True)
    assert registry.get("seven") == 8
    for name in ("auto", "", "a b", "../x"):
        with pytest.raises(PluginError, match=r"the name is invalid; use letters.*none of auto"):
            registry.register(name, 1)
    with pytest.raises(PluginError, match="number 'eight': it is 'x'; expected an integer"):
        registry.register("eight", "x")
    registry.unregister("seven")
    assert registry.names() == ()


# Families


@pytest.fixture
def family() -> Iterator[BackboneFamily]:
    """CogVideoX under another name, with a class of its own."""
    known = replace(KNOWN["cogvideox-2b"], repository="mine/own", aliases=(), transformer=("MyTransformer", {}))
    yield BackboneFamily(
        name="mine", backbone="no.such:Class", transformers=("MyTransformer",), checkpoints={"own": known}
    )
    FAMILIES.unregister("mine")


def test_a_registered_family_is_in_all_tables_and_a_class_that_is_not_there_is_named(family: BackboneFamily) -> None:
    register_backbone(family)
    assert CHECKPOINTS["own"] == "mine/own"
    assert list(KNOWN)[-1] == "own"
    assert family_of("MyTransformer") is family
    with pytest.raises(BackboneError, match=r"family mine from this session: no\.such:Class cannot be loaded \(Module"):
        constructed_backbone("own")
    wrong = replace(family, backbone=Path)
    register_backbone(wrong, replace=True)
    with pytest.raises(BackboneError, match=r"does not derive from difftrack\.backbones\.Backbone"):
        constructed_backbone("own")


def test_a_library_that_cannot_be_imported_stops_its_own_family_alone(install: Install, family: BackboneFamily) -> None:
    install("broken_library", "raise RuntimeError('no\\nway')", "difftrack.nothing")
    register_backbone(replace(family, library="broken_library"))
    assert find_class("WanTransformer3DModel").__name__ == "WanTransformer3DModel"
    assert constructed_backbone("wan2.1-1.3b").components.pipeline_class.__name__ == "WanPipeline"
    with pytest.raises(
        BackboneError, match=r"has a class MyTransformer; the library broken_library .*RuntimeError: no way"
    ):
        find_class("MyTransformer")


def test_a_family_takes_neither_a_class_nor_a_name_of_another(family: BackboneFamily) -> None:
    for changes, said in (
        (
            {"transformers": ("MyTransformer", "WanTransformer3DModel")},
            "'WanTransformer3DModel' is that of 'wan' from diff",
        ),
        ({"checkpoints": {"cogvideox_t2v_2b": family.checkpoints["own"]}}, "'cogvideox_t2v_2b' is that of 'cogvideox'"),
    ):
        with pytest.raises(PluginError, match=said):
            register_backbone(replace(family, **changes))
    with pytest.raises(PluginError, match="'wan' already exists in difftrack"):
        register_backbone(replace(family, name="wan"))
    with pytest.raises(
        ValueError, match="'own' has the transformer MyTransformer, which its family 'mine' does not list"
    ):
        replace(family, transformers=("Other",))
    assert "mine" not in families()


@pytest.mark.parametrize("family", ["cogvideox", "wan"])
def test_what_a_family_says_of_its_checkpoints_is_no_part_of_the_code_that_makes_descriptors(family: str) -> None:
    """A new line in a table makes nothing again, because it reaches no family's file."""
    import difftrack.provenance as provenance
    from difftrack.backbones._backbone import TABLES

    reached: list[str] = []
    source = provenance._source
    module = f"difftrack.backbones.families.{family}._backbone"
    code_of.cache_clear()
    try:
        provenance._source = lambda name: (reached.append(name), source(name))[1]  # type: ignore[assignment]
        code_of("difftrack.extraction._clips", module, without=TABLES)
    finally:
        provenance._source = source  # type: ignore[assignment]
        code_of.cache_clear()
    of_families = {name for name in reached if name.startswith("difftrack.backbones.families")}
    own, shared = f"difftrack.backbones.families.{family}.", "difftrack.backbones.families._"
    assert module in of_families
    assert [name for name in sorted(of_families) if not name.startswith((own, shared))] == []


def test_a_table_of_families_needs_no_diffusers() -> None:
    import subprocess
    import sys

    code = (
        "import sys\n"
        "sys.modules['diffusers'] = sys.modules['transformers'] = None\n"
        "import types; package = types.ModuleType('difftrack.backbones'); "
        "package.__path__ = ['difftrack/backbones']; sys.modules['difftrack.backbones'] = package\n"
        "from difftrack.backbones._names import CHECKPOINTS\n"
        "print(len(CHECKPOINTS))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == str(len(CHECKPOINTS)), done.stderr


# Trackers


@dataclass(frozen=True)
class Still:
    """A minimal tracker."""

    offset_px: float = 0.0

    def track(self, frames: Any, query_points: Any) -> Any:
        return make_tracker("no_motion").track(frames, query_points)


def test_a_tracker_of_a_notebook_is_made_with_its_settings() -> None:
    register_tracker("still", Still)
    try:
        assert make_tracker("still", {"offset_px": 3}) == Still(3.0)
        with pytest.raises(ValueError, match=r"trackers\.still\.offset_px is 'x'; expected a number"):
            make_tracker("still", {"offset_px": "x"})
    finally:
        TRACKERS.unregister("still")
    with pytest.raises(TrackerUnavailableError, match="unknown tracker 'still'; known: cotracker3, dino"):
        make_tracker("still")


@pytest.mark.parametrize(
    ("tracker", "said"),
    [
        (Path, "expected a dataclass with a method `track`"),
        (dataclass(type("T", (), {"__annotations__": {"a": int}, "track": 1})), "expected"),
    ],
)
def test_what_is_no_tracker_is_refused(tracker: type, said: str) -> None:
    with pytest.raises(PluginError, match=said):
        TRACKERS.register("broken", tracker)


def test_names_that_mean_something_else_are_refused() -> None:
    for name in ("auto", "exact", "import", "tracker", "lucas_kanade"):
        with pytest.raises(PluginError):
            register_tracker(name, Still)


def test_every_built_in_entry_loads() -> None:
    assert list(TRACKERS.items()) == ["lucas_kanade", "cotracker3", "no_motion", "raft", "dino"]
    assert [family.name for family in families().values()][:2] == ["cogvideox", "hunyuan"]

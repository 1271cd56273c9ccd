"""Groups of a store are reused if they were made in the same way, whether they are in place or were kept aside."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_locks import HOLD, go_on, line, started

from difftrack.extraction import GroupShelf, lay_others_aside
from difftrack.geometry import TokenGrid
from difftrack.keeping import Keeper, kept_entries
from difftrack.provenance import MadeBy
from difftrack.store import (
    DescriptorSpec,
    StoreError,
    StoreParams,
    create_group,
    descriptor_groups,
    fingerprint_of,
    open_store,
    stored_group,
)
from difftrack.store._group_metadata import Header

THEN = MadeBy(code={"backbones": "1"}, versions={"torch": "2.9"}, loaded={"dtype": "float32"})
NOW = replace(THEN, code={"backbones": "2"})


def spec(**changes: Any) -> DescriptorSpec:
    grid = TokenGrid(num_latent_frames=2, rows=3, cols=5, stride_px=8, temporal_stride=4)
    parts = {"clip": "c", "diffusers": "0.42.1", **changes}
    return DescriptorSpec(
        (3, 9), (961.5, 20.0), (1,), (0, 1), 7, grid, (0, 4), (48, 80), (24, 40), ("query",), (), parts
    )


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., int]:
    """Write one group through a shelf and count the computed units. Their values tell what computed them."""

    def write(made_by: MadeBy = NOW, *, value: float = 1.0, of: DescriptorSpec | None = None, **choices: Any) -> int:
        keeper = Keeper(tmp_path / "kept", "descriptors/m/v", budget=1e9, say=lambda _: None)
        root = str(tmp_path / "store")
        shelf = GroupShelf(root, StoreParams(), keeper, made_by, **{"say": lambda _: None, **choices})
        writer = shelf.open("clip", of or spec())
        units = shelf.wanted(writer)
        for unit in units:
            writer.write(*unit, {"query": np.full(writer.spec.entry_shape("query"), value, np.float16)})
        writer.finish()
        return len(units)

    return write


def value(tmp_path: Path) -> float:
    return float(open_store(tmp_path / "store").sel(clip="clip", step=3, layer=1, kind="query").max())


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_group_of_other_code_is_made_anew_and_going_back_computes_nothing(
    run: Callable[..., int], tmp_path: Path
) -> None:
    assert (run(THEN, value=1.0), run(THEN, value=9.0)) == (2, 0)
    before = files(tmp_path / "store")
    assert (run(NOW, value=2.0), value(tmp_path)) == (2, 2.0)
    for _ in range(2):
        assert (run(THEN, value=9.0), value(tmp_path)) == (0, 1.0)
        assert files(tmp_path / "store") == before
        assert (run(NOW, value=9.0), value(tmp_path)) == (0, 2.0)


def test_the_record_is_no_part_of_the_fingerprint_and_stands_in_the_header(
    run: Callable[..., int], tmp_path: Path
) -> None:
    run(THEN)
    group = stored_group(tmp_path / "store", "clip")
    assert group is not None
    assert group.contents["made_by"] == THEN.to_json()
    assert group.contents["fingerprint"] == fingerprint_of(spec(), StoreParams())
    assert not [check for check in open_store(tmp_path / "store").verify() if check.problem]


def test_params_are_enough_where_a_person_says_so_and_the_store_records_it(
    run: Callable[..., int], tmp_path: Path
) -> None:
    said: list[str] = []
    run(THEN)
    for of in (spec(), spec(diffusers="0.43.0")):
        assert run(NOW, value=9.0, reuse="params", say=said.append, of=of) == 0
    assert said == ["reused because the params are equal (extract.reuse: params); differences: code of backbones"] * 2
    group = stored_group(tmp_path / "store", "clip")
    assert group is not None
    assert (group.contents["made_by"], group.contents["reused"]) == (THEN.to_json(), True)
    assert run(NOW, value=2.0) == 2
    group = stored_group(tmp_path / "store", "clip")
    assert group is not None
    assert "reused" not in group.contents


def test_a_group_without_a_record_is_made_anew_and_kept_where_params_are_enough(
    run: Callable[..., int], tmp_path: Path
) -> None:
    writer = create_group(tmp_path / "store", "clip", spec())
    for unit in writer.missing():
        writer.write(*unit, {"query": np.ones(writer.spec.entry_shape("query"), np.float16)})
    writer.finish()
    assert run(NOW, value=2.0, reuse="params") == 0
    assert (run(NOW, value=2.0), value(tmp_path)) == (2, 2.0)
    assert [kept.key.partition("-")[2] for kept in kept_entries(tmp_path / "kept")] == ["unknown"]


def test_force_writes_every_unit_again_in_place_and_a_run_that_is_cut_short_leaves_no_whole_group(
    run: Callable[..., int], tmp_path: Path
) -> None:
    run(NOW, value=1.0)
    keeper = Keeper(tmp_path / "kept", "descriptors/m/v", budget=1e9)
    GroupShelf(str(tmp_path / "store"), StoreParams(), keeper, NOW, anew=True).open("clip", spec())
    with pytest.raises(StoreError, match="incomplete"):
        value(tmp_path)
    assert (run(NOW, value=2.0, anew=True), value(tmp_path)) == (2, 2.0)
    assert kept_entries(tmp_path / "kept") == []
    assert (run(THEN, value=3.0, anew=True, reuse="params"), value(tmp_path)) == (2, 3.0)
    assert len(kept_entries(tmp_path / "kept")) == 1


def test_a_group_of_other_code_is_refused_by_name_where_nothing_may_be_replaced(run: Callable[..., int]) -> None:
    run(THEN)
    with pytest.raises(StoreError, match=r"store/clip: made again because of a change: code of backbones"):
        run(NOW, replace=False)
    with pytest.raises(StoreError, match="written with other parameters"):
        run(THEN, replace=False, of=spec(clip="d"))


@pytest.mark.parametrize(("made_by", "computed"), [(THEN, 0), (NOW, 2)])
def test_a_group_that_lost_its_header_is_mended_only_where_its_arrays_tell_the_same_making(
    run: Callable[..., int], tmp_path: Path, made_by: MadeBy, computed: int
) -> None:
    run(THEN)
    before = files(tmp_path / "store")
    (tmp_path / "store" / "clip" / "zarr.json").unlink()
    assert run(made_by, value=2.0) == computed
    assert (files(tmp_path / "store") == before) is (computed == 0)


def test_groups_that_no_clip_asks_for_are_laid_aside_and_the_store_looks_as_if_they_had_never_been(
    run: Callable[..., int], tmp_path: Path
) -> None:
    run(NOW)
    before = files(tmp_path / "store")
    root = str(tmp_path / "store")
    keeper = Keeper(tmp_path / "kept", "descriptors/m/v", budget=1e9)
    for group in ("other/chunk_000", "other/chunk_001", "gone"):
        create_group(root, group, spec(clip=group), made_by=NOW.to_json())
    lay_others_aside(root, ["clip", "other"], {"other": ["other/chunk_000"]}, keeper)
    assert descriptor_groups(root) == ["clip", "other/chunk_000"]
    lay_others_aside(root, ["clip"], {}, keeper)
    assert files(tmp_path / "store") == before
    assert [kept.name for kept in kept_entries(tmp_path / "kept")] == ["gone", "other/chunk_000", "other/chunk_001"]


def test_a_run_that_writes_every_unit_again_and_is_killed_leaves_only_good_ones(
    run: Callable[..., int], tmp_path: Path
) -> None:
    run(NOW, value=1.0)
    keeper = Keeper(tmp_path / "kept", "descriptors/m/v", budget=1e9)
    with GroupShelf(str(tmp_path / "store"), StoreParams(), keeper, NOW, anew=True).open("clip", spec()) as writer:
        writer.write(3, 1, {"query": np.full(writer.spec.entry_shape("query"), 2.0, np.float16)})
    assert (run(NOW, value=9.0), value(tmp_path)) == (0, 2.0)
    assert not [check for check in open_store(tmp_path / "store").verify() if check.problem]


def test_nothing_is_laid_aside_where_something_else_lies_among_what_is_to_go(
    run: Callable[..., int], tmp_path: Path
) -> None:
    run(NOW)
    (tmp_path / "store" / "mine").mkdir()
    (tmp_path / "store" / "mine" / "notes.txt").write_text("keep")
    before = files(tmp_path / "store")
    keeper = Keeper(tmp_path / "kept", "descriptors/m/v", budget=1e9)
    with pytest.raises(StoreError, match=r"mine is not a group of the store"):
        lay_others_aside(str(tmp_path / "store"), ["other"], {}, keeper)
    assert files(tmp_path / "store") == before


def test_a_group_that_another_run_writes_is_waited_for_and_not_laid_aside(
    run: Callable[..., int], tmp_path: Path
) -> None:
    run(THEN, value=1.0)
    root, said = str(tmp_path / "store"), list[str]()
    lock = tmp_path / "store" / "clip"
    with started(HOLD, lock, 60) as other:
        assert line(other) == "held"
        keeper = Keeper(tmp_path / "kept", "descriptors/m/v", budget=1e9)
        with pytest.raises(StoreError, match=f"is being written by process {other.pid}"):
            lay_others_aside(root, [], {}, keeper)
        assert value(tmp_path) == 1.0

        def waiting(text: str) -> None:
            said.append(text)
            if "waiting" in text:
                assert value(tmp_path) == 1.0
                go_on(other)

        assert run(NOW, value=2.0, waiting=waiting) == 2
    assert "waiting" in said[0]
    assert not (tmp_path / "store" / ".locks").exists()
    assert not list((tmp_path / "kept").rglob("*.lock"))


@pytest.mark.parametrize("contents", [{"made_by": 3}, {"made_by": ["x"]}, {"reused": "yes"}])
def test_a_header_whose_record_is_none_is_damaged_in_one_line_and_mended(
    run: Callable[..., int], tmp_path: Path, contents: dict[str, Any]
) -> None:
    run(NOW)
    path = tmp_path / "store" / "clip" / "zarr.json"
    before = path.read_bytes()
    header = Header.from_bytes(before)
    path.write_bytes(replace(header, contents={**header.contents, **contents}).to_bytes())
    with pytest.raises(StoreError, match=f"zarr.json is damaged: .*contents.{next(iter(contents))}"):
        value(tmp_path)
    assert stored_group(tmp_path / "store", "clip") is None
    assert run(NOW, value=9.0) == 0
    assert path.read_bytes() == before

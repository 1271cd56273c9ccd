"""Results that are no longer requested are kept aside within a budget, on disk and behind a URL."""

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from test_locks import HOLD, go_on, line, started

from difftrack.keeping import Keeper, kept_entries
from difftrack.ownership import OwnershipError


@pytest.fixture(params=["disk", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "disk":
        yield str(tmp_path / "a [1]")
        return
    yield "memory://keeping"
    fsspec.filesystem("memory").store.clear()


def put(root: str, **files: bytes) -> None:
    system, top = fsspec.url_to_fs(root)
    for name, content in files.items():
        path = f"{top}/{name.replace('__', '/')}"
        system.makedirs(path.rpartition("/")[0], exist_ok=True)
        system.pipe_file(path, content)


def content(root: str) -> dict[str, bytes]:
    system, top = fsspec.url_to_fs(root)
    return {file.removeprefix(f"{top}/"): system.cat_file(file) for file in system.find(top)}


def test_what_is_taken_back_is_what_was_laid_aside(root: str) -> None:
    put(root, store__clip__chunk__zarr=b"12345", store__clip__chunk__q__c=b"67")
    before = content(f"{root}/store")
    keeper = Keeper(f"{root}/kept", "descriptors/m/view", budget=1e9)
    keeper.park(f"{root}/store/clip/chunk", name="clip/chunk", key="f-1", why="gone")
    assert content(f"{root}/store") == {}
    (kept,) = kept_entries(f"{root}/kept")
    assert (kept.kind, kept.name, kept.key, kept.num_bytes) == ("descriptors/m/view", "clip/chunk", "f-1", 7)
    assert not keeper.take(f"{root}/store/clip/chunk", name="clip/chunk", key="f-2")
    assert not keeper.take(f"{root}/store/clip", name="clip", key="f-1")
    assert keeper.take(f"{root}/store/clip/chunk", name="clip/chunk", key="f-1")
    assert content(f"{root}/store") == before
    assert content(f"{root}/kept") == {}


def test_what_is_taken_back_is_said_once(root: str) -> None:
    said: list[str] = []
    keeper = Keeper(f"{root}/kept", "clips", budget=1e9, say=said.append)
    for name, size in (("a", 500_000), ("b", 700_000)):
        put(root, **{f"clips__{name}__x": bytes(size)})
        keeper.park(f"{root}/clips/{name}", name=name, key="f-1", why="gone")
    keeper.settle()
    said.clear()
    assert keeper.take(f"{root}/clips/a", name="a", key="f-1")
    assert not keeper.take(f"{root}/clips/b", name="b", key="f-2")
    keeper.settle()
    keeper.settle()
    assert said == [f"restored 1 of clips (0.5 MB) from {root}/kept: they match params.yaml, so no model ran for them"]


def test_the_least_recently_used_goes_first_and_only_over_the_budget(root: str) -> None:
    said: list[str] = []
    budget = 11
    for number, kind in enumerate(("descriptors/m/a", "descriptors/m/b", "clips", "descriptors/m/a")):
        put(root, **{f"store__{number}__x": bytes(5)})
        keeper = Keeper(f"{root}/kept", kind, budget=budget, say=said.append)
        keeper.park(f"{root}/store/{number}", name=str(number), key="f-1", why="of other clips")
        keeper.settle()
    assert [kept.name for kept in kept_entries(f"{root}/kept")] == ["2", "3", "1"]
    removed = [line for line in said if line.startswith("removed")]
    assert len(removed) == 1
    assert "descriptors/m/a/0" in removed[0]
    assert sum("of other clips" in line for line in said) == 4


def test_a_key_of_the_same_params_will_do_where_the_params_are_enough(root: str) -> None:
    keeper = Keeper(f"{root}/kept", "clips", budget=1e9)
    put(root, clips__a__x=b"1")
    keeper.park(f"{root}/clips/a", name="a", key="f-old", why="")
    assert keeper.fitting("a", "f-new", "exact") is None
    assert keeper.fitting("a", "f-new", "params") == "f-old"
    assert keeper.fitting("a", "g-new", "params") is None
    assert keeper.fitting("a", "f-old", "exact") == "f-old"


@pytest.mark.parametrize("name", ["../../precious", "b", "/precious"])
def test_nothing_is_removed_that_does_not_lie_where_it_says(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious" / "k" / "content").mkdir(parents=True)
    place = tmp_path / "kept" / "clips" / "a" / "k"
    (place / "content").mkdir(parents=True)
    mark = {
        "root": str(tmp_path),
        "kind": "clips",
        "name": name,
        "key": "k",
        "since": 0,
        "num_bytes": 0,
        "num_files": 0,
    }
    (place / "kept.json").write_text(json.dumps({"difftrack": "kept", **mark}))
    (tmp_path / "kept" / "clips" / "b").symlink_to(tmp_path / "precious")
    (tmp_path / "precious" / "k" / "kept.json").write_text(json.dumps({"difftrack": "kept", **mark}))
    Keeper(tmp_path / "kept", "clips", budget=0).settle()
    assert kept_entries(tmp_path / "kept") == []
    assert (place / "content").is_dir()
    assert (tmp_path / "precious" / "k" / "content").is_dir()


def test_what_was_changed_since_is_neither_taken_nor_removed(root: str) -> None:
    said: list[str] = []
    keeper = Keeper(f"{root}/kept", "clips", budget=0, say=said.append)
    for name in ("changed", "joined", "whole"):
        put(root, **{f"clips__{name}__x": b"123"})
        keeper.park(f"{root}/clips/{name}", name=name, key="f-1", why="gone")
    put(f"{root}/kept/clips", **{"changed__f-1__content__y": b"", "joined__f-1__notes.txt": b"mine"})
    assert not keeper.take(f"{root}/clips/changed", name="changed", key="f-1")
    assert not keeper.take(f"{root}/clips/joined", name="joined", key="f-1")
    said.clear()
    keeper.settle()
    assert [kept.name for kept in kept_entries(f"{root}/kept")] == ["changed", "joined"]
    assert sum("f-1 was not removed" in line for line in said) == 2
    assert content(f"{root}/kept/clips/joined/f-1")["notes.txt"] == b"mine"


def test_nothing_is_put_back_over_what_lies_there(root: str) -> None:
    keeper = Keeper(f"{root}/kept", "clips", budget=1e9)
    put(root, clips__a__x=b"1")
    keeper.park(f"{root}/clips/a", name="a", key="f-1", why="gone")
    put(root, clips__a__x=b"2")
    assert not keeper.take(f"{root}/clips/a", name="a", key="f-1")
    assert content(f"{root}/clips") == {"a/x": b"2"}
    keeper.park(f"{root}/clips/a", name="a", key="f-2", why="gone")
    assert keeper.take(f"{root}/clips/a", name="a", key="f-1")
    assert content(f"{root}/clips") == {"a/x": b"1"}


def test_an_empty_folder_is_no_hindrance(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "kept", "clips", budget=1e9)
    put(str(tmp_path), clips__a__x=b"1")
    keeper.park(tmp_path / "clips" / "a", name="a", key="f-1", why="gone")
    (tmp_path / "clips" / "a").mkdir()
    assert keeper.take(tmp_path / "clips" / "a", name="a", key="f-1")
    assert content(str(tmp_path / "clips")) == {"a/x": b"1"}


def test_what_a_killed_run_left_of_an_entry_gives_way_and_anything_else_does_not(tmp_path: Path) -> None:
    keeper = Keeper(tmp_path / "kept", "clips", budget=1e9)
    place = tmp_path / "kept" / "clips" / "a" / "f-1"
    put(str(tmp_path), clips__a__x=b"1")
    keeper.park(tmp_path / "clips" / "a", name="a", key="f-1", why="gone")
    (place / "content").rename(place / "content.part")
    assert kept_entries(tmp_path / "kept") == []
    put(str(tmp_path), clips__a__x=b"1")
    keeper.park(tmp_path / "clips" / "a", name="a", key="f-1", why="gone")
    assert [kept.num_files for kept in kept_entries(tmp_path / "kept")] == [1]
    (place / "kept.json").write_text("{}")
    put(str(tmp_path), clips__a__x=b"1")
    with pytest.raises(OwnershipError, match=r"f-1 was not removed: .*contains no kept\.json"):
        keeper.park(tmp_path / "clips" / "a", name="a", key="f-1", why="gone")
    assert content(str(tmp_path / "clips")) == {"a/x": b"1"}


def test_one_process_at_a_time_changes_what_is_kept(tmp_path: Path) -> None:
    put(str(tmp_path), clips__a__x=b"1")
    with started(HOLD, tmp_path / "kept", 60) as other:
        assert line(other) == "held"
        said: list[str] = []

        def say(text: str) -> None:
            said.append(text)
            if "waiting" in text:
                assert content(str(tmp_path / "clips")) == {"a/x": b"1"}
                go_on(other)

        Keeper(tmp_path / "kept", "clips", budget=1e9, say=say).park(tmp_path / "clips/a", name="a", key="f-1", why="")
        assert f"kept is being written by process {other.pid}" in said[0]
    assert [kept.name for kept in kept_entries(tmp_path / "kept")] == ["a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "kept"]


def test_a_damaged_mark_and_one_without_content_are_passed_over(tmp_path: Path) -> None:
    for name, text in {"a": "[", "b": "{}", "c": json.dumps({"difftrack": "kept"})}.items():
        (tmp_path / "clips" / name / "k" / "content").mkdir(parents=True)
        (tmp_path / "clips" / name / "k" / "kept.json").write_text(text)
    assert kept_entries(tmp_path) == []
    assert kept_entries(tmp_path / "none") == []
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["a", "b", "c"]

"""The record of what made an artifact: the code that it reaches, the versions, and what is in memory."""

import ast
import gc
import importlib
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from difftrack import provenance
from difftrack.backbones._loaded import checksum, state_of
from difftrack.provenance import MadeBy, code_of, key_of, reuse_problem, versions_of

FILES = {
    "__init__.py": "",
    "top.py": '"""Says."""\nfrom rooms.deep import one\n\nimport rooms.side\nVALUE = one() + 1\n',
    "side.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import rooms.typed\n",
    "typed.py": "X = 1\n",
    "deep/__init__.py": '"""A room."""\nfrom rooms.deep._one import one\nfrom ._two import two\n\n__all__ = ["one"]\n',
    "deep/_one.py": "def one() -> int:\n    return 1\n",
    "deep/_two.py": "def two() -> int:\n    return 2\n",
    "plugin.py": "class Family:\n    pass\n",
}  # fmt: skip


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Mapping[str, str]]:
    """Digests of the code that `rooms.top` reaches, after some of its files are rewritten."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def digest(*modules: str, without: tuple[str, ...] = (), **changed: str) -> Mapping[str, str]:
        texts = FILES | {name.replace("__", "/", 1) + ".py": text for name, text in changed.items()}
        for name, text in texts.items():
            file = tmp_path / "rooms" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        importlib.invalidate_caches()
        for cached in (provenance._source, provenance._file, provenance._folder, code_of):
            cached.cache_clear()  # type: ignore[attr-defined]
        return code_of(*(modules or ("rooms.top",)), without=frozenset(without))

    return digest


def test_comments_docstrings_and_blank_lines_do_not_count(code: Callable[..., Mapping[str, str]]) -> None:
    other = '"""More."""\n# why\nfrom rooms.deep import one  # 1\n\nimport rooms.side\nVALUE = one() + 1\n"""Doc."""\n'
    assert code() == code(top=other)


@pytest.mark.parametrize(
    "text",
    [
        FILES["top.py"].replace("+ 1", "+ 2"),
        FILES["top.py"] + "NAME = '# no comment'\n",
        FILES["top.py"] + 'TEXT = """# no\n\ndocstring"""\n',
    ],
)
def test_a_change_of_what_runs_counts(code: Callable[..., Mapping[str, str]], text: str) -> None:
    assert code() != code(top=text)


def test_a_sign_of_a_comment_inside_a_string_is_no_comment(code: Callable[..., Mapping[str, str]]) -> None:
    assert code(top="A = '#1'\n") != code(top="A = '#2'\n")
    assert code(top='A = """\n#1\n"""\n') != code(top='A = """\n#2\n"""\n')
    assert code(top="A = f'{1}#' # 1\n") == code(top="A = f'{1}#' # 2\n")


def test_what_is_reached_through_a_room_counts_and_its_neighbour_does_not(
    code: Callable[..., Mapping[str, str]],
) -> None:
    before = code()
    assert code(deep___one="def one() -> int:\n    return 3\n") != before
    assert code(deep___two="def two() -> int:\n    return 3\n") == before
    assert code(typed="X = 2\n") == before
    assert code(plugin="class Family:\n    x = 1\n") == before


LAZY = "import lazy_loader\n\n__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)\n"


def test_a_room_whose_names_stand_in_a_stub_is_followed_to_their_modules(
    code: Callable[..., Mapping[str, str]], tmp_path: Path
) -> None:
    code(deep____init__=LAZY)
    (tmp_path / "rooms/deep/__init__.pyi").write_text("from ._one import one\nfrom ._two import two\n")
    before = code(deep____init__=LAZY)
    assert code(deep____init__=LAZY, deep___one="def one() -> int:\n    return 3\n") != before
    assert code(deep____init__=LAZY, deep___two="def two() -> int:\n    return 3\n") == before


def test_what_makes_descriptors_is_reached_through_the_rooms_of_this_project() -> None:
    reached = code_of("difftrack.extraction._clips")
    assert {"backbones", "datasets", "extraction", "geometry", "store"} <= set(reached)


def test_a_module_that_is_named_counts_and_one_left_out_is_not_followed(
    code: Callable[..., Mapping[str, str]],
) -> None:
    both = code("rooms.top", "rooms.plugin")
    assert code("rooms.top", "rooms.plugin", plugin="class Family:\n    x = 1\n") != both
    less = code(without=("rooms.deep._one",))
    assert code(without=("rooms.deep._one",), deep___one="def one() -> int:\n    return 3\n") == less


def test_a_module_that_is_not_there_is_named(code: Callable[..., Mapping[str, str]]) -> None:
    with pytest.raises(ValueError, match=r"module rooms\.gone does not exist"):
        code("rooms.gone")


def test_the_families_that_a_backbone_is_not_of_have_no_part_in_its_code() -> None:
    tables = frozenset(f"difftrack.backbones.{name}" for name in ("_family", "_load", "_names", "_registry"))
    of_family = {
        family: code_of(
            "difftrack.extraction._clips", f"difftrack.backbones.families.{family}._backbone", without=tables
        )
        for family in ("cogvideox", "wan")
    }
    differing = [room for room in of_family["wan"] if of_family["wan"][room] != of_family["cogvideox"].get(room)]
    assert differing == ["backbones"]
    assert {"backbones", "datasets", "extraction", "geometry", "media"} <= set(of_family["wan"])
    assert not {"correspondence", "metrics", "reports", "tracking", "provenance"} & set(of_family["wan"])


def test_a_file_is_read_in_one_go_though_the_collector_lets_other_threads_parse() -> None:
    """In CPython 3.11 this is a SystemError if another thread builds a tree while one's own is being built."""
    source, parsed = Path(provenance.__file__).read_bytes(), []
    undisturbed = provenance._read(source, "difftrack")

    def let_another_thread_parse(phase: str, _: object) -> None:
        if phase == "start" and threading.current_thread() is threading.main_thread():
            other = threading.Thread(target=lambda: parsed.append(ast.parse("a = 1")))
            other.start()
            other.join()

    thresholds = gc.get_threshold()
    gc.callbacks.append(let_another_thread_parse)
    gc.set_threshold(50)
    try:
        disturbed = provenance._read(source, "difftrack")
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(let_another_thread_parse)
    assert disturbed == undisturbed
    assert parsed  # other threads run around the tree
    assert gc.isenabled()


def test_versions_have_no_local_part_and_what_is_not_installed_is_left_out() -> None:
    found = versions_of("torch", "no-such-library")
    assert list(found) == ["torch"]
    assert "+" not in found["torch"]


def test_a_difference_names_rooms_versions_and_what_is_in_memory() -> None:
    then = MadeBy(
        code={"a": "1", "b": "2"}, versions={"torch": "2.9"}, loaded={"scheduler": {"class": "A"}, "dtype": "x"}
    )
    now = MadeBy(
        code={"a": "1", "b": "3", "c": "4"},
        versions={"torch": "3.0"},
        loaded={"scheduler": {"class": "B"}, "dtype": "x"},
    )
    assert now.difference(then) == "code of b, c; torch 2.9 -> 3.0; scheduler"
    assert now.difference(now) is None
    assert MadeBy.from_json(now.to_json()) == now
    assert "no record of the code" in str(now.difference(MadeBy.from_json({"code": 3})))
    assert reuse_problem(now, None, "params") is None
    assert reuse_problem(now, then.to_json(), "exact") == now.difference(then)
    assert key_of("f" * 64, None) == f"{'f' * 16}-unknown"
    assert key_of("f" * 64, now) != key_of("f" * 64, then)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int8])
def test_a_checksum_sees_every_value_its_sign_and_its_place(dtype: torch.dtype) -> None:
    values = torch.arange(1, 1 + 131 * 1009).remainder(113).sub(17).to(dtype)
    swapped, changed = values.clone(), values.clone()
    swapped[[5, 131 * 1009 - 2]] = values[[131 * 1009 - 2, 5]]
    changed[7] += 1
    sums = [checksum(each) for each in (values, swapped, changed, -values, values[:-1], values.flip(0))]
    assert len(set(sums)) == len(sums)
    assert checksum(values[1:]) == checksum(values[1:].clone())
    assert checksum(values.reshape(1009, 131).T.contiguous().T) == sums[0]


class Adapter(nn.Module):
    """A LoRA layer's structure: its scale is not a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.base, self.scaling = nn.Linear(3, 5), {"default": 1.0}


def test_the_state_of_a_model_tells_weights_adapters_and_classes_apart() -> None:
    torch.manual_seed(0)
    adapter = Adapter()
    model = nn.Sequential(nn.Linear(2, 3), adapter)
    seen = {state_of(model)}
    assert state_of(model) in seen
    adapter.scaling["default"] = 0.5
    seen.add(state_of(model))
    model[0].weight.data[0, 0] += 1e-3
    seen.add(state_of(model))
    model[0] = nn.Bilinear(2, 3, 3)
    seen.add(state_of(model))
    assert len(seen) == 4

"""The table of docs/backbones.md: what is done to a pipeline and what capture makes of it, by family."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conditions import (
    ABSENT,
    CONDITIONS,
    EXACT,
    FAMILIES,
    OTHER,
    REFUSED,
    RESULTS,
    Subject,
    load_pipeline,
    on_the_page,
    outcome,
    quiet,
    rendered,
    subject,
    with_lora,
)
from torch.testing._internal.two_tensor import TwoTensor

from difftrack.backbones import KNOWN, wrap_pipeline
from difftrack.backbones._loaded import state_of
from difftrack.backbones._registry import families

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries: flex attention is slow without a compiler

QUICK = (
    "LoRA loaded",
    "LoRA deleted",
    "attention backend flex",
    "cache: FirstBlockCache",
    "scheduler Euler",
    "enable_sequential_cpu_offload",
    "fp8 layerwise casting",
    "int8 linear layers",
    "two prompts in one call",
)
"""Conditions that every run of the tests tries, on one family of cross-attention."""


SHORT = ("CogVideoX", "Wan", "HunyuanVideo")
"""Families that CI tries under all conditions except compilation; `make test-long` tries the rest."""

NEW = tuple(CONDITIONS)[list(CONDITIONS).index("enable_model_cpu_offload") :]
"""Conditions of which some families were not run."""

COMPILED = tuple(condition for condition in CONDITIONS if "compile" in condition)


@pytest.fixture(scope="module", autouse=True)
def without_warnings() -> Iterator[None]:
    with quiet():
        yield


@pytest.fixture(scope="module")
def table() -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return found


@pytest.fixture(scope="module")
def wan(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return subject("Wan", tmp_path_factory.mktemp("pipeline"))


def test_every_family_and_condition_is_in_the_table_and_none_is_captured_wrong(
    table: dict[str, dict[str, str]],
) -> None:
    assert list(table) == list(FAMILIES)
    assert {KNOWN[name].transformer[0] for name in FAMILIES.values()} == {
        transformer for family in families().values() for transformer in family.transformers
    }
    for family, found in table.items():
        assert list(found) == [condition for condition in CONDITIONS if condition in found], family
        assert set(CONDITIONS) - set(found) <= {*COMPILED, *NEW}, family
        assert "WRONG" not in found.values(), family
        assert {outcome for condition, outcome in found.items() if condition.startswith("cache")} <= {REFUSED, ABSENT}
        assert found["LoRA deleted"] in (EXACT, ABSENT)


def test_the_page_shows_the_table(table: dict[str, dict[str, str]]) -> None:
    assert on_the_page() == rendered(table)


@pytest.mark.parametrize("condition", QUICK)
def test_a_condition_does_what_the_table_says(condition: str, wan: Subject, table: dict[str, dict[str, str]]) -> None:
    assert outcome(condition, wan)[0] == table["Wan"][condition]


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", [family if family in SHORT else pytest.param(family, marks=pytest.mark.long) for family in FAMILIES]
)
def test_every_condition_does_what_the_table_says(
    family: str, tmp_path: Path, table: dict[str, dict[str, str]]
) -> None:
    of = subject(family, tmp_path)
    tried = [condition for condition in table[family] if condition not in COMPILED]
    assert {condition: outcome(condition, of)[0] for condition in tried} == {
        condition: table[family][condition] for condition in tried
    }


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_compiled_pipelines_do_what_the_table_says(
    family: str, tmp_path: Path, table: dict[str, dict[str, str]]
) -> None:
    of, said = subject(family, tmp_path), {name: found for name, found in table[family].items() if name in COMPILED}
    assert {condition: outcome(condition, of)[0] for condition in said} == said


def test_a_wrapped_pipeline_says_what_was_done_to_it_and_the_record_holds_it(wan: Subject) -> None:
    plain = wrap_pipeline(wan.pipeline())
    assert repr(plain) == (
        "<WanBackbone WanPipeline: WanPipeline; 4 layers x 7 heads x 12 channels; float32 on cpu; "
        "UniPCMultistepScheduler>"
    )
    assert "alterations" not in plain.made_by("difftrack.extraction").loaded
    pipeline = with_lora(wan)
    pipeline.transformer.fuse_lora()
    pipeline.transformer.set_attention_backend("_native_math")
    pipeline.vae.enable_tiling()
    altered = wrap_pipeline(pipeline)
    told, record = repr(altered), altered.made_by("difftrack.extraction").loaded["alterations"]
    pipeline.transformer.set_attention_backend("native")  # diffusers sets it for every model
    said = ["vae: tiled", "transformer: LoRA style at scale 4 (fused)", "transformer: attention backend _native_math"]
    assert sorted(record) == sorted(said)
    assert all(each in told for each in said)


def test_a_cache_is_named_before_anything_runs(wan: Subject) -> None:
    found, why = outcome("cache: TaylorSeer", wan)
    assert found == REFUSED
    assert "TaylorSeer" in why
    assert "disable_cache()" in why


def test_an_adapter_changes_what_is_captured(wan: Subject) -> None:
    assert outcome("LoRA loaded", wan)[0] == OTHER
    assert wrap_pipeline(load_pipeline(wan.folder)).fingerprint == wrap_pipeline(wan.pipeline()).fingerprint


def test_the_numbers_that_a_quantised_weight_holds_count() -> None:
    """A tensor that wraps others, as torchao's do; torch's own class that wraps two represents them."""
    numbers = torch.arange(6.0).reshape(2, 3)
    states = set()
    for scale in (0.5, 0.25, 0.5):
        layer = torch.nn.Linear(3, 2, bias=False)
        layer.weight = torch.nn.Parameter(TwoTensor(numbers.clone(), torch.full((2, 3), scale)), requires_grad=False)
        states.add(state_of(layer))
    assert len(states) == 2

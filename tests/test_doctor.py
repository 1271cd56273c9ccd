"""`difftrack doctor` reports what is installed and whether it works."""

import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from difftrack import doctor
from difftrack.cli import app
from difftrack.doctor import Finding, Report, examine, self_test


@pytest.fixture(scope="module")
def report() -> Report:
    return examine(test=False)


@pytest.fixture(scope="module")
def tested() -> list[Finding]:
    return self_test(device="cpu")


def named(findings: list[Finding] | tuple[Finding, ...], name: str) -> Finding:
    (found,) = [finding for finding in findings if finding.name == name]
    return found


def test_every_part_is_reported_and_nothing_fails_where_the_tests_run(report: Report) -> None:
    sections = list(dict.fromkeys(finding.section for finding in report.findings))
    assert sections == ["versions", "device", "attention", "weights", "caches", "optional parts", "extensions"]
    assert [finding.line() for finding in report.findings if finding.status == "FAIL"] == []
    assert report.passed
    assert named(report.findings, "numpy").found == np.__version__


def test_what_is_absent_says_how_to_get_it(report: Report) -> None:
    for finding in report.findings:
        if finding.section == "optional parts" and finding.status == "absent":
            assert finding.way_out.startswith("pip install ")
    weights = named(report.findings, "cogvideox-mini")
    assert weights.status == "ok"
    assert weights.found.startswith("31 MB in ")


def test_the_attention_kernels_that_are_named_run_here(report: Report) -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel

    (found,) = [finding for finding in report.findings if (finding.section, finding.name) == ("attention", "torch")]
    assert "math" in found.found
    tokens = torch.ones(1, 1, 3, 5)
    with sdpa_kernel(SDPBackend.MATH):
        assert torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).shape == (1, 1, 3, 5)


def test_the_self_test_tracks_points_of_the_shipped_backbone(tested: list[Finding]) -> None:
    assert [finding.name for finding in tested] == [name for name, _, _ in doctor.STEPS]
    assert [finding.status for finding in tested] == ["ok"] * len(doctor.STEPS)


def test_the_self_test_tells_tracks_from_points_that_stay() -> None:
    from difftrack.rendering import exact_tracks

    spec = doctor.CLIP
    points = doctor.grid_of_points(spec)
    truth, visible = exact_tracks(spec, np.concatenate([np.zeros((len(points), 1), np.float32), points], axis=1))
    stays = np.linalg.norm(points - truth[-1], axis=-1)[visible[-1]] < doctor.MOST_ERROR_PX
    assert stays.mean() < 0.1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_step_that_fails_is_one_line_with_the_way_out() -> None:
    found = self_test(device="cuda")
    assert found[-1].status == "FAIL"
    assert found[-1].way_out
    assert "\n" not in found[-1].line()
    assert len(found) < len(doctor.STEPS)


def test_a_part_that_raises_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch, report: Report) -> None:
    def broken() -> None:
        raise RuntimeError("the driver\nis gone")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    findings = examine(test=False).findings
    failed = [finding for finding in findings if finding.status == "FAIL"]
    assert {finding.section for finding in failed} == {"device", "attention"}
    assert all("RuntimeError: the driver is gone" in finding.found for finding in failed)
    assert {finding.section for finding in findings} == {finding.section for finding in report.findings}


@pytest.mark.parametrize(
    ("version", "wanted", "fits"),
    [("2.9.1", "torch>=2.9", True), ("2.8.0", "torch>=2.9", False), ("2.13.0+cpu", "torch>=2.9", True)],
)
def test_a_version_is_compared_with_what_the_package_asks_for(version: str, wanted: str, fits: bool) -> None:
    assert doctor._fits(version, wanted) is fits


def test_json_and_text_say_the_same(report: Report) -> None:
    values = json.loads(json.dumps(report.to_json()))
    assert values["passed"] is True
    lines = report.text().splitlines()
    for row in values["findings"]:
        assert any(row["name"] in line and row["found"] in line for line in lines)
    assert len(lines) == len(values["findings"]) + 2 * 7 - 1


def test_the_exit_status_is_1_where_something_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner()
    monkeypatch.setattr(
        doctor, "examine", lambda **_: Report((Finding("device", "cuda", "FAIL", "it is gone", "plug it in"),))
    )
    shown = runner.invoke(app, ["doctor", "--no-test"])
    assert shown.exit_code == 1
    assert shown.stdout == "device\n  FAIL   cuda: it is gone; plug it in\n"
    as_json = runner.invoke(app, ["doctor", "--json"])
    assert as_json.exit_code == 1
    assert json.loads(as_json.stdout)["findings"][0]["way_out"] == "plug it in"

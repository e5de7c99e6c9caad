"""The benchmark of the training step: what it writes, and that what it times is training."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import step
from benchmarks.step import Case, Stock, Variant, page, timed

CPU = torch.device("cpu")
METHODS = "deflow,fidec,fidec-official,rebrac"


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON file of a run on two seeds at most."""
    out = tmp_path_factory.mktemp("benchmark") / "step"
    options = {
        "methods": METHODS, "nets": "2x8", "seeds": "1,2", "rounds": "2", "seconds": "0.001", "device": "cpu",
        "states": "400", "transitions": "2000", "out": str(out),
    }  # fmt: skip
    given = [word for name, value in options.items() for word in (f"--{name}", value)]
    subprocess.run([sys.executable, "-m", "benchmarks.step", *given], cwd=step.ROOT, check=True, capture_output=True)
    return out.with_name("step.json")


@pytest.fixture(scope="module")
def result(written: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(written.read_text())
    return found


def test_every_variant_is_told(result: dict[str, Any]) -> None:
    found = {(one["method"], one["regime"], one["seeds"], one["execution"]) for one in result["steps"]}
    rows = [(name, regime) for name in ("fidec", "deflow") for regime in ("bank", "fresh", "joint")]
    rows += [("fidec-official", "joint"), ("rebrac", "-")]
    assert found == {(*row, seeds, "eager") for row in rows for seeds in (1, 2)}


def test_numbers_agree_with_each_other(result: dict[str, Any]) -> None:
    for one in result["steps"]:
        low, high = one["ms_quartiles"]
        assert 0 < low <= one["ms"] <= high
        assert min(one["ms_rounds"]) <= low and high <= max(one["ms_rounds"])
        assert one["seed_updates"] == pytest.approx(1000 * one["seeds"] / one["ms"], rel=1e-3)
        assert 0 < one["share"] < one["net_share"]  # products of this net are too small for the machine's rate
        assert one["peak_mib"] > 0
    for one in result["breakdown"]:
        assert sum(one[part] for part in step.PARTS) == pytest.approx(1, abs=1e-3)
        assert one["products"] > 0 and one["others"] > 0
    assert [(one["net"], one["seeds"]) for one in result["banks"]] == [("2x8", 1)]
    assert result["banks"][0]["states_per_second"] > 0
    loading = result["loading"]
    assert loading["transitions"] == 2000 and loading["seconds"] > 0 and loading["memory"] > 0


def test_shares_are_those_of_the_rates(stock: Stock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step, "product_rate", lambda shape, device: 4e9 if shape[0] == 2 else 2e9)
    found = step.measure("2x8", [Case("fidec", "bank", 2, "2x8", "eager")], stock, rounds=3, seconds=0.001)
    (one,) = found["steps"]
    assert found["rates"] == [{"net": "2x8", "gflops": 2.0, "net_gflops": {"2": 4.0}}]
    assert one["share"] == pytest.approx(one["gflop"] / one["ms"] * 1000 / 2)
    assert one["net_share"] == pytest.approx(one["share"] / 2)


def test_machine_and_options_are_told_without_names(written: Path, result: dict[str, Any]) -> None:
    assert result["machine"]["processor"] and result["machine"]["cores"] >= 1 and result["machine"]["gpu"] is None
    assert result["versions"]["torch"] == torch.__version__
    assert result["threads"] == 2 and int(result["gomp_spincount"]) >= 0
    assert result["options"]["methods"] == METHODS and result["options"]["executions"] == "eager"
    for text in (written.read_text(), written.with_suffix(".md").read_text()):
        assert socket.gethostname() not in text and str(step.ROOT) not in text


def test_page_holds_the_ratios_of_the_rounds(written: Path, result: dict[str, Any]) -> None:
    assert written.with_suffix(".md").read_text() == page(result)
    times = {"fidec": [6.0, None, 8.0], "fidec-official": [24.0, 20.0, 16.0]}
    steps = [one | {"ms_rounds": times.get(one["method"], [1.0] * 3)} for one in result["steps"]]
    row = "| fidec bank / fidec-official joint, S = 1 | 0.375 (0.312 to 0.438) |"
    assert row in page(result | {"steps": steps})


@pytest.fixture(scope="module")
def stock() -> Stock:
    return Stock(400, 4, CPU)


@pytest.mark.parametrize("regime", ["bank", "fresh", "joint"])
def test_turn_trains_every_seed(stock: Stock, regime: str) -> None:
    variant = Variant(Case("fidec", regime, 2, "2x8", "eager"), stock, None)
    before = {name: weight.detach().clone() for name, weight in variant.agent.named_parameters()}
    assert variant.turn(0.0) > 0
    for name, weight in variant.agent.named_parameters():
        moved = (weight != before[name]).reshape(2, -1).any(dim=1)
        frozen = name.startswith("flow") and regime != "joint"
        assert moved.tolist() == [not frozen] * 2, name


@pytest.mark.parametrize("regime", ["bank", "fresh", "joint"])
def test_seeds_multiply_what_a_step_takes(stock: Stock, regime: str) -> None:
    two, measured = (Variant(Case("fidec", regime, seeds, "2x8", "eager"), stock, None) for seeds in (2, 4))
    told = Variant(measured.case, stock, two)
    assert (told.flop, told.held) == (measured.flop, measured.held)
    assert told.height == pytest.approx(measured.height, rel=0.01)


def test_times_leave_the_first_repetition_out(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, asked = [0.0], list[int]()

    def run(count: int) -> None:
        asked.append(count)
        clock[0] += 2.0 * count + (10.0 if len(asked) == 1 else 0.0)

    monkeypatch.setattr(step, "now", lambda device: clock[0])
    assert timed(run, 20.0, CPU, unit=3) == 2.0
    assert asked == [3, 3, 3, 6]
    asked.clear()
    assert timed(run, 15.0, CPU, unit=3) == 16.0 / 3 and asked == [3]


def test_views_are_no_kernels() -> None:
    events = ["aten::gelu", "aten::copy_", "aten::view", "aten::as_strided", "aten::empty_strided", "autograd::engine"]
    assert [step.computes(event) for event in events] == [True, True, False, False, False, False]

"""The geometry of the behaviour: spectra and modes against closed forms, the loss over pretraining, the stage, and what the report says."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TASK
from edits import contents, edit, one_line, outcome, program
from example_suite import ROOT, STEPS, edit_record, flow_shape, suite_params, write_suite
from gaussian import GaussianFlow
from test_curvature import gaussian
from test_training_stages import nan_in_flow, no_data, no_flow, other_data, other_seeds, truncated, wider
from torch import Tensor

from fd.method.flow import matching_loss
from fd.method.spectra import chance_condition, count_modes
from fd.results.flow_shape import largest_gain
from fd.settings.settings_file import read_settings
from fd.settings.training_settings import Network
from fd.storage.files import read_record
from fd.storage.tensors import FLOW, read_tensors
from fd.storage.transitions import load_transitions, read_manifest
from fd.theory.distributions import ExactFlow, Mixture, planar
from fd.training.checkpoint import Checkpoint
from fd.training.flow_geometry import BLOCKS, PAIRS, STATES, Sample, curve_of, loss_of, measured, summary
from fd.training.flow_training import KEPT, kept_steps, pretrain
from fd.training.loop import Run, Schedule
from fd.training.replay import Replay
from stages import geometry, report
from stages import pretrain as pretraining
from stages.cell import untrained_flow

T = 0.8


def drawn(target: Mixture, *shape: int) -> Tensor:
    """Actions of a policy, [1, *shape, A]."""
    count = int(np.prod(shape))
    return target.sample(count, torch.Generator().manual_seed(0)).view(1, *shape, -1)


def states(count: int) -> Tensor:
    """Observations that an exact flow ignores."""
    return torch.zeros(1, count, 1, dtype=torch.float64)


# --- spectra ---


@pytest.mark.parametrize("width", [2, 5])
def test_spectra_of_a_gaussian_are_its_own(width: int) -> None:
    """Every matrix is Sigma^-1, smoothed or not; F from scores to within chance."""
    narrow, wide, kernel = 0.2, 0.5, (1 - T) / T
    target = replace(gaussian(width), deviations=torch.linspace(narrow, wide, width, dtype=torch.float64)[None])
    sample = Sample(T, 4, 20, 8000)
    found = summary(measured(ExactFlow(target), states(4), drawn(target, 4, 8000), sample), sample)
    for form, told in found["spectra"].items():
        low, high = (np.hypot(narrow, kernel), np.hypot(wide, kernel)) if form in ("state", "local") else (narrow, wide)
        near = 0.15 if "state" in form else 1e-4
        for name, value in (("narrowest", low), ("widest", high), ("condition", (high / low) ** 2)):
            assert told[name] == pytest.approx([value] * 3, rel=near), (form, name)
        assert told["floor"] == 0
    assert found["saddles"] == 0 and found["modes"] == {"1": 1.0} and found["within"] == 1 - found["bounded"] > 0.5


def test_a_narrow_axis_is_at_the_floor() -> None:
    target, sample = planar([[0.0, 0.0]], deviations=[[0.3, 0.005]], degrees=[20]), Sample(T, 2, 20, 100)
    told = summary(measured(ExactFlow(target), states(2), drawn(target, 2, 100), sample), sample)["spectra"][
        "local desmoothed"
    ]
    assert told["floor"] == 1 and told["narrowest"] == [0.01] * 3


def test_actions_between_modes_and_at_the_limits_do_not_lie_within_modes() -> None:
    target, sample = (
        planar([[-0.6, 0.0], [0.6, 0.0]], deviations=[[0.1, 0.1]] * 2, degrees=[0, 0]),
        Sample(T, 1, 20, 100),
    )
    actions = torch.zeros(1, 1, 100, 2, dtype=torch.float64)
    actions[..., :5, 0] = 0.6
    actions[..., 5:8, 0] = -0.97
    found = summary(measured(ExactFlow(target), states(1), actions, sample), sample)
    assert (found["saddles"], found["bounded"], found["within"]) == (0.6, 0.15, 0.25)
    assert found["spectra"]["within modes"]["condition"][1] == pytest.approx(1, abs=0.01)
    assert found["spectra"]["local"]["condition"][1] > 2
    actions[...] = 0
    assert "within modes" not in summary(measured(ExactFlow(target), states(1), actions, sample), sample)["spectra"]


def test_no_gradient_gains_more_than_the_bound_and_one_gains_it() -> None:
    precision = torch.tensor([1.0, 2.0, 9.0], dtype=torch.float64)
    q = torch.randn(5000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    q = torch.cat((q, torch.tensor([[1.0, 0.0, 1.0]], dtype=torch.float64)))
    gain = ((q**2 / precision).sum(-1) * (q**2 * precision).sum(-1)).sqrt() / (q**2).sum(-1)
    assert gain.max().item() == pytest.approx(largest_gain(9.0)) == gain[-1].item()
    assert largest_gain(1.0) == 1 and largest_gain(4.5) == pytest.approx(1.296, abs=1e-3)


def test_scores_by_chance() -> None:
    """In two dimensions and many scores, k - 1 is near 2 sqrt(2 log 2) sqrt(1 / K) in the median (a Rayleigh variable)."""
    level = torch.full((7, 2), 4.0, dtype=torch.float64)
    few, many, smoothed = (
        chance_condition(level, scores, T, desmooth=desmooth)
        for scores, desmooth in ((100, False), (10_000, False), (10_000, True))
    )
    assert many - 1 == pytest.approx(2 * (2 * np.log(2) / 10_000) ** 0.5, rel=0.2) and few > 1.2 > smoothed > many > 1


# --- modes ---

THREE = [[-0.7, -0.5], [0.7, -0.5], [0.0, 0.7]]


@pytest.mark.parametrize(
    ("target", "modes"),
    [
        (planar(THREE, deviations=[[0.2, 0.05]] * 3, degrees=[0, 45, 90]), 3),
        (planar(THREE, deviations=[[0.2, 0.05]] * 3, degrees=[0, 45, 90], weights=[0.5, 0.49, 0.01]), 2),
        (planar([[0.1, 0.2]], deviations=[[0.3, 0.02]], degrees=[30]), 1),
        (planar([[-0.1, 0.0], [0.1, 0.0]], deviations=[[0.1, 0.1]] * 2, degrees=[0, 0]), 1),  # closer than the kernel
        (planar([[0.0, 0.0]], deviations=[[4.0, 0.1]], degrees=[0]), 0),  # nearly flat: no action arrives
    ],
    ids=["three", "two and a rare one", "one", "two that merge", "a flat ridge"],
)
def test_modes_of_a_mixture(target: Mixture, modes: int) -> None:
    actions = drawn(target, 6, 64)
    assert count_modes(ExactFlow(target), states(6), actions, T).tolist() == [[modes] * 6]


def test_an_earlier_time_merges_modes() -> None:
    target = planar([[-0.4, 0.0], [0.4, 0.0]], deviations=[[0.1, 0.1]] * 2, degrees=[0, 0])
    found = {t: int(count_modes(ExactFlow(target), states(1), drawn(target, 1, 64), t)) for t in (0.5, 0.9)}
    assert found == {0.5: 1, 0.9: 2}


# --- loss over the training ---


def replay_of(rows: int) -> Replay:
    g = torch.Generator().manual_seed(0)
    obs, act = torch.randn(rows, 3, generator=g), torch.rand(rows, 3, generator=g) - 0.5
    ends = torch.arange(rows) % 50 == 49
    nothing, first = torch.zeros(rows), torch.arange(rows) // 50 * 50
    return Replay(obs, act, nothing, nothing, (~ends).float(), (~ends).nonzero().squeeze(1), first)


def test_the_loss_is_that_of_training_on_a_fixed_sample() -> None:
    flow, replay = GaussianFlow(torch.zeros(3), 0.1 * torch.eye(3)), replay_of(10_000)
    found = loss_of(flow, replay)
    assert found.shape == (1, BLOCKS) and torch.equal(found, loss_of(flow, replay))
    g = torch.Generator().manual_seed(1)
    act = replay.act[replay.starts].repeat(20, 1)
    x0, t = torch.randn(act.shape, generator=g), torch.rand(len(act), 1, generator=g)
    whole = matching_loss(flow, act[None], act[None], x0=x0[None], t=t[None])
    error = float(found.std() / BLOCKS**0.5)
    assert abs(float(found.mean() - whole)) < 4 * error < 0.1 and BLOCKS * STATES * PAIRS == 16384


@pytest.mark.parametrize(
    ("steps", "log_every", "kept"),
    [
        (3000, 500, [500, 1000, 1500, 2000, 2500, 3000]),
        (40, 20, [20, 40]),
        (100, 4, [12, 20, 32, 40, 52, 60, 72, 80, 92, 100]),
    ],
)
def test_flows_that_are_kept(steps: int, log_every: int, kept: list[int]) -> None:
    assert kept_steps(steps, log_every) == kept and len(kept) <= KEPT


def losses(fall: float, noise: float, seeds: int = 3) -> list[Tensor]:
    """Losses of ten flows that fall by a share `fall` over the second half, with noise that is drawn for every flow and seed."""
    g = torch.Generator().manual_seed(0)
    blocks = 1 + 0.3 * torch.randn(BLOCKS, generator=g)  # what makes a block hard is the same for all flows
    level = [1 - fall * max(at - 5, 0) / 2.5 for at in range(1, 11)]
    return [value * blocks + noise * torch.randn(seeds, 1, generator=g) for value in level]


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_fall_is_told_from_noise(seeds: int) -> None:
    steps = range(100, 1001, 100)
    found = curve_of(losses(0.02, 0.0, seeds), steps)
    fall, error = found["fall"]
    # In the third quarter are the flows 6 and 7, in the last one 8, 9 and 10: means of 1.5 and 4 tenths after the middle.
    assert fall == pytest.approx(0.02 * (4 - 1.5) / 2.5 / (1 - 0.02 * 4 / 2.5), rel=1e-3) and 0 < error < fall / 2
    assert len(found["means"]) == 10 and len(found["means"][0]) == seeds
    assert found["errors"][-1] == pytest.approx(0.3 / BLOCKS**0.5, rel=0.3)  # the level is known far less well
    if seeds > 1:
        fall, error = curve_of(losses(0.0, 0.01), steps)["fall"]
        assert abs(fall) < 2 * error
    assert curve_of(losses(0.02, 0.0)[-2:], (500, 1000))["fall"] is None


def test_keeping_flows_changes_no_weight(tiny_project: Path) -> None:
    """The published flow is that of a training that keeps none, and a kept one that of a training that ends there."""
    values = read_settings(Path("params.yaml"))
    network, manifest = values.section(Network, "network", TASK), read_manifest(Path("data", TASK))
    replay = Replay.of(load_transitions(Path("data", TASK)), torch.device("cpu"))
    for steps, file in ((40, FLOW), (20, "flow_000000020.safetensors")):
        flow = untrained_flow(network, manifest, values.seeds, TASK)
        work = tiny_project / f"plain-{steps}"
        run = Run(
            values.seeds,
            Schedule(steps, 16, 20, kept_steps(steps, 20)),
            Checkpoint(work, work / "out", lambda step: None),
            "plain",
        )
        pretrain(flow, replay, run, learning_rate=1e-3)
        kept, record = read_tensors(Path("behaviour", TASK, file))
        assert record["steps"] == steps and kept.keys() == {f"flow.{name}" for name in flow.state_dict()}
        assert all(torch.equal(kept[f"flow.{name}"], weights) for name, weights in flow.state_dict().items())


# --- the stage ---


def run_stage(*arguments: str) -> tuple[int, str]:
    return outcome(geometry.app, ["--task", TASK, *arguments])


def test_the_stage_writes_one_record_the_same_bytes_twice(tiny_project: Path) -> None:
    assert run_stage("--out=again")[0] == 0
    assert contents("again") == contents("geometry") and contents("again").keys() == {f"{TASK}.json"}
    found = read_record(Path("geometry", f"{TASK}.json"))
    assert found["steps"] == [20, 40] and found["loss"]["fall"] is None and found["loss"]["unseen"] is False
    assert found["loss"]["data"] == found["loss"]["means"][-1]
    assert sum(found["modes"].values()) == pytest.approx(1)
    assert found["spectra"]["local"]["condition"][1] == found["conditions"][-1]["local"][1]


def test_a_seed_is_measured_alone_as_among_others(tiny_project: Path) -> None:
    both = read_record(Path("geometry", f"{TASK}.json"))["loss"]
    edit("seeds", to=[1])
    assert outcome(pretraining.app, ["--task", TASK, "--out=alone"])[0] == 0
    assert run_stage("--behaviour=alone", "--out=again")[0] == 0
    alone = read_record(Path("again", f"{TASK}.json"))["loss"]
    assert [row[0] for row in alone["means"]] == [row[1] for row in both["means"]]


def validation() -> Path:
    """Validation episodes, as the oracles of OGBench leave them."""
    arrays = load_transitions(Path("data", TASK))
    path = Path("data", TASK, "regenerated", "set-val.npz")
    path.parent.mkdir()
    np.savez(path, observations=arrays.observations, actions=arrays.actions / 2, terminals=arrays.ends)
    return path


def test_the_loss_is_that_of_validation_episodes_where_there_are_some(tiny_project: Path) -> None:
    before = read_record(Path("geometry", f"{TASK}.json"))
    validation()
    assert run_stage()[0] == 0
    after = read_record(Path("geometry", f"{TASK}.json"))
    assert after["loss"]["unseen"] is True and after["loss"]["data"] == before["loss"]["means"][-1]
    assert after["loss"]["means"] != before["loss"]["means"] and after["spectra"] == before["spectra"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "truncated or not an npz file"),
        (lambda path: np.savez(path, observations=np.zeros((2, 3)), actions=np.zeros((2, 2)), terminals=np.ones(2)), "have the shapes"),
        (lambda path: np.savez(path, observations=np.zeros((2, 4))), "lacks the field 'actions'"),
    ],
)  # fmt: skip
def test_bad_validation_episodes_are_named(change: Callable[[Path], object], message: str, tiny_project: Path) -> None:
    path = validation()
    change(path)
    code, told = run_stage("--out=other")
    assert code == 2 and told.startswith(f"{path}: ") and message in told and not Path("other").exists()


def scarce() -> None:
    edit("geometry", "scores", to=10)


FLOW_PATH = f"behaviour/{TASK}/{FLOW}"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (no_flow, (FLOW_PATH, "no such file; run the stage")),
        (no_data, (f"data/{TASK}/manifest.json", "no such file; run the stage download")),
        (truncated, (FLOW_PATH, "is damaged or was changed")),
        (nan_in_flow, (FLOW_PATH, "the loss of seed 1 is NaN or infinite, allowed: finite numbers")),
        (wider, (f"behaviour/{TASK}/flow_000000020", "is [2, 16, 16], allowed: [2, 16, 24]")),
        (other_data, ("was trained on different data or seeds", f"data/{TASK}")),
        (other_seeds, ("was trained on different data or seeds [0, 1], allowed", "[0, 2]")),
        (scarce, ("params.yaml: geometry.scores: 10, allowed: greater than or equal to 100",)),
    ],
)
def test_bad_input_ends_in_one_line(
    change: Callable[[], None], parts: tuple[str, ...], tiny_project: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    change()
    assert program(monkeypatch, geometry.app, "--task", TASK, "--out", "other") == 2
    line = one_line(capsys)
    assert all(part in line for part in parts), line
    assert not Path("other").exists()


# --- the report ---

METHODS = ["bc", "deflow", "fidec"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished suite of two tasks; fidec is 4 and 8 points better than deflow, in its two seeds."""
    root = tmp_path_factory.mktemp("suite")
    params = suite_params({"near": "cube-single-play-singletask-task1-v0", "far": "made-v0"}, METHODS)
    params["methods"]["fidec-local"] = params["methods"]["fidec"]
    gained = {"fidec": (4.0, 8.0), "fidec-local": (10.0, 10.0)}
    write_suite(
        root, params, constraint=lambda *_: (1.0, 0.01, 0.004),
        score=lambda task, method, seed, step, episode: 50 + 10 * seed + gained.get(method, (0, 0))[seed],
    )  # fmt: skip
    return root


@pytest.fixture
def suite(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "suite"))


def page(root: Path) -> str:
    """The part of the report about the behaviour, or the message of an error."""
    folders = [f"--{name}={root / name}" for name in ("evals", "runs", "data", "behaviour", "geometry")]
    options = [f"--params={root / 'params.yaml'}", f"--reference={ROOT / 'reference'}", f"--out={root / 'reports'}"]
    code, told = outcome(report.app, [*options, *folders])
    if code:
        return told
    text = (root / "reports" / "example" / "report.md").read_text()
    return re.split(r"^## ", text.split("## The behaviour before refinement\n")[1], flags=re.MULTILINE)[0]


@pytest.fixture(scope="module")
def told(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """That part of the finished suite's report."""
    return page(Path(shutil.copytree(finished, tmp_path_factory.mktemp("told") / "suite")))


def change(root: Path, task: str, **changes: object) -> None:
    edit_record(root / "geometry" / f"{task}.json", **flow_shape(STEPS, **changes))


def test_the_sentence_says_what_can_be_gained_and_what_was(told: str) -> None:
    """t with one degree of freedom: 6 -+ 12.706 * 2.828 / sqrt(2)."""
    assert (
        "- **near**: a Fisher metric can gain at most a factor of 1.67 at the median condition number of the 72 % of the base actions that lie"
        " within modes, k = 9, and 2.69 at its 90th percentile, k = 27; measured difference of score: fidec minus deflow = +6.0 [-19.4, 31.4] points, fidec-local minus"
        " deflow = +10.0 [10.0, 10.0] points." in told
    )


def test_the_table_has_a_row_per_matrix_beside_the_method_that_uses_it(told: str) -> None:
    rows = [line.removeprefix("| far | ") for line in told.splitlines() if line.startswith("| far |")]
    axes = "0.2 [0.1, 0.3] | 0.24 [0.12, 0.36]"
    assert rows[0] == f"state | {axes} | 1.4 [1.2, 4.3] | 1 | 1.02 | fidec | +6.0 [-19.4, 31.4] |"
    ends = {
        1: "| 1.14 |  |  |",
        2: "| 1.25 | fidec-local | +10.0 [10.0, 10.0] |",
        3: "| 2.12 |  |  |",
        4: "| 1.67 |  |  |",
    }
    assert len(rows) == 5 and all(rows[place].endswith(end) for place, end in ends.items())


def test_of_several_budgets_the_mean_over_the_pairs_is_told(suite: Path) -> None:
    params = suite_params({"near": "cube-single-play-singletask-task1-v0"}, METHODS)
    methods = params["methods"]
    pairs = {f"{name}-{budget}": methods[name] for name in ("deflow", "fidec") for budget in ("0003", "0010")}
    params["methods"] = pairs | {"fidec-desmooth-0003": methods["fidec"]}
    gained = {"fidec-0003": 2.0, "fidec-0010": 6.0, "fidec-desmooth-0003": 10.0}

    def made() -> str:
        write_suite(
            suite, params, constraint=lambda *_: (1.0, 0.01, 0.004),
            score=lambda task, method, seed, step, episode: 50 + 10 * seed + gained.get(method, 0),
        )  # fmt: skip
        return page(suite)

    told = made()
    assert "fidec minus deflow = +4.0 [4.0, 4.0] points, fidec-desmooth minus deflow = +10.0 [10.0, 10.0]" in told
    assert "the difference is the mean over the pairs" in told
    # With the plain names among them, the difference is theirs alone.
    params["methods"] |= {name: methods[name] for name in ("deflow", "fidec")}
    gained["fidec"] = 1.0
    told = made()
    assert "measured difference of score: fidec minus deflow = +1.0 [1.0, 1.0] points." in told
    assert "the mean over the pairs" not in told


def test_without_a_pair_of_methods_the_sentence_says_so(suite: Path) -> None:
    params = suite_params({"near": "cube-single-play-singletask-task1-v0"}, ["bc", "fidec"])
    write_suite(suite, params, score=lambda *_: 50.0, constraint=lambda *_: (1.0, 0.01, 0.004))
    assert "measured difference of score: none, the suite does not compare deflow with such a metric." in page(suite)


def test_without_actions_within_modes_the_bound_is_not_told(suite: Path) -> None:
    made = flow_shape(STEPS)
    some, several = (
        [{form: at[form] for form in at if form != "within modes"} for at in part]
        for part in ([made["spectra"]], made["conditions"])
    )
    change(suite, "near", spectra=some[0], conditions=several, within=0.0)
    assert (
        "- **near**: how much a Fisher metric can gain is not told, because no base action lies within a mode; measured"
        in page(suite)
    )


def test_a_flow_that_still_improves_is_named(suite: Path, told: str) -> None:
    assert "Still improving" not in told and "No longer improving: near (-0.10 ± 0.10 %), far (-0.10 ± 0.10 %)." in told
    loss = flow_shape(STEPS)["loss"]
    change(suite, "far", loss=loss | {"fall": [0.012, 0.002]})
    change(suite, "near", loss=loss | {"fall": None})
    told = page(suite)
    assert "**Still improving when pretraining ended: far (-1.20 ± 0.20 %).** More `pretrain.steps`" in told
    assert "Not told for near: the log of pretraining has too few rows" in told and "No longer" not in told


def test_modes_and_loss_are_told(suite: Path, told: str) -> None:
    assert (
        "near: modes of the smoothed policy: 1 in 60 % of the states, 2 in 30 % of the states, not told in 10 %; 25 % of the base"
        in told
    )
    assert "Loss after 2,000 steps: 0.525 ± 0.010 on the data." in told
    change(suite, "near", loss=flow_shape(STEPS)["loss"] | {"unseen": True})
    assert "0.525 ± 0.010 on validation episodes, which no training reads, and 0.500 on the data." in page(suite)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda path: path.unlink(), "no such file; every task of params.yaml needs one"),
        (lambda path: path.write_text("{}"), "is damaged or not a file"),
        (lambda path: edit_record(path, flow_sha256="11"), "flow_sha256 is not that of the data and the flows; run this stage again"),
        (lambda path: edit_record(path, seeds=[0]), "seeds is not that of the data and the flows; run this stage again"),
        (lambda path: edit_record(path, "modes"), "modes: is missing"),
        (lambda path: edit_record(path, saddles="many"), "saddles: 'many', allowed: a number"),
    ],
)  # fmt: skip
def test_a_geometry_that_does_not_fit_is_named(break_it: Callable[[Path], object], message: str, suite: Path) -> None:
    path = suite / "geometry" / "far.json"
    break_it(path)
    told = page(suite)
    assert str(path) in told and message in told and "\n" not in told and not (suite / "reports").exists()


def test_the_record_of_the_stage_is_what_the_report_reads(tiny_project: Path) -> None:
    """The made-up records of these tests have its fields."""
    found = json.loads(Path("geometry", f"{TASK}.json").read_text())
    assert found.keys() - {"seal", "task", "seeds", "data_sha256", "flow_sha256"} == flow_shape(STEPS).keys()
    assert found["spectra"].keys() == flow_shape(STEPS)["spectra"].keys()

"""The verdict on scores against a baseline: what it says of made-up suites, and how often it is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from edits import change_params, outcome
from example_suite import edit_record, rewrite, suite_params, write_suite
from scipy.stats import hypergeom, t

from fd.cli.program import app as fidec
from fd.report import baseline, power, regression
from fd.settings.report_settings import Regress
from stages.regress import app

TASKS = {"near": "cube-single-play-singletask-task1-v0", "far": "made-v0"}
METHODS = ["bc", "fql", "fidec"]
EPISODES = 20  # of an evaluation; two make the score
RULE = Regress(level=0.05, tolerance=5.0, simulations=2000, seeds=(3,), episodes=(60,))
Successes = Callable[[str, str, int], int]  # of (task, method, seed's index), in an evaluation


def successes(task: str, method: str, seed: int) -> int:
    """A suite whose methods succeed in about a quarter, a half and three quarters of the episodes; no two seeds alike."""
    return {"bc": 4, "fql": 9, "fidec": 15}[method] + seed


def write(root: Path, count: Successes) -> None:
    """The suite with so many successes in every evaluation."""
    params = suite_params(TASKS, METHODS)
    params["seeds"] = [0, 1, 2]
    params["evaluate"]["episodes"] = EPISODES

    def score(task: str, method: str, seed: int, step: int, episode: int) -> float:
        return 100.0 * (episode < count(task, method, seed))

    write_suite(root, params, score=score, constraint=lambda *_: (1.0, 0.01, 0.1))


def digests(root: Path) -> None:
    """Give the data of a suite a SHA-256 that looks like one."""
    for path in root.glob("*/**/*.json"):
        values = json.loads(path.read_text())
        for key in ("sha256", "data_sha256"):
            if key in values:
                edit_record(path, **{key: {"actions": "0" * 64}})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite and its baseline; read only."""
    root = tmp_path_factory.mktemp("suite")
    write(root, successes)
    digests(root)
    update(root)
    return root


@pytest.fixture
def suite(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "suite"))


def run(root: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and output of the stage, or the message of its FdError."""
    folders = [f"--{name}={root / name}" for name in ("evals", "runs", "data", "behaviour", "baseline")]
    return outcome(app, [f"--params={root / 'params.yaml'}", *folders, *arguments])


def update(root: Path) -> None:
    """The scores as they are become the baseline."""
    code, told = run(root, "--update")
    assert (code, told.strip()) == (0, f"{root / 'baseline' / 'example.json'}: saved the current scores")


def rerun(root: Path, count: Successes) -> None:
    """The evaluations anew."""
    write(root, count)
    digests(root)


def row(text: str, *names: str) -> list[str]:
    """Cells of the row of a task and a method."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]
    return next(cells for cells in rows if tuple(cells[:2]) == names)


def test_the_same_episodes_pass(made: Path) -> None:
    code, text = run(made)
    assert code == 0 and "**No regression: every episode is identical to the baseline.**" in text
    assert row(text, "near", "fidec") == ["near", "fidec", "80.0", "80.0", "0", "", "identical"]
    assert row(text, "all tasks", "bc")[2:4] == ["25.0", "25.0"]
    assert "Not the same" not in text


def test_a_baseline_says_what_its_scores_belong_to(made: Path) -> None:
    values = json.loads((made / "baseline" / "example.json").read_text())
    assert values["versions"] == {"mujoco": ["4.0.0"], "numpy": ["2.4.0"], "torch": ["2.13.0"]}
    assert values["device"] == "cpu"
    assert values["settings"]["refine"]["target_divergence"] == 0.01
    assert values["tasks"]["far"]["data_sha256"] == {"actions": "0" * 64}
    assert values["tasks"]["far"]["methods"]["bc"]["seeds"]["2"] == {"episodes": 40, "successes": 12}


def test_a_method_that_collapses_is_a_regression(suite: Path) -> None:
    rerun(suite, lambda task, method, seed: seed if method == "fidec" else successes(task, method, seed))
    code, text = run(suite)
    assert code == 1
    assert "**Regression: fidec on near, fidec on far, fidec on all tasks.**" in text
    assert row(text, "near", "fidec")[-1] == "**regression**" and row(text, "near", "fql")[-1] == "identical"
    change_params(suite, lambda params: params["regress"].update(tolerance=80.0))  # the drop is 75
    assert run(suite)[0] == 0


def test_the_order_of_tasks_and_methods_does_not_matter(suite: Path) -> None:
    rerun(
        suite, lambda task, method, seed: seed if (task, method) == ("near", "fidec") else successes(task, method, seed)
    )
    _, text = run(suite)
    for section in ("tasks", "methods"):
        change_params(
            suite, lambda params, section=section: params.update({section: dict(reversed(params[section].items()))})
        )
    _, other = run(suite)
    assert sorted(text.splitlines()[4:16]) == sorted(other.splitlines()[4:16])


def test_a_drop_that_seeds_explain_is_none(suite: Path) -> None:
    _lose(suite, lambda b: [_scatter(task["methods"]["fidec"]) for task in b["tasks"].values()])
    rerun(suite, lambda task, method, seed: 11 if method == "fidec" else successes(task, method, seed))
    code, text = run(suite)
    assert code == 0 and "**No regression.**" in text
    assert row(text, "near", "fidec")[2:5] == ["80.0", "55.0", "-25.0"] and float(row(text, "near", "fidec")[5]) > 0.05


def _scatter(method: dict) -> None:
    """The same mean, of seeds far apart."""
    for seed, count in {"0": 38, "1": 22, "2": 36}.items():
        method["seeds"][seed]["successes"] = count


def test_a_gain_is_none(suite: Path) -> None:
    rerun(suite, lambda task, method, seed: 18 + seed)
    assert run(suite)[0] == 0


def test_other_versions_and_settings_are_named(suite: Path) -> None:
    edit_record(suite / "runs" / "near" / "fql.json", versions={"torch": "2.14.0", "numpy": "2.4.0"})
    change_params(suite, lambda params: params["refine"].update(alpha=11.0))
    code, text = run(suite)
    assert code == 0
    assert "- torch: 2.13.0 in the baseline, 2.13.0 and 2.14.0 now" in text
    assert "- refine.alpha: 10.0 in the baseline, 11.0 now" in text
    assert text.count("\n- ") == 2


def _other_data(root: Path) -> None:
    for path in [root / "data/near/manifest.json", root / "behaviour/near.json", *root.glob("*/near/*.json")]:
        key = "sha256" if path.name == "manifest.json" else "data_sha256"
        edit_record(path, **{key: {"actions": "1" * 64}})


def _lose(root: Path, change: Callable[[dict], object]) -> None:
    path = root / "baseline" / "example.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (_other_data, "tasks.near: the SHA-256 of the data's 'actions' is 111111111111…, the baseline's 000000000000…"),
        (lambda root: (root / "baseline/example.json").unlink(), "baseline/example.json: no such file"),
        (lambda root: (root / "baseline/example.json").write_text("{"), "baseline/example.json: Invalid JSON"),
        (lambda root: _lose(root, lambda b: b["tasks"].pop("far")), "tasks.far: missing in the baseline"),
        (
            lambda root: _lose(root, lambda b: [task["methods"].pop("fql") for task in b["tasks"].values()]),
            "methods.fql: missing in the baseline",
        ),
        (lambda root: _lose(root, lambda b: b["tasks"]["far"]["methods"].pop("fql")), "tasks.far.methods: ['bc', 'fidec']"),
        (
            lambda root: _lose(root, lambda b: b["tasks"]["far"]["methods"]["bc"]["seeds"].pop("2")),
            "tasks.far.methods.bc.seeds: ['0', '1'], but others have",
        ),
        (lambda root: _lose(root, lambda b: b.pop("versions")), "baseline/example.json: versions: Field required"),
        (
            lambda root: _lose(root, lambda b: b.update(device="Example GPU")),
            "device: the baseline was trained on Example GPU, the evaluated runs on cpu",
        ),
        (lambda root: _lose(root, lambda b: b.update(more=1)), "unknown key 'more'"),
        (
            lambda root: _lose(root, lambda b: b["tasks"]["near"]["methods"]["bc"]["seeds"]["0"].update(successes=41)),
            "41 successes of 40 episodes",
        ),
        (
            lambda root: change_params(root, lambda params: params["methods"].pop("fql")),
            "methods.fql: missing in the evaluations",
        ),
        (
            lambda root: change_params(root, lambda params: params["tasks"].pop("far")),
            "tasks.far: missing in the evaluations",
        ),
        (lambda root: (root / "evals/near/fql.csv").unlink(), "evals/near/fql.csv: no such file"),
        (lambda root: edit_record(root / "evals/near/fql.json", data_sha256={}), "evals/near/fql.json: data_sha256 belongs to different data"),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused(suite: Path, broken: Callable[[Path], object], message: str) -> None:
    broken(suite)
    code, text = run(suite)
    assert code == 2 and message in text and "\n" not in text
    if "evals/" not in message:  # of the files of the suite itself no stage makes a page
        assert run(suite, "--no-gate", f"--out={suite / 'page.md'}") == (0, "")
        assert "**Cannot be compared.**" in (suite / "page.md").read_text()


def test_without_a_gate_a_regression_is_a_page(suite: Path) -> None:
    rerun(suite, lambda task, method, seed: 0)
    assert run(suite, "--no-gate", f"--out={suite / 'reports' / 'page.md'}") == (0, "")
    assert "**Regression: " in (suite / "reports" / "page.md").read_text()
    assert run(suite, f"--out={suite / 'reports' / 'page.md'}")[0] == 1


def test_one_seed_in_the_baseline_has_no_spread(suite: Path) -> None:
    change_params(suite, lambda params: params.update(seeds=[0]))
    for path in suite.glob("[rbe]*/**/*.csv"):
        lines = path.read_text().splitlines()
        column = lines[0].split(",").index("seed")
        rewrite(path, "\n".join(line for line in lines if line.split(",")[column] in ("seed", "0")) + "\n")
    for path in suite.glob("[rb]*/**/*.json"):
        if path.parent.name != "baseline":
            edit_record(path, seeds=[0])
    assert run(suite)[0] == 0  # three seeds in the baseline
    update(suite)
    assert run(suite)[0] == 0  # the same episodes
    _lose(suite, lambda b: b["tasks"]["near"]["methods"]["bc"].update(evaluations_sha256="0" * 64))
    assert run(suite) == (2, "seeds: the baseline has one and so no spread, allowed: two or more")


def test_returns_are_compared_by_their_spread(suite: Path) -> None:
    write_suite(
        suite, json.loads(json.dumps(suite_params(TASKS, METHODS))) | {"seeds": [0, 1, 2]},
        score=lambda task, method, seed, step, episode: 60.0 + 2 * seed + episode, constraint=lambda *_: (1.0, 0.01, 0.1),
    )  # fmt: skip
    for task in TASKS:
        edit_record(suite / "data" / task / "manifest.json", score="return", return_range=[0.0, 1.0])
    update(suite)
    cell = json.loads((suite / "baseline" / "example.json").read_text())["tasks"]["near"]["methods"]["bc"]
    assert cell["seeds"]["1"] == {"episodes": 4, "score": 62.5}
    for path in (suite / "evals" / "near").glob("fql.csv"):
        rewrite(path, path.read_text().replace(",6", ",3"))
    code, text = run(suite)
    assert code == 1 and "**Regression: fql on near, fql on all tasks.**" in text
    assert outcome(
        fidec, ["power", f"--params={suite / 'params.yaml'}", f"--baseline={suite / 'baseline/example.json'}"]
    ) == (
        2,
        "tasks.near: scored by return, allowed: success",
    )


def test_holm() -> None:
    assert regression.holm(np.array([[0.01, 0.04, 0.03]])) == pytest.approx(np.array([[0.03, 0.06, 0.06]]))


def test_one_cell_of_returns_is_a_t_test_with_the_spread_of_the_baseline() -> None:
    before, after = np.array([0.50, 0.61, 0.57]), np.array([0.30, 0.47, 0.26, 0.52])
    tasks = regression.Strata(np.array([False]), np.array([50.0]))
    p, worse = regression.decide(before[None, None], after[None, None], tasks, RULE)
    # Means 0.56 and 0.3875, variance 0.0031: 0.1725 / sqrt(0.0031 (1 / 3 + 1 / 4)) with two degrees of freedom.
    assert p[0] == pytest.approx(t.sf(4.0565, 2), abs=1e-4) and worse[0]


def test_a_run_whose_seeds_fall_apart_is_a_regression(suite: Path) -> None:
    left = {0: 15, 1: 0, 2: 0}
    rerun(suite, lambda task, method, seed: left[seed] if method == "fidec" else successes(task, method, seed))
    assert run(suite)[0] == 1


def test_the_variance_is_never_less_than_that_of_independent_episodes() -> None:
    tasks = regression.Strata(np.array([True]), np.array([50.0]))
    alike = np.full((1, 2, 3), 0.5)
    assert regression.dispersion(alike, tasks) == pytest.approx([1 / 50])


def simulated(runs: int, *, shared: bool, changed: float = 0.0) -> tuple[np.ndarray, np.ndarray, power.Suite]:
    """Baselines and runs of a suite of three tasks and two methods with three seeds; the second method's rates are lower by `changed`."""
    rates = np.array([[0.3, 0.8], [0.1, 0.5], [0.2, 0.6]])
    tasks = regression.Strata(np.array([True] * 3), np.array([60.0] * 3))
    suite, lower = (
        power.Suite(rates - drop, np.array([0.01, 0.05, 0.02]), tasks) for drop in (0, np.array([0, changed]))
    )
    rng = np.random.default_rng(0)
    return power.draw(suite, 3, runs, rng, shared=shared), power.draw(lower, 3, runs, rng, shared=shared), suite


@pytest.mark.parametrize("shared", [False, True])
def test_clean_runs_raise_no_more_alarms_than_the_level_says(shared: bool) -> None:
    before, after, suite = simulated(2000, shared=shared)
    alarms = regression.decide(before, after, suite.tasks, RULE)[1].any(axis=-1)
    assert alarms.mean() <= RULE.level
    assert (
        alarms.reshape(-1, 20).sum(axis=1) > 1
    ).mean() <= RULE.level  # of 20 repeated runs, one is what the level says


def test_taking_episodes_for_the_unit_would_raise_more() -> None:
    before, after, _ = simulated(2000, shared=False)
    total = 3 * 60
    was, now = ((side * 60).sum(axis=-1).round().reshape(2000, -1) for side in (before, after))
    p = hypergeom.cdf(now, 2 * total, was + now, total)  # Fisher's exact test, one-sided
    assert (regression.holm(p) <= RULE.level).any(axis=-1).mean() > 2 * RULE.level


def test_a_planted_drop_is_seen() -> None:
    before, after, suite = simulated(500, shared=True, changed=0.4)
    alarms = regression.decide(before, after, suite.tasks, RULE)[1]
    assert alarms[:, 7].mean() > 0.95  # the mean over tasks of the second method
    assert alarms[:, :6:2].mean() < 0.01  # the first method is as it was


def test_draws_have_the_spread_asked_for() -> None:
    tasks = regression.Strata(np.array([True]), np.array([1e6]))
    for shared in (False, True):
        drawn = power.draw(
            power.Suite(np.array([[0.5, 0.2]]), np.array([0.04]), tasks),
            5,
            4000,
            np.random.default_rng(0),
            shared=shared,
        )
        assert drawn.std(axis=(0, 3)) == pytest.approx(np.array([[0.2 * 0.5, 0.2 * 0.4]]), rel=0.03)
        together = np.corrcoef(drawn[:, 0, 0].ravel(), drawn[:, 0, 1].ravel())[0, 1]
        assert together > 0.95 if shared else abs(together) < 0.05


def test_smallest_drop_is_found_by_halving() -> None:
    assert power._smallest(lambda drop: drop >= 17, 80) == 17
    assert power._smallest(lambda drop: drop >= 1, 80) == 1
    assert power._smallest(lambda drop: False, 80) is None
    assert power._smallest(lambda drop: True, 0) is None


def test_power_of_another_suite_is_one_line(suite: Path) -> None:
    change_params(suite, lambda params: params.update(suite="other"))
    path = suite / "baseline" / "example.json"
    line = f"{path}: belongs to the suite 'example', allowed: the suite of {suite / 'params.yaml'}, 'other'"
    options = [f"--params={suite / 'params.yaml'}", f"--baseline={path}", f"--out={suite / 'out'}"]
    assert outcome(fidec, ["power", *options]) == (2, line)
    assert not (suite / "out").exists()


def test_the_table_of_power(suite: Path) -> None:
    change_params(suite, lambda params: params["regress"].update(simulations=200, seeds=[3, 8], episodes=[40]))
    options = [f"--params={suite / 'params.yaml'}", f"--baseline={suite / 'baseline/example.json'}"]
    for out in ("one", "two"):
        assert outcome(fidec, ["power", *options, f"--out={suite / out}"]) == (0, "")
    for name in ("power.md", "power.csv"):
        assert (suite / "one" / name).read_bytes() == (suite / "two" / name).read_bytes()
    lines = (suite / "one" / "power.csv").read_text().splitlines()
    drops = {tuple(line.split(",")[:3]): int(line.split(",")[-1]) for line in lines[1:]}
    assert drops["8", "40", "near"] < drops["3", "40", "near"] <= 80
    assert drops["3", "40", "all tasks"] < drops["3", "40", "near"]


def test_a_baseline_of_one_seed_has_no_spread_to_draw_from(suite: Path) -> None:
    found = baseline.load_baseline(suite / "baseline" / "example.json")
    _lose(
        suite,
        lambda b: [
            cell["seeds"].pop(seed)
            for task in b["tasks"].values()
            for cell in task["methods"].values()
            for seed in "12"
        ],
    )
    options = [f"--params={suite / 'params.yaml'}", f"--baseline={suite / 'baseline/example.json'}"]
    assert outcome(fidec, ["power", *options]) == (
        2,
        "seeds: the baseline has one and so no spread, allowed: two or more",
    )
    assert power.suite_of(found).spread.shape == (2,)

"""The report of a made-up suite whose numbers are known, and the ways in which its inputs can be wrong."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from xml.etree import ElementTree

import pytest
import yaml
from edits import change_params, outcome, refused
from example_suite import MACHINE, ROOT, SEEDS, STEPS, edit_record, suite_params, write_csv, write_suite
from matplotlib.figure import Figure
from test_d4rl import DOOR

from fd.report import figures, tables
from fd.report.style import COLOURS, style
from fd.results import training_log
from fd.results.estimates import Results, gather_estimates, leaders
from fd.results.grid import COLOURED, grid_of
from fd.results.statistics import Summary
from fd.settings.settings_file import read_settings
from fd.storage.files import digests, write_folder, write_record, write_text
from stages.report import app

FILES = {
    *("index.html", "report.md", "scores.md", "scores.csv", "scores.tex", "curves.csv", "metrics.json"),
    *(
        "scores.svg",
        "learning_curves.svg",
        "constraint.svg",
        "behaviour.svg",
        "paths.svg",
        "published.md",
        "published.csv",
    ),
}
# Mean score of a seed over its last two evaluations; the two seeds of a cell are the two entries.
FINALS = {
    ("near", "bc"): (10.0, 20.0),
    ("near", "fql"): (100.0, 100.0),
    ("near", "fidec"): (90.0, 100.0),
    ("far", "bc"): (0.0, 0.0),
    ("far", "fql"): (40.0, 60.0),
    ("far", "fidec"): (50.0, 50.0),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished suite of two tasks, three methods and two seeds; read only."""
    root = tmp_path_factory.mktemp("suite")

    def score(task: str, method: str, seed: int, step: int, episode: int) -> float:
        final = FINALS[task, method][seed]
        spread = min(final, 100 - final)  # episodes differ, and so do the last two evaluations; the mean stays
        return final + (spread if episode else -spread) / 2 if step > STEPS[1] else final / 2

    settings = suite_params({"near": "cube-single-play-singletask-task1-v0", "far": "made-v0"}, ["bc", "fql", "fidec"])
    write_suite(
        root, settings, score=score, constraint=lambda task, method, seed, step: (1.0 + seed, step / 1e5, 0.004)
    )
    return root


@pytest.fixture
def suite(made: Path, tmp_path: Path) -> Path:
    """A copy of the suite that a test may break."""
    return Path(shutil.copytree(made, tmp_path / "suite", ignore=shutil.ignore_patterns("reports", "again")))


def run(root: Path, out: str = "reports", *arguments: str) -> tuple[int, str]:
    """Exit code and output of the stage, or the message of its FdError."""
    folders = [f"--{name}={root / name}" for name in ("evals", "runs", "data", "behaviour", "geometry")]
    options = [f"--params={root / 'params.yaml'}", f"--reference={ROOT / 'reference'}", f"--out={root / out}"]
    return outcome(app, [*options, *folders, *arguments])


@pytest.fixture(scope="module")
def report(made: Path) -> Path:
    """The report of the finished suite."""
    assert run(made) == (0, "")
    return made / "reports" / "example"


def test_writes_every_file_and_no_other(report: Path) -> None:
    assert {path.name for path in report.iterdir()} == FILES


def test_metrics(report: Path) -> None:
    metrics = json.loads((report / "metrics.json").read_text())
    assert list(metrics) == ["near", "far", "aggregate"]
    assert list(metrics["near"]) == ["bc", "fql", "fidec"]
    # Scores 10 and 20: std 7.07, and a t-interval with one degree of freedom, 12.706 * 7.07 / sqrt(2) = 63.53.
    spread = {"std": 7.07, "low": -48.53, "high": 78.53}
    assert metrics["near"]["bc"] == {"mean": 15.0, "seeds": {"0": 10.0, "4": 20.0}} | spread
    # Of 0, 0, 10, 20 the middle half is 0, 10; resamples range from 0, 0, 10, 10 to 0, 0, 20, 20.
    assert metrics["aggregate"]["bc"] == {"iqm": 5.0, "low": 5.0, "high": 10.0, "mean": 7.5}


def test_scores_csv(report: Path) -> None:
    rows = list(csv.DictReader((report / "scores.csv").read_text().splitlines()))
    assert [row["task"] for row in rows] == ["near"] * 3 + ["far"] * 3 + ["aggregate"] * 6
    assert ",".join(rows[3].values()) == "far,bc,mean,0.00,0.00,0.00,0.00,2"
    assert ",".join(rows[6].values()) == "aggregate,bc,iqm,5.00,,5.00,10.00,2"


def test_scores_markdown(report: Path) -> None:
    lines = (report / "scores.md").read_text().splitlines()
    assert lines[0] == "| task | bc | fql | fidec |"
    # The interval of bc does not reach fql's 100; that of fidec does.
    assert lines[2].split(" | ") == [
        *("| near", "15.0 ± 7.1<br>[-48.5, 78.5]", "**100.0 ± 0.0**<br>[100.0, 100.0]"),
        "**95.0 ± 7.1**<br>[31.5, 158.5] |",
    ]
    assert lines[4].startswith("| all tasks, IQM | 5.0<br>[5.0, 10.0] | ")
    assert lines[5] == "| all tasks, mean | 7.5 | 75.0 | 72.5 |"
    assert "95 % t-interval" in lines[7] and "2 seeds" in lines[7] and "last 2 evaluations" in lines[7]


def test_latex(report: Path) -> None:
    text = (report / "scores.tex").read_text()
    assert r"near & $15.0 \pm 7.1$ & $\mathbf{100.0 \pm 0.0}$ & $\mathbf{95.0 \pm 7.1}$ \\" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2
    assert "%" not in text.replace(r"\%", "") and "±" not in text


def test_curves(report: Path) -> None:
    rows = list(csv.DictReader((report / "curves.csv").read_text().splitlines()))
    assert len(rows) == 2 * 3 * len(STEPS)
    first = {"task": "near", "method": "bc", "step": "500", "mean": "7.50", "low": "-24.27", "high": "39.27"}
    assert rows[0] == first  # 5 and 10


def test_page(report: Path) -> None:
    text = (report / "report.md").read_text()
    assert "2 episodes per seed after each of 1,500, 2,000 training steps" in text
    assert "- near: the data are regenerated, not the published set of that name: no" in text
    assert "- far: there is no published score for this data set." in text
    assert "Machine: Example CPU, 2 cores, 16 GiB, no GPU." in text
    assert "mujoco 4.0.0, numpy 2.4.0, torch 2.13.0" in text
    assert "| near | 1:01 | 2:05 + 0:20 |" in text
    assert "pretrain 2:02, refine 12:30, evaluate 2:00. In all: 16:32" in text
    # The last tenth of 2000 steps holds 1900 and 2000: penalty .0195, nearly twice the budget.
    assert "| near | fidec | 0.01 | 0.0195 | **1.95** | never | 0.004 | 1.5 |" in text
    for link in (
        "scores.svg",
        "learning_curves.svg",
        "constraint.svg",
        "behaviour.svg",
        "../README.md",
        "published.md",
        "published.csv",
    ):
        assert f"]({link})" in text


def test_captions_say_where_intervals_are_cut(report: Path, suite: Path) -> None:
    text = (report / "report.md").read_text()
    assert "as in the table, cut at 0 and 100; dots: the seeds." in text  # bc: 15 [-48.5, 78.5]
    assert "band: its 95 % t-interval, cut at 0 and 100." in text
    params = yaml.safe_load((suite / "params.yaml").read_text())
    for spread, told in ((0.0, ""), (10.0, ", cut at 0 and 130 (far)")):
        write_suite(
            suite,
            params,
            score=lambda task, m, seed, *_, spread=spread: (
                (120.0 if task == "far" else 50.0) + (spread * (2 * seed - 1) if task == "far" else 0)
            ),
            constraint=lambda *_: (1.0, 0.1, 0.1),
        )
        assert run(suite) == (0, "")
        text = (suite / "reports" / "example" / "report.md").read_text()
        assert f"as in the table{told}; dots: the seeds." in text
        assert f"band: its 95 % t-interval{told}." in text


def test_ends_of_the_axes_are_told_by_task() -> None:
    wide, narrow = Summary(50.0, 9.0, -30.0, 130.0), Summary(50.0, 1.0, 40.0, 60.0)
    ranges = {"a": (0.0, 100.0), "b": (-3.14159, 142.0), "c": (0.0, 100.0)}
    assert figures.cut(ranges, [("a", narrow), ("b", narrow), ("c", narrow)]) == ""
    assert figures.cut(ranges, [("a", wide), ("b", narrow)]) == ", cut at 0 and 100"
    told = ", cut at 0 and 100 (a, c); -3.1 and 142 (b)"
    assert figures.cut(ranges, [("a", wide), ("b", wide), ("c", wide)]) == told
    assert figures.cut({"b": (-3.14159, 120.0)}, [("b", wide)]) == ", cut at -3.1 and 120"
    assert figures.cut(ranges, [("a", Summary(100.0, float("nan"), float("nan"), float("nan")))]) == ""


@pytest.mark.parametrize(
    ("file", "origin", "note"),
    [
        ({"bytes": 9, "sha256": "00", "verified": False}, "not verified (d4rl)", True),
        ({"bytes": 9, "sha256": "00", "verified": True}, "published (d4rl)", False),
    ],
)
def test_a_file_of_d4rl_is_published_only_if_that_is_known(
    suite: Path, file: dict[str, object], origin: str, note: bool
) -> None:
    params = yaml.safe_load((suite / "params.yaml").read_text())
    params["tasks"]["far"]["data"] = DOOR.model_dump(mode="json")
    write_suite(suite, params, score=lambda *_: 50.0, constraint=lambda *_: (1.0, 0.1, 0.1))
    edit_record(suite / "data" / "far" / "manifest.json", files={DOOR.file: file}, successes=None)
    assert run(suite) == (0, "")
    text = (suite / "reports" / "example" / "report.md").read_text()
    assert f"| far | `door-cloned-v1` | {origin} | 100 | 100,100 | - | 200 | success |" in text
    assert "With success: `-` where the data do not mark success." in text
    assert ("Not verified: the SHA-256 of the file" in text) == note
    assert ("- far: the file is not verified, its SHA-256 is not known to be that of" in text) == note


@pytest.mark.parametrize("name", ["scores.svg", "learning_curves.svg", "constraint.svg", "behaviour.svg"])
def test_figures_are_xml_without_a_date(report: Path, name: str) -> None:
    text = (report / name).read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "dc:date" not in text


def test_same_inputs_give_the_same_bytes(made: Path, report: Path) -> None:
    assert run(made, "again") == (0, "")
    for name in FILES:
        assert (made / "again" / "example" / name).read_bytes() == (report / name).read_bytes(), name


def test_a_removed_method_and_task_are_gone_though_their_files_stay(suite: Path) -> None:
    change_params(suite, lambda params: (params["methods"].pop("fql"), params["tasks"].pop("near")))
    assert run(suite) == (0, "")
    metrics = json.loads((suite / "reports" / "example" / "metrics.json").read_text())
    assert list(metrics) == ["far", "aggregate"] and list(metrics["far"]) == ["bc", "fidec"]
    assert "fql" not in (suite / "reports" / "example" / "report.md").read_text()


def test_a_method_has_its_own_budget_and_none_where_its_multiplier_is_fixed(suite: Path) -> None:
    params = yaml.safe_load((suite / "params.yaml").read_text())
    fidec = params["methods"]["fidec"]
    params["methods"] |= {
        "loose": fidec | {"refine": {"target_divergence": 0.02}},
        "fixed": fidec | {"train": fidec["train"] | {"dual": "fixed"}},
    }
    write_suite(suite, params, score=lambda *_: 50.0, constraint=lambda *_: (1.0, 0.01, 0.1))
    assert run(suite) == (0, "")
    text = (suite / "reports" / "example" / "report.md").read_text()
    assert "| near | fidec | 0.01 | 0.01 | 1 | 0% | 0.1 | 1 |" in text
    assert "| near | loose | 0.02 | 0.01 | 0.5 | never | 0.1 | 1 |" in text
    assert "| near | fixed |  | 0.01 |  |  | 0.1 | 1 |" in text
    assert "ended below its budget: loose on near, loose on far." in text and "was not active" not in text
    plan = grid_of(read_settings(suite / "params.yaml"), ["loose", "fixed", "fidec"])
    assert plan.constrained == ("loose", "fixed", "fidec")
    assert {key: value for key, value in plan.budgets.items() if key[0] == "far"} == {
        ("far", "loose"): 0.02,
        ("far", "fidec"): 0.01,
    }


@pytest.mark.parametrize(("reached", "held"), [(200, "10%"), (400, "20%"), (1200, "60%")])
def test_a_constraint_that_becomes_active_late_is_named(suite: Path, reached: int, held: str) -> None:
    """The penalty is five times its budget at first, and meets it from a step on; the multiplier still rises."""
    params = yaml.safe_load((suite / "params.yaml").read_text())
    log = lambda *a: (a[-1] / 100, 0.01 if a[-1] > reached else 0.05, 0.1)
    write_suite(suite, params, score=lambda *_: 50.0, constraint=log)
    assert run(suite) == (0, "")
    text = (suite / "reports" / "example" / "report.md").read_text()
    assert f"| near | fidec | 0.01 | 0.01 | 1 | {held} | 0.1 |" in text
    late = "not active from the first fifth of training on: fidec on near, fidec on far."
    assert (late in text) == (reached > 400)


@pytest.mark.parametrize(("growth", "marked"), [(1.0, False), (3.0, True)])
def test_a_multiplier_that_still_moves_is_marked(suite: Path, growth: float, marked: bool) -> None:
    params = yaml.safe_load((suite / "params.yaml").read_text())
    write_suite(
        suite, params, score=lambda *_: 50.0, constraint=lambda *a: (growth if a[-1] > 1800 else 1.0, 0.01, 0.1)
    )
    assert run(suite) == (0, "")
    shown = f"**{growth:g}**" if marked else f"{growth:g}"
    assert (
        f"| near | fidec | 0.01 | 0.01 | 1 | 0% | 0.1 | {shown} |" in (suite / "reports/example/report.md").read_text()
    )


def test_methods_without_a_constraint(suite: Path) -> None:
    change_params(suite, lambda params: params["methods"].pop("fidec"))
    assert run(suite) == (0, "")
    assert "constraint.svg" not in (suite / "reports" / "example" / "report.md").read_text()
    assert (
        suite / "reports" / "example" / "constraint.svg"
    ).is_file()  # an output that DVC expects, whatever the methods


def test_one_seed_has_no_spread(suite: Path) -> None:
    params = yaml.safe_load((suite / "params.yaml").read_text()) | {"seeds": [3]}
    write_suite(suite, params, score=lambda *_: 50.0, constraint=lambda *_: (1.0, 0.1, 0.1))
    assert run(suite) == (0, "")
    metrics = json.loads((suite / "reports" / "example" / "metrics.json").read_text())
    assert metrics["near"]["bc"] == {"mean": 50.0, "seeds": {"3": 50.0}}
    assert metrics["aggregate"]["bc"] == {"iqm": 50.0, "mean": 50.0}
    assert "nan" not in "".join(path.read_text().lower() for path in (suite / "reports" / "example").glob("*.[mct]*"))


def test_published_figures_stand_beside_ours_under_the_same_protocol(suite: Path) -> None:
    params = yaml.safe_load((suite / "params.yaml").read_text())
    data = {"source": "ogbench", "dataset": "cube-single-play-singletask-task1-v0"}
    near = params["tasks"]["near"]
    regenerated = {"again": near | {"data": near["data"] | {"dataset": data["dataset"]}}}  # stands for the same task
    params["tasks"] = {"cube": near | {"data": data}} | regenerated
    params["refine"] |= {"steps": 1000000, "evaluate_every": 100000, "log_every": 50000}
    params["evaluate"]["episodes"] = 50
    params["evaluate"]["final_evaluations"] = 3
    write_suite(
        suite,
        params,
        score=lambda task, *_: 90.0 if task == "cube" else 10.0,
        constraint=lambda *_: (1.0, 0.1, 0.1),
    )
    assert run(suite) == (0, "")
    text = (suite / "reports" / "example" / "report.md").read_text()
    assert "| cube | fql | 90.0 ± 0.0 | 97 ± 2 | FQL paper, arXiv 2502.02538, Table 3 (8 (4 pixel) seeds) |" in text
    assert "success_timing post, ours pre" in text
    assert "<small>published 97 ± 2</small>" in (suite / "reports" / "example" / "index.html").read_text()
    assert "93.5" not in text  # another paper's figure for FQL, from its final checkpoint
    row = cells(suite, "cube-single-task1")  # comparable, so without a mark
    assert row[:5] == [
        "bc 90.0 ± 0.0<br>fql 90.0 ± 0.0<br>fidec 90.0 ± 0.0",
        "89 ± 5 [1]",
        "79 ± 4 [1]",
        "97 ± 2 [1]<br>93.5 [2]",
        "-",
    ]
    assert "Not comparable" not in (suite / "reports" / "example" / "published.md").read_text()


def cells(root: Path, name: str) -> list[str]:
    """Cells of the row of that name of published.md: here, ReBRAC, IFQL, FQL, DeFlow, FiDec, best."""
    lines = (root / "reports" / "example" / "published.md").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.strip("|").split("|")[1:]]


def figures_of(root: Path, name: str) -> list[dict[str, str]]:
    """Rows of that name of published.csv."""
    with (root / "reports" / "example" / "published.csv").open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["name"] == name]


def test_all_published_figures_with_ours_or_that_it_was_not_run(made: Path, report: Path) -> None:
    assert cells(made, "cube-single-task1 †")[0] == "bc 15.0 ± 7.1<br>fql 100.0 ± 0.0<br>fidec 95.0 ± 7.1"
    assert cells(made, "cube-single-task2")[0] == cells(made, "cube-single")[0] == "not run"  # one task of five was run
    assert cells(made, "antmaze-large")[4:] == ["81 ± 3 [5]", "87‡ [8]", "GFP 93.9 [4]"]
    text = (report / "published.md").read_text()
    assert "- † cube-single-task1: the data are regenerated, not the published set of that name: no published" in text
    assert "- [8] third-party summaries of arXiv 2604.17919 v1" in text
    assert text.count("| not run |") == 72 + 13 + 1  # tasks, families, their mean
    ours, fql = figures_of(made, "cube-single-task1")[1:3], figures_of(made, "antmaze-large")
    assert [(row["method"], row["mean"], row["spread"], row["seeds"]) for row in ours] == [
        ("fql", "100.00", "0.00", "2"),
        ("fidec", "95.00", "7.07", "2"),
    ]
    assert all(row["status"].startswith("the data are regenerated") for row in ours)
    assert (fql[0]["place"], fql[0]["mean"], fql[0]["status"]) == ("here", "", "not run")
    assert {row["status"] for row in fql if row["method"] == "FiDec"} == {"secondary"}


def test_mean_of_a_family_that_was_run_as_a_whole(suite: Path) -> None:
    names = {f"t{task}": f"cube-single-play-singletask-task{task}-v0" for task in range(1, 6)}
    score = {"t1": (10, 30), "t2": (20, 20), "t3": (30, 30), "t4": (40, 40), "t5": (50, 80)}
    write_suite(
        suite,
        suite_params(names, ["bc", "fql"]),
        score=lambda task, method, seed, step, episode: float(score[task][seed]),
        constraint=lambda *_: (1.0, 0.1, 0.1),
    )
    assert run(suite) == (0, "")
    # The seeds' means are 30 and 40.
    assert cells(suite, "cube-single †")[0] == "bc 35.0 ± 7.1<br>fql 35.0 ± 7.1"
    assert cells(suite, "ogbench-state-50")[0] == "not run"


def test_mean_over_the_families_of_a_source(made: Path, report: Path) -> None:
    fql = [row for row in figures_of(made, "ogbench-state-50") if row["method"] == "FQL"]
    families = [79, 9, 58, 4, 60, 96, 29, 56, 30, 17]  # FQL, arXiv 2502.02538, Table 2
    source = "FQL paper, arXiv 2502.02538, Table 2: mean over its families"
    assert [row["mean"] for row in fql if row["source"] == source] == [f"{sum(families) / 10:g}"]
    assert not [row for row in figures_of(made, "ogbench-state-50") if row["method"] == "FiDec"]  # five families only


def test_tasks_may_differ_in_their_last_evaluations_and_from_the_published_data(suite: Path) -> None:
    params = yaml.safe_load((suite / "params.yaml").read_text())
    data = {
        "source": "minari",
        "dataset": "D4RL/pen/human-v2",
        "environment": "AdroitHandPen-v1",
        "observation": [],
        "reward": "dense",
        "cut_at_success": False,
        "maze": None,
        "horizon": 100,
        "score": "return",
        "return_range": None,
        "differs": "replayed in another simulator",
    }
    params["tasks"]["far"] |= {"data": data, "evaluate": {"final_evaluations": 1}}
    write_suite(suite, params, score=lambda t, m, s, step, e: step / 20, constraint=lambda *_: (1.0, 0.1, 0.1))
    assert run(suite) == (0, "")
    metrics = json.loads((suite / "reports" / "example" / "metrics.json").read_text())
    assert (metrics["near"]["bc"]["mean"], metrics["far"]["bc"]["mean"]) == (87.5, 100.0)
    text = (suite / "reports" / "example" / "report.md").read_text()
    assert "- far: 2 episodes per seed after 2,000 training steps\n" in text
    assert "far: replayed in another simulator." in text
    assert cells(suite, "pen-human †")[3] == "53 ± 6 [1]<br>40 [2]"


def test_two_machines_are_both_named(suite: Path) -> None:
    """Evaluation may use another device: its random numbers come from the CPU."""
    edit_record(suite / "evals" / "near" / "fql.json", machine=MACHINE | {"gpu": "Example GPU"})
    assert run(suite) == (0, "")
    text = (suite / "reports" / "example" / "report.md").read_text()
    assert "- pretrain, refine, evaluate: Example CPU, 2 cores, 16 GiB, no GPU\n" in text
    assert "- evaluate: Example CPU, 2 cores, 16 GiB, Example GPU\n" in text


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda root: (root / "evals/near/fql.csv").unlink(), "evals/near/fql.csv: no such file"),
        (lambda root: (root / "evals/near/fql.json").unlink(), "evals/near/fql.json: no such file"),
        (lambda root: (root / "runs/far/bc.json").unlink(), "runs/far/bc.json: no such file"),
        (lambda root: (root / "runs/far/fidec/train.csv").unlink(), "runs/far/fidec/train.csv: no such file"),
        (lambda root: (root / "behaviour/far.json").unlink(), "behaviour/far.json: no such file"),
        (lambda root: (root / "data/far/manifest.json").unlink(), "data/far/manifest.json: no such file"),
        (lambda root: (root / "runs/far/bc.json").write_text("{"), "bc.json: is damaged or not a file"),
        (
            lambda root: edit_record(root / "runs/far/bc.json", seeds=[0]),
            "bc.json: seeds is [0], but [0, 4] is needed",
        ),
        (
            lambda root: edit_record(root / "runs/far/bc.json", method="fql"),
            "bc.json: method is 'fql', but 'bc' is",
        ),
        (
            lambda root: edit_record(root / "runs/far/bc.json", data_sha256="x"),
            "bc.json: data_sha256 belongs to different data; run this",
        ),
        (
            lambda root: edit_record(root / "runs/far/bc.json", flow_sha256="11"),
            "bc.json: flow_sha256 is '11', but '00' is needed",
        ),
        (
            lambda root: edit_record(root / "evals/far/bc.json", weights={"step_000000500.safetensors": "00"}),
            "evals/far/bc.json: weights do not match the run",
        ),
        (
            lambda root: edit_record(root / "runs/far/bc.json", machine=MACHINE | {"gpu": "Example GPU"}),
            "runs/far/bc.json: was trained on Example GPU, but",
        ),
        (
            lambda root: edit_record(root / "behaviour/far.json", machine=MACHINE | {"gpu": "Example GPU"}),
            "behaviour/far.json: was trained on Example GPU, but",
        ),
        (lambda root: edit_record(root / "runs/far/bc.json", "seconds"), "bc.json: field 'seconds' is missing"),
        (
            lambda root: edit_record(root / "evals/far/bc.json", machine={}),
            "bc.json: machine, versions, files or seconds are malformed",
        ),
        (
            lambda root: edit_record(root / "data/far/manifest.json", dataset="x-v0"),
            "dataset 'x-v0', but params.yaml says",
        ),
        (
            lambda root: change_params(root, lambda p: p["seeds"].append(7)),
            "evals/near/bc.csv: seed 7 is missing",
        ),
        (
            lambda root: change_params(root, lambda p: p["tasks"].update(aggregate=p["tasks"]["far"])),
            "tasks.aggregate: this name is reserved",
        ),
        (
            lambda root: change_params(root, lambda p: p["methods"].update(new=p["methods"]["bc"])),
            "evals/near/new.csv: no such file",
        ),
    ],
)
def test_broken_inputs_are_named_and_nothing_is_written(
    suite: Path, broken: Callable[[Path], object], message: str
) -> None:
    broken(suite)
    code, error = run(suite)
    assert code == 2 and message in error and "\n" not in error.strip()
    assert not (suite / "reports").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step,seed,dual,penalty\n1,0,1,1\n", "column 'delta2' is missing"),
        (
            "step,seed,dual,penalty,delta2\n1,0,1,,1\n1,4,1,1,1\n",
            "train.csv:2: penalty is '', allowed: a number",
        ),
        (
            "step,seed,dual,penalty,delta2\n1,0,1,x,1\n1,4,1,1,1\n",
            "train.csv:2: penalty is 'x', allowed: a number",
        ),
        ("step,seed,dual,penalty,delta2\n1,0,1,1,1\n", "seeds [0], but params.yaml asks for seeds [0, 4]"),
        (
            "step,seed,dual,penalty,delta2\n1,0,1,1,1\n1,4,1,1,1\n1,4,1,1,1\n",
            "a step of a seed appears twice",
        ),
        ("", "not a CSV file"),
        ('a,b\n1,2,3\n"', "not a CSV file"),
    ],
)
def test_broken_training_log(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "fidec" / "train.csv"
    write_text(path, text)
    write_record(tmp_path / "fidec.json", {"files": digests(path)})
    with refused(message):
        training_log.read_training_log(path, SEEDS)


def test_long_training_logs_are_drawn_as_means_of_neighbours(tmp_path: Path) -> None:
    rows = [(step, seed, 1, step + 10 * seed, 1) for step in range(1, 401) for seed in (0, 1)]
    path = tmp_path / "fidec" / "train.csv"
    write_csv(path, "step,seed,dual,penalty,delta2", rows)
    write_record(tmp_path / "fidec.json", {"files": digests(path)})
    band = training_log.read_training_log(path, (0, 1)).band("penalty")
    assert len(band) == 200
    assert band.iloc[0].to_dict() == {"step": 1.5, "mean": 6.5, "low": 1.5, "high": 11.5}


def test_leaders() -> None:
    assert leaders({"a": (50, 40, 60), "b": (45, 35, 55), "c": (20, 10, 39)}) == {"a", "b"}
    assert leaders({"a": (50, float("nan"), float("nan")), "b": (45, float("nan"), float("nan"))}) == {"a"}
    assert leaders({"a": (0, 0, 0), "b": (0, 0, 0)}) == {"a", "b"}


def test_failed_write_leaves_the_old_report(tmp_path: Path) -> None:
    write_folder(tmp_path, {"a.md": "old", "b.md": "old"})
    with pytest.raises(UnicodeEncodeError):
        write_folder(tmp_path, {"a.md": "new", "b.md": "\udc80"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.md": "old", "b.md": "old"}


def test_methods_whose_colour_comes_again_differ_in_marker_and_line(made: Path) -> None:
    many = replace(
        grid_of(read_settings(made / "params.yaml"), ["fidec"]), methods=tuple(f"method-{i}" for i in range(20))
    )
    looks = [figures.appearance(many, method) for method in many.methods]
    assert len({(look["color"], look["marker"]) for look in looks}) == 20
    assert len({(look["color"], look["linestyle"]) for look in looks}) == 20


def test_a_long_legend_leaves_the_panels_alone(made: Path) -> None:
    plan = grid_of(read_settings(made / "params.yaml"), ["fidec"])
    names = tuple(f"a-name-that-is-too-long-for-two-of-them-in-a-row-of-the-legend-{i}" for i in range(COLOURED))
    log = training_log.read_training_log(made / "runs" / "near" / "fidec" / "train.csv", SEEDS)
    several = replace(plan, tasks=plan.tasks[:1], methods=names, constrained=names, budgets={})
    with style():
        figure = figures.constraint(several, {("near", name): log for name in names})
        figure.draw_without_rendering()
        (legend,) = figure.legends
        assert legend.get_window_extent().y0 > max(axes.get_window_extent().y1 for axes in figure.axes)
        assert min(axes.get_window_extent().height for axes in figure.axes) > figure.dpi  # an inch


@pytest.mark.parametrize("high", [1.0, 1.02, 3.0, 40.0, 1e6])
@pytest.mark.parametrize("low", [0.001, 0.0029, 7.0])
def test_a_log_axis_has_two_to_seven_numbers(low: float, high: float) -> None:
    with style():
        axis = Figure().subplots()
        axis.plot([low, low * high])
        figures.log_scale(axis)
        bottom, top = axis.get_ylim()
        shown = [label.get_text() for label in axis.get_yticklabels() if bottom <= label.get_position()[1] <= top]
    assert 2 <= len(shown) <= 7 and len({*shown}) == len(shown)


def test_of_many_methods_each_has_a_row_and_panels_of_its_own(made: Path) -> None:
    assert len(COLOURS) == COLOURED
    plan = grid_of(read_settings(made / "params.yaml"), ["bc", "fql", "fidec"])
    few = gather_estimates(plan, made / "evals")
    log = training_log.read_training_log(made / "runs" / "near" / "fidec" / "train.csv", SEEDS)
    names = tuple(f"fidec-{i}" for i in range(COLOURED + 1))
    cells = list(product(("near", "far"), names))
    evaluations = {(task, name): few.evaluations[task, "fidec"] for task, name in cells}
    finals = {(task, name): few.finals[task, "fidec"] for task, name in cells}
    summaries = {(task, name): few.summaries[task, "fidec"] for task, name in cells}
    aggregates = dict.fromkeys(names, few.aggregates["fidec"])
    many = Results(replace(plan, methods=names, constrained=names), evaluations, finals, summaries, aggregates)
    assert [row[0] for row in tables.scores_table(few).rows[:2]] == ["near", "far"]
    table, latex = tables.scores_table(many), tables.scores_latex(many)
    assert table.head == ("method", "near", "far", "all tasks, IQM", "all tasks, mean")
    assert [row[0] for row in table.rows] == list(names)
    assert "Bold: the highest estimate of a column" in latex
    assert r"fidec-7 & $\mathbf{95.0" in latex
    with style():
        pairs = figures.constraint(many.plan, dict.fromkeys(cells, log))
        curves, scores = figures.learning_curves(many), figures.scores(many)
    headings = ["near\n", "far\n"]
    for figure in (curves, pairs):
        assert [title for axes in figure.axes if (title := axes.get_title())] == [*names, *names]
        assert [title for axes in figure.axes if (title := axes.get_title(loc="left"))] == headings
    assert not curves.legends and not scores.legends
    assert [label.get_text() for label in scores.axes[0].get_yticklabels()] == list(names)


def test_a_suite_of_one_task_has_no_totals_over_tasks(made: Path) -> None:
    plan = grid_of(read_settings(made / "params.yaml"), ["bc", "fidec"])
    alone = gather_estimates(replace(plan, tasks=plan.tasks[:1]), made / "evals")
    assert [row[0] for row in tables.scores_table(alone).rows] == ["near"]
    latex = tables.scores_latex(alone)
    assert "interquartile" not in latex and "all tasks" not in latex.split("label")[1]

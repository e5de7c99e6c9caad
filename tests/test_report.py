"""The report of a made-up suite whose numbers are known, and the ways in which its inputs can be wrong."""

import csv
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from typer.testing import CliRunner

from fd.errors import FdError
from fd.params import load
from fd.report import figures, page, training
from fd.report.results import leaders
from fd.transitions import Manifest
from stages.report import app, plan_of

ROOT = Path(__file__).parent.parent
SEEDS = (0, 4)
STEPS = (500, 1000, 1500, 2000)
EPISODES = 2
FILES = {
    *("report.md", "scores.md", "scores.csv", "scores.tex", "curves.csv", "metrics.json"),
    *("scores.svg", "learning_curves.svg", "constraint.svg"),
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
MACHINE = {"cpu": "Example CPU", "cores": 2, "memory_gib": 15.6, "gpu": None}


def write_csv(path: Path, header: str, rows: Sequence[Sequence[object]]) -> None:
    """A CSV file with that header."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")


def write_json(path: Path, values: dict[str, Any]) -> None:
    """A JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values))


def edit(path: Path, *removed: str, **changes: Any) -> None:
    """Remove and change fields of a JSON file."""
    values = json.loads(path.read_text()) | changes
    write_json(path, {name: value for name, value in values.items() if name not in removed})


def manifest(dataset: str, source: str = "generate") -> Manifest:
    """A manifest of some set."""
    return Manifest(
        source=source,
        dataset=dataset,
        collector="play" if source == "generate" else None,
        environment={"suite": "ogbench", "name": dataset},
        horizon=200,
        score="success",
        return_range=None,
        success_timing="pre",
        versions={"mujoco": "4.0.0", "numpy": "2.4.0"},
        seed=0,
        episodes=100,
        validation_episodes=5,
        files={},
        transitions=100100,
        obs_dim=28,
        act_dim=5,
        successes=1926,
        reward_sum=-98174.0,
        sha256={"actions": "00"},
    )


def write_suite(
    root: Path,
    params: dict[str, Any],
    *,
    score: Callable[[str, str, int, int, int], float],
    constraint: Callable[[str, str, int, int], tuple[float, float, float]],
) -> None:
    """Everything that the report reads, as the stages before it would leave it.

    `score` of (task, method, seed index, step, episode); `constraint`, that is dual, penalty and delta2, of
    (task, method, seed index, step).
    """
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    refine, episodes = params["refine"], range(params["evaluate"]["episodes"])
    seeds = list(enumerate(params["seeds"]))
    for task, entry in params["tasks"].items():
        data = entry["data"]
        write_json(root / "data" / task / "manifest.json", asdict(manifest(data["dataset"], data["source"])))
        shared = {
            "task": task,
            "seeds": params["seeds"],
            "steps": refine["steps"],
            "data_sha256": {"actions": "00"},
        }
        shared |= {"versions": {"torch": "2.13.0", "numpy": "2.4.0"}, "machine": MACHINE}
        write_json(root / "behaviour" / f"{task}.json", shared | {"seconds": 61.2})
        for method in params["methods"]:
            write_json(root / "runs" / task / f"{method}.json", shared | {"method": method, "seconds": 125.0})
            logged = range(refine["log_every"], refine["steps"] + 1, refine["log_every"])
            rows = [(step, seed, *constraint(task, method, i, step)) for step in logged for i, seed in seeds]
            write_csv(root / "runs" / task / method / "train.csv", "step,seed,dual,penalty,delta2", rows)
            evaluated = range(refine["evaluate_every"], refine["steps"] + 1, refine["evaluate_every"])
            values = [
                (seed, step, episode, 0, 0, 100, score(task, method, i, step, episode))
                for i, seed in seeds
                for step in evaluated
                for episode in episodes
            ]
            path = root / "evals" / task / f"{method}.csv"
            write_csv(path, "seed,step,episode,return,success,length,score", values)
            record = {"seconds": 20.0, "steps_per_second": 1234.0, "machine": MACHINE}
            write_json(path.with_suffix(".json"), record | {"versions": {"mujoco": "4.0.0"}})


def suite_params(tasks: dict[str, str], methods: Sequence[str]) -> dict[str, Any]:
    """The committed params.yaml with other tasks (name -> dataset), methods and sizes."""
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
    entry = next(task for task in params["tasks"].values() if task["data"].get("collector") in ("play", "navigate"))
    entry |= {"network": {}, "pretrain": {}, "refine": {}, "evaluate": {}}
    params["suite"] = "example"
    params["tasks"] = {name: entry | {"data": entry["data"] | {"dataset": dataset}} for name, dataset in tasks.items()}
    params["methods"] = {name: params["methods"][name] for name in methods}
    params["seeds"] = list(SEEDS)
    params["refine"] |= {
        "steps": STEPS[-1],
        "evaluate_every": STEPS[0],
        "log_every": 100,
        "target_divergence": 0.01,
    }
    params["evaluate"]["episodes"] = EPISODES
    params["report"] |= {"final_evaluations": 2, "confidence": 0.95, "bootstrap": 200, "seed": 0}
    return params


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
    folders = [f"--{name}={root / name}" for name in ("evals", "runs", "data", "behaviour")]
    options = [f"--params={root / 'params.yaml'}", f"--reference={ROOT / 'reference'}", f"--out={root / out}"]
    result = CliRunner().invoke(app, [*options, *folders, *arguments])
    if isinstance(result.exception, FdError):
        return 2, str(result.exception)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def change_params(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Apply a function to the params of a suite."""
    params = yaml.safe_load((root / "params.yaml").read_text())
    change(params)
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))


@pytest.fixture(scope="module")
def report(made: Path) -> Path:
    """The report of the finished suite."""
    assert run(made) == (0, "")
    return made / "reports"


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
    assert "2 episodes a seed after each of 1,500, 2,000 training steps" in text
    assert "- near: the data are a regenerated, smaller set, not the published one of that name: no" in text
    assert "- far: there is no published figure for this data set." in text
    assert "Machine: Example CPU, 2 cores, 16 GiB, no GPU." in text
    assert "mujoco 4.0.0, numpy 2.4.0, torch 2.13.0" in text
    assert "| near | 1:01 | 2:05 + 0:20 |" in text
    assert "pretrain 2:02, refine 12:30, evaluate 2:00; together 16:32" in text
    # The last tenth of 2000 steps holds 1900 and 2000: penalty .0195, nearly twice the budget.
    assert "| near | fidec | 0.01 | 0.0195 | 1.95 | 0.004 | 1.5 |" in text
    for link in ("scores.svg", "learning_curves.svg", "constraint.svg"):
        assert f"]({link})" in text


@pytest.mark.parametrize("name", ["scores.svg", "learning_curves.svg", "constraint.svg"])
def test_figures_are_xml_without_a_date(report: Path, name: str) -> None:
    text = (report / name).read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "dc:date" not in text


def test_same_inputs_give_the_same_bytes(made: Path, report: Path) -> None:
    assert run(made, "again") == (0, "")
    for name in FILES:
        assert (made / "again" / name).read_bytes() == (report / name).read_bytes(), name


def test_a_removed_method_and_task_are_gone_though_their_files_stay(suite: Path) -> None:
    change_params(suite, lambda params: (params["methods"].pop("fql"), params["tasks"].pop("near")))
    assert run(suite) == (0, "")
    metrics = json.loads((suite / "reports" / "metrics.json").read_text())
    assert list(metrics) == ["far", "aggregate"] and list(metrics["far"]) == ["bc", "fidec"]
    assert "fql" not in (suite / "reports" / "report.md").read_text()


def test_methods_without_a_constraint(suite: Path) -> None:
    change_params(suite, lambda params: params["methods"].pop("fidec"))
    assert run(suite) == (0, "")
    assert "constraint.svg" not in (suite / "reports" / "report.md").read_text()
    assert (suite / "reports" / "constraint.svg").is_file()  # an output that DVC expects, whatever the methods


def test_one_seed_has_no_spread(suite: Path) -> None:
    params = yaml.safe_load((suite / "params.yaml").read_text()) | {"seeds": [3]}
    write_suite(suite, params, score=lambda *_: 50.0, constraint=lambda *_: (1.0, 0.1, 0.1))
    assert run(suite) == (0, "")
    metrics = json.loads((suite / "reports" / "metrics.json").read_text())
    assert metrics["near"]["bc"] == {"mean": 50.0, "seeds": {"3": 50.0}}
    assert metrics["aggregate"]["bc"] == {"iqm": 50.0, "mean": 50.0}
    assert "nan" not in "".join(path.read_text().lower() for path in (suite / "reports").glob("*.[mct]*"))


def test_published_figures_stand_beside_ours_under_the_same_protocol(suite: Path) -> None:
    params = yaml.safe_load((suite / "params.yaml").read_text())
    data = {"source": "ogbench", "dataset": "cube-single-play-singletask-task1-v0"}
    params["tasks"] = {"cube": params["tasks"]["near"] | {"data": data}}
    params["refine"] |= {"steps": 1000000, "evaluate_every": 100000, "log_every": 50000}
    params["evaluate"]["episodes"] = 50
    params["report"]["final_evaluations"] = 3
    write_suite(suite, params, score=lambda *_: 90.0, constraint=lambda *_: (1.0, 0.1, 0.1))
    assert run(suite) == (0, "")
    text = (suite / "reports" / "report.md").read_text()
    assert "| cube | fql | 90.0 ± 0.0 | 97 ± 2 | FQL paper, arXiv 2502.02538, Table 3 (8 (4 pixel) seeds) |" in text
    assert "success_timing post, ours pre" in text
    assert "93.5" not in text  # another paper's figure for FQL, from its final checkpoint


def test_two_machines_are_both_named(suite: Path) -> None:
    edit(suite / "runs" / "near" / "fql.json", machine=MACHINE | {"gpu": "Example GPU"})
    assert run(suite) == (0, "")
    text = (suite / "reports" / "report.md").read_text()
    assert "- pretrain, refine, evaluate: Example CPU, 2 cores, 16 GiB, no GPU\n" in text
    assert "- refine: Example CPU, 2 cores, 16 GiB, Example GPU\n" in text


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda root: (root / "evals/near/fql.csv").unlink(), "evals/near/fql.csv: no such file"),
        (lambda root: (root / "evals/near/fql.json").unlink(), "evals/near/fql.json: no such file"),
        (lambda root: (root / "runs/far/bc.json").unlink(), "runs/far/bc.json: no such file"),
        (lambda root: (root / "runs/far/fidec/train.csv").unlink(), "runs/far/fidec/train.csv: no such file"),
        (lambda root: (root / "behaviour/far.json").unlink(), "behaviour/far.json: no such file"),
        (lambda root: (root / "data/far/manifest.json").unlink(), "data/far/manifest.json: no such file"),
        (lambda root: (root / "runs/far/bc.json").write_text("{"), "bc.json: not a JSON file"),
        (
            lambda root: (root / "runs/far/bc.json").write_text("[]"),
            "bc.json: holds list, allowed: an object",
        ),
        (
            lambda root: edit(root / "runs/far/bc.json", seeds=[0]),
            "bc.json: seeds is [0], but [0, 4] is needed",
        ),
        (
            lambda root: edit(root / "runs/far/bc.json", method="fql"),
            "bc.json: method is 'fql', but 'bc' is",
        ),
        (
            lambda root: edit(root / "runs/far/bc.json", data_sha256="x"),
            "bc.json: data_sha256 is of other data; run this",
        ),
        (lambda root: edit(root / "runs/far/bc.json", "seconds"), "bc.json: field 'seconds' is missing"),
        (
            lambda root: edit(root / "evals/far/bc.json", machine={}),
            "bc.json: machine, versions or seconds are malformed",
        ),
        (
            lambda root: edit(root / "data/far/manifest.json", dataset="x-v0"),
            "dataset 'x-v0', but params.yaml says",
        ),
        (
            lambda root: change_params(root, lambda p: p["seeds"].append(7)),
            "evals/near/bc.csv: seed 7 is missing",
        ),
        (
            lambda root: change_params(root, lambda p: p["tasks"].update(aggregate=p["tasks"]["far"])),
            "tasks.aggregate: this name is kept",
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
    path = tmp_path / "train.csv"
    path.write_text(text)
    with pytest.raises(FdError) as error:
        training.read(path, SEEDS)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_long_training_logs_are_drawn_as_means_of_neighbours(tmp_path: Path) -> None:
    rows = [(step, seed, 1, step + 10 * seed, 1) for step in range(1, 401) for seed in (0, 1)]
    write_csv(tmp_path / "train.csv", "step,seed,dual,penalty,delta2", rows)
    band = training.read(tmp_path / "train.csv", (0, 1)).band("penalty")
    assert len(band) == 200
    assert band.iloc[0].to_dict() == {"step": 1.5, "mean": 6.5, "low": 1.5, "high": 11.5}


def test_leaders() -> None:
    assert leaders({"a": (50, 40, 60), "b": (45, 35, 55), "c": (20, 10, 39)}) == {"a", "b"}
    assert leaders({"a": (50, float("nan"), float("nan")), "b": (45, float("nan"), float("nan"))}) == {"a"}
    assert leaders({"a": (0, 0, 0), "b": (0, 0, 0)}) == {"a", "b"}


def test_failed_write_leaves_the_old_report(tmp_path: Path) -> None:
    page.save(tmp_path, {"a.md": "old", "b.md": "old"})
    with pytest.raises(UnicodeEncodeError):
        page.save(tmp_path, {"a.md": "new", "b.md": "\udc80"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a.md": "old", "b.md": "old"}


def test_methods_whose_colour_comes_again_differ_in_marker_and_line(made: Path) -> None:
    many = replace(plan_of(load(made / "params.yaml")), methods=tuple(f"method-{i}" for i in range(20)))
    looks = [figures.appearance(many, method) for method in many.methods]
    assert len({(look["color"], look["marker"]) for look in looks}) == 20
    assert len({(look["color"], look["linestyle"]) for look in looks}) == 20

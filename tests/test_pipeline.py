"""One real pipeline, small: it runs, it is then up to date, and an edit of the settings touches the cells that it should."""

from __future__ import annotations

import copy
import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conftest import settings
from dvc.repo import Repo
from edits import changed, write_params

ROOT = Path(__file__).parent.parent
PARTS = (
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvcignore",
    ".gitignore",
    "dvc.yaml",
    "code",
    "films/.gitignore",
    "fd",
    "stages",
    "reference",
    "baseline",
)
METHODS = ("deflow", "fidec", "ifql")
REFINE, EVALUATE = ({f"{stage}@umaze-{method}" for method in METHODS} for stage in ("refine", "evaluate"))
FILM = {"film@umaze-fidec"}
PAGES = {"report", "ablate@metric", "regress"}
CELLS = (
    {"code", "settings", "download@umaze", "pretrain@umaze", "geometry@umaze", "theory"}
    | REFINE
    | EVALUATE
    | FILM
    | PAGES
)


@dataclass(frozen=True)
class Pipeline:
    """A copy of the project with its own settings and a Git history of one commit."""

    folder: Path
    values: dict[str, Any]

    def write(self, values: dict[str, Any]) -> None:
        write_params(self.folder, values)

    def run(self, *command: str) -> str:
        """Standard output of a command; its failure shows all that it printed."""
        home = self.folder.parent / "home"
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        keep = {key: os.environ[key] for key in ("LANG", "LD_LIBRARY_PATH", "MUJOCO_GL") if key in os.environ}
        identity = {f"GIT_{role}_{part}": "test" for role in ("AUTHOR", "COMMITTER") for part in ("NAME", "EMAIL")}
        found = subprocess.run(
            command, cwd=self.folder, env=keep | identity | {"PATH": path, "HOME": str(home)},
            check=False, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert found.returncode == 0, f"{command}\n{found.stdout}\n{found.stderr}"
        return found.stdout

    def dvc(self, *arguments: str) -> str:
        return self.run(sys.executable, "-m", "dvc", *arguments)

    def stale(self) -> set[str]:
        """Stages that DVC finds changed by themselves; those after them follow. As `dvc status`, without starting a program."""
        with chdir(self.folder), Repo() as repo:
            return set(repo.status())

    def listed(self, stage: str) -> None:
        """Renew the lists of a stage, `code` or `settings`, as DVC would; for DVC, this stage stays changed."""
        self.run(sys.executable, "-m", f"stages.{stage}")

    def repro(self) -> set[str]:
        """Stages that a reproduction ran."""
        return set(re.findall(r"Running stage '([^']+)'", self.dvc("repro")))


def copied(folder: Path) -> Path:
    """The folder, with a copy of what the pipeline is made of."""
    for part in PARTS:
        (folder / part).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / part, folder / part)
    return folder


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """The pipeline of one task, three methods and one ablation, before it has run."""
    folder = copied(tmp_path_factory.mktemp("pipeline") / "clone")
    values = settings()
    values["methods"] = {name: values["methods"][name] for name in METHODS}
    values["ablations"]["metric"]["values"] = {"identity": "deflow", "state": "fidec"}
    values["evaluate"]["episodes"] = 1
    values["film"] = {"tasks": ["umaze"], "methods": ["fidec"]}
    made = Pipeline(folder, values)
    made.write(values)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "start"]):
        made.run("git", *command)
    return made


@pytest.fixture(scope="module")
def reproduced(pipeline: Pipeline) -> Pipeline:
    """The same after its first reproduction."""
    assert pipeline.repro() == CELLS
    return pipeline


@pytest.fixture
def ready(reproduced: Pipeline) -> Iterator[Pipeline]:
    """The same with its settings and their lists as they were, before and after a test."""
    lists = {path: path.read_bytes() for path in (reproduced.folder / "settings").iterdir()}
    yield reproduced
    reproduced.write(reproduced.values)
    for path, content in lists.items():
        path.write_bytes(content)


def test_the_whole_pipeline_runs_and_is_then_up_to_date(ready: Pipeline) -> None:
    assert ready.stale() == set()
    assert "Data and pipelines are up to date." in ready.dvc("repro")
    for name in (
        "index.html",
        "report.md",
        "scores.md",
        "scores.csv",
        "scores.tex",
        "curves.csv",
        "learning_curves.svg",
        "behaviour.svg",
    ):
        assert (ready.folder / "reports" / "tiny" / name).stat().st_size > 0
    for name in ("metric.md", "metric.csv", "metric.svg"):
        assert (ready.folder / "reports" / "tiny" / "ablations" / name).stat().st_size > 0
    assert list((ready.folder / "reports" / "theory").glob("*.svg"))
    unknown = ready.run("git", "status", "--porcelain").splitlines()
    assert sorted(unknown) == ["?? dvc.lock", "?? reports/"]  # what the stages make is ignored or reported


def test_data_may_be_a_link_to_another_disk(ready: Pipeline, tmp_path: Path) -> None:
    data = ready.folder / "data" / "umaze"
    shutil.move(data, tmp_path / "umaze")
    data.symlink_to(tmp_path / "umaze")
    try:
        ready.dvc("repro", "--single-item", "--force", "download@umaze")
        assert data.is_symlink() and (tmp_path / "umaze" / "manifest.json").exists()
        assert ready.stale() <= {"report", "regress"}  # they depend on data/, where DVC follows no links
    finally:
        data.unlink()
        shutil.move(tmp_path / "umaze", data)
    assert ready.stale() == set()


def test_dvc_shows_metrics_plots_parameters_and_the_graph(ready: Pipeline) -> None:
    metrics = json.loads(ready.dvc("metrics", "show", "--json"))
    values = metrics[""]["data"][str(Path("reports", "tiny", "metrics.json"))]["data"]
    assert "fidec" in json.dumps(values) and "umaze" in json.dumps(values)
    assert "fidec" in ready.dvc("metrics", "show")
    graph = ready.dvc("dag", "--dot").replace("\n", "")
    for edge in (
        '"download@umaze" -> "pretrain@umaze"',
        '"geometry@umaze" -> "report"',
        '"refine@umaze-fidec" -> "evaluate@umaze-fidec"',
    ):
        assert edge in graph
    page = ready.dvc("plots", "show", "-o", "plots").strip().removeprefix("file://")
    html = Path(page).read_text()
    assert all(name in html for name in ("learning_curves", "scores", "constraint", "behaviour", "ablations"))
    shutil.rmtree(ready.folder / "plots")
    ready.write(edited("methods", "fidec", "train", "damping", to=0.5)(ready.values))
    diff = json.loads(ready.dvc("params", "diff", "--json"))
    assert diff == {"params.yaml": {"methods.fidec.train.damping": {"old": 0.001, "new": 0.5, "diff": 0.499}}}


def edited(*place: str, to: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Set one place of the settings."""
    return lambda values: changed(values, *place, to=to)


def with_another_task(values: dict[str, Any]) -> dict[str, Any]:
    values = copy.deepcopy(values)
    values["tasks"]["umaze-near"] = copy.deepcopy(values["tasks"]["umaze"])
    values["tasks"]["umaze-near"]["data"]["start"] = [1, 3]
    return values


def with_another_method(values: dict[str, Any]) -> dict[str, Any]:
    values = copy.deepcopy(values)
    values["methods"]["fidec-damped"] = copy.deepcopy(values["methods"]["fidec"])
    values["methods"]["fidec-damped"]["train"]["damping"] = 0.1
    return values


def with_another_ablation(values: dict[str, Any]) -> dict[str, Any]:
    return edited("ablations", "critic", to={"about": "who has one", "values": {"a": "ifql", "b": "fidec"}})(values)


def without_ifql(values: dict[str, Any]) -> dict[str, Any]:
    return changed(values, "methods", "ifql", drop=True)


FIDEC = ("methods", "fidec")
EDITS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], set[str]]] = {
    "a switch of a method": (edited(*FIDEC, "train", "score", to="velocity"), {"refine@umaze-fidec"} | PAGES),
    "an override of a method": (edited(*FIDEC, "refine", to={"tau": 0.5}), {"refine@umaze-fidec"} | PAGES),
    "how a method acts": (
        edited(*FIDEC, "act", to={"best_of": 2, "refinements": 2}),
        {"evaluate@umaze-fidec"} | FILM | PAGES,
    ),
    "an override of a task": (edited("tasks", "umaze", "refine", to={"discount": 0.9}), REFINE | PAGES),
    "an override of its evaluation": (
        edited("tasks", "umaze", "evaluate", to={"episodes": 2}),
        EVALUATE | FILM | PAGES,
    ),
    "its data": (edited("tasks", "umaze", "data", "seed", to=1), {"download@umaze"} | PAGES),
    "the seeds": (edited("seeds", to=[0, 1, 2]), {"pretrain@umaze", "geometry@umaze"} | REFINE | PAGES),
    "pretraining": (edited("pretrain", "learning_rate", to=2e-3), {"pretrain@umaze", "regress"}),
    "the network": (edited("network", "hidden", to=[16, 24]), {"pretrain@umaze", "geometry@umaze", "regress"} | REFINE),
    "the geometry": (edited("geometry", "states", to=8), {"geometry@umaze"}),
    "the report": (edited("report", "confidence", to=0.9), PAGES - {"regress"}),
    "the theory": (edited("theory", "budget", to=0.004), {"theory"}),
    "the machine": (edited("compute", "threads", to=2), set()),
    "a task more": (
        with_another_task,
        {"download@umaze-near", "pretrain@umaze-near", "geometry@umaze-near"}
        | {f"{stage}@umaze-near-{method}" for stage in ("refine", "evaluate") for method in METHODS}
        | PAGES,
    ),
    "a method more": (with_another_method, {"refine@umaze-fidec-damped", "evaluate@umaze-fidec-damped"} | PAGES),
    "a method less": (without_ifql, PAGES),
    "no films": (edited("film", to={"tasks": [], "methods": []}), {"report"}),
    "an ablation more": (with_another_ablation, {"ablate@critic", "report"}),
    "what an ablation is about": (edited("ablations", "metric", "about", to="the metric"), {"ablate@metric", "report"}),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_makes_exactly_these_cells_stale(name: str, ready: Pipeline) -> None:
    edit, stale = EDITS[name]
    ready.write(edit(ready.values))
    ready.listed("settings")
    assert ready.stale() - {"settings"} == stale


def test_a_switch_runs_its_cells_and_a_removed_method_leaves_the_report(ready: Pipeline) -> None:
    edit, stale = EDITS["a switch of a method"]
    ready.write(edit(ready.values))
    assert ready.repro() - {"settings"} == stale | {"evaluate@umaze-fidec"} | FILM
    ready.write(without_ifql(edit(ready.values)))
    assert ready.repro() - {"settings"} == PAGES
    folder = ready.folder / "reports" / "tiny"
    with (folder / "scores.csv").open(newline="") as file:
        text = json.dumps(list(csv.DictReader(file)))
    assert "fidec" in text and "ifql" not in text
    for name in ("report.md", "scores.md", "metrics.json", "curves.csv"):
        assert "ifql" not in (folder / name).read_text().lower()
    ready.write(ready.values)
    assert ready.repro() - {"settings"} == PAGES  # the cells as they were come out of the run cache
    assert ready.stale() == set()


# An edit of a module of each package -> the stages that it makes stale; what comes after them follows.
CODE_EDITS: dict[str, set[str]] = {
    "fd/wrappers.py": {"download@umaze"} | EVALUATE | FILM,
    "fd/policy.py": REFINE | EVALUATE | FILM,
    "fd/runtime/device.py": {"pretrain@umaze", "geometry@umaze", "theory"} | REFINE | EVALUATE | FILM,
    "fd/storage/run_record.py": {"pretrain@umaze", "geometry@umaze"} | REFINE | EVALUATE | FILM,
    "fd/networks/adam.py": {"pretrain@umaze", "theory"} | REFINE,
    "fd/method/fisher.py": {"geometry@umaze", "theory"} | REFINE,
    "fd/method/spectra.py": {"geometry@umaze"},
    "fd/method/agent.py": REFINE,
    "fd/settings/report_settings.py": PAGES,
    "fd/simulation/rollout.py": EVALUATE | FILM,
    "fd/simulation/filming.py": FILM,
    "fd/training/bank.py": REFINE,
    "fd/training/flow_training.py": {"pretrain@umaze"},
    "fd/training/flow_geometry.py": {"geometry@umaze"},
    "fd/datasets/waypoint.py": {"download@umaze"},
    "fd/reference/published.py": {"report"},
    "fd/results/flow_shape.py": {"report"},
    "fd/results/films.py": {"report"},
    "fd/results/statistics.py": PAGES,
    "fd/report/ablation_figure.py": {"ablate@metric", "report"},
    "fd/report/regression.py": {"regress"},
    "fd/theory/gap.py": {"theory"},
    "stages/geometry.py": {"geometry@umaze"},
    "fd/cli/program.py": set(),
    "fd/cluster/worker.py": set(),
    "stages/refine.py": REFINE,
}


@pytest.mark.parametrize("path", CODE_EDITS)
def test_an_edit_of_code_makes_exactly_these_cells_stale(path: str, ready: Pipeline) -> None:
    file = ready.folder / path
    before = {file: file.read_bytes()} | {part: part.read_bytes() for part in (ready.folder / "code").iterdir()}
    try:
        file.write_bytes(before[file] + b"# edited\n")
        assert ready.stale() == {"code"}
        ready.listed("code")
        assert ready.stale() == {"code"} | CODE_EDITS[path]
    finally:
        for part, content in before.items():
            part.write_bytes(content)
    assert ready.stale() == set()


def test_every_package_has_an_edit_in_the_table() -> None:
    edited = {Path(path).parts[1] for path in CODE_EDITS}
    packages = {path.name for path in (ROOT / "fd").iterdir() if (path / "__init__.py").exists()}
    assert packages - {"__pycache__"} <= edited


def test_dvc_starts_no_stage_whose_list_is_of_other_code(ready: Pipeline) -> None:
    """`dvc repro -s` runs a stage alone: its output would be recorded under code that did not make it."""
    file = ready.folder / "fd/report/main_page.py"
    before = file.read_bytes()
    try:
        file.write_bytes(before + b"# edited\n")
        found = subprocess.run(
            [sys.executable, "-m", "dvc", "repro", "-s", "-f", "report"],
            cwd=ready.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        line = "error: code/report.txt: is out of date, fd/report/main_page.py changed; run `dvc repro code`"
        assert found.returncode != 0 and line in found.stderr
        by_hand = subprocess.run(
            [sys.executable, "-m", "stages.report", "--help"],
            cwd=ready.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        assert by_hand.stderr.startswith("code/report.txt: is out of date") and "Usage" in by_hand.stdout
    finally:
        file.write_bytes(before)
    ready.dvc("checkout", "--force")
    assert ready.repro() <= PAGES

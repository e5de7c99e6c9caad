"""Suites: each is a valid file of settings, those of the benchmark have its tasks and values, and selecting one never loses edits."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dvc.utils.hydra import apply_overrides
from typer.testing import CliRunner

from fd.cli.program import app
from fd.errors import FdError
from fd.reference import suites
from fd.reference.hyperparameters import hyperparameters, of_dataset
from fd.reference.published import load_reference
from fd.reference.tasks import benchmark
from fd.report.baseline import load_baseline
from fd.settings.data_settings import DATA
from fd.settings.refine_settings import Refine
from fd.settings.settings_file import SettingsFile, parse_settings, read_settings
from fd.settings.simulation_settings import Evaluate
from fd.settings.training_settings import Network, Pretrain

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "reference"
TEXTS = suites.suite_texts(ROOT / "suites", FOLDER)
SECTIONS: dict[str, Any] = {"network": Network, "pretrain": Pretrain, "refine": Refine, "evaluate": Evaluate}
SIZES = {"ogbench-state": 50, "ogbench-pixel": 5, "d4rl-antmaze": 6, "d4rl-adroit": 12, "paper": 73, "o2o": 15}


@pytest.fixture(scope="module")
def loaded() -> dict[str, SettingsFile]:
    return {name: parse_settings(text, name) for name, text in TEXTS.items()}


def test_every_suite_is_valid_and_bears_its_name(loaded: dict[str, SettingsFile]) -> None:
    assert {"quick", "ablation", *SIZES} <= set(loaded)
    assert all(values.suite == name for name, values in loaded.items())


def test_committed_settings_are_the_quick_suite() -> None:
    assert (ROOT / "params.yaml").read_text(encoding="utf-8") == TEXTS["quick"]


def test_all_suites_have_one_theory(loaded: dict[str, SettingsFile]) -> None:
    assert (
        len({json.dumps(values.at("theory")) for values in loaded.values()}) == 1
    )  # reports/theory/ belongs to all of them


def test_all_methods_of_the_project_are_in_the_ablation_suite(loaded: dict[str, SettingsFile]) -> None:
    presets = {"bc", "fql", "ifql", "iql", "iql-ddpgbc", "rebrac", "deflow", "fidec", "fidec-official", "fidec-action"}
    presets |= {"fidec-stein", "fidec-desmooth"}
    assert presets <= set(loaded["ablation"].methods)


def test_suites_of_the_benchmark_have_its_tasks(loaded: dict[str, SettingsFile]) -> None:
    assert {name: len(loaded[name].tasks) for name in SIZES} == SIZES
    tasks = {task.name: task for task in benchmark(FOLDER)}
    assert set(loaded["paper"].tasks) == set(tasks)
    for name in SIZES:
        for slug in loaded[name].tasks:
            assert name in tasks[slug].suites
            data = loaded[name].part(DATA, "tasks", slug, "data")
            assert (data.source, data.dataset) == (tasks[slug].source, tasks[slug].dataset)


@pytest.mark.parametrize("name", ["paper", "o2o"])
def test_every_cell_has_the_published_values(loaded: dict[str, SettingsFile], name: str) -> None:
    files = ("settings_online.csv", "settings.csv") if name == "o2o" else ("settings.csv",)
    values, known = loaded[name], hyperparameters(FOLDER, files)
    for task in benchmark(FOLDER):
        if name not in task.suites:
            continue
        found = of_dataset(known, task.dataset)
        own = {(item.method, item.section, item.key): item.value for item in found}
        for method in values.methods:
            for section, model in SECTIONS.items():
                of_method = method if section == "refine" else None
                wanted = {key: value for (of, part, key), value in own.items() if (of, part) == ("all", section)}
                wanted |= {key: value for (of, part, key), value in own.items() if (of, part) == (method, section)}
                given = values.section(model, section, task.name, of_method).model_dump(mode="json")
                assert {key: given[key] for key in wanted} == wanted, (task.name, method)


def test_methods_with_a_weight_of_their_own_have_one_for_every_task() -> None:
    known = hyperparameters(FOLDER)
    for task in benchmark(FOLDER):
        keys = {(item.method, item.key) for item in of_dataset(known, task.dataset)}
        wanted = {("fql", "alpha"), ("rebrac", "rebrac_alpha"), ("rebrac", "rebrac_alpha_critic")}
        assert wanted | {("all", "target_divergence"), ("deflow", "target_divergence")} <= keys, task.name


def test_protocol_of_the_papers(loaded: dict[str, SettingsFile]) -> None:
    values = loaded["paper"]
    last = {}
    for task in benchmark(FOLDER):
        refine = values.section(Refine, "refine", task.name)
        evaluate = values.section(Evaluate, "evaluate", task.name)
        network = values.section(Network, "network", task.name)
        assert (refine.evaluate_every, evaluate.episodes) == (100_000, 50)
        last.setdefault(task.suites[0], set()).add((refine.steps, evaluate.final_evaluations))
        assert (network.encoder, network.frame_stack) == (((16, 32, 32), 3) if len(task.observation) == 3 else ((), 1))
    short = {name: {(500_000, 1)} for name in ("d4rl-antmaze", "d4rl-adroit")}
    assert last == {"ogbench-state": {(1_000_000, 3)}, "ogbench-pixel": {(500_000, 3)}} | short
    assert (len(values.seeds), len(loaded["ogbench-pixel"].seeds)) == (8, 4)


def test_a_task_says_where_methods_do_not_share_the_normalisation_of_q() -> None:
    """deflow's settings normalise Q, those of the others do not; its comment stands above the methods of every task."""
    said = "# normalize_q differs: true for deflow, false for the other methods"
    for name in ("paper", "d4rl-adroit"):
        settings = parse_settings(TEXTS[name], name)
        assert TEXTS[name].count(said) == len(settings.tasks)
    assert said not in TEXTS["quick"]


def test_online_suite_goes_on_with_every_task(loaded: dict[str, SettingsFile]) -> None:
    values = loaded["o2o"]
    assert set(values.at("online", "tasks")) == set(values.tasks)
    assert {values.section(Refine, "refine", task).steps for task in values.tasks} == {1_000_000}
    assert values.section(Refine, "refine", "pen-cloned", "fql").alpha == 1000  # 10,000 offline
    assert loaded["paper"].section(Refine, "refine", "pen-cloned", "fql").alpha == 10_000


def test_every_value_of_a_task_names_its_source() -> None:
    for line in TEXTS["paper"].split("\nmethods:\n")[0].splitlines():
        if ": " in line and not line.startswith(("suite", "seeds", "#")) and not line.endswith(": {}"):
            key = line.split(":")[0].strip()
            assert "  # " in line or key in ("source", "dataset", "horizon", "score", "online"), line


def select(name: str, target: Path, *options: str) -> None:
    folders = ["--suites", str(ROOT / "suites"), "--reference", str(FOLDER)]
    CliRunner().invoke(app, ["suite", name, "--params", str(target), *folders, *options], catch_exceptions=False)


def test_selecting(tmp_path: Path) -> None:
    target = tmp_path / "params.yaml"
    select("quick", target)
    select("d4rl-antmaze", target)
    assert target.read_text(encoding="utf-8") == TEXTS["d4rl-antmaze"]
    edited = TEXTS["d4rl-antmaze"].replace("seeds: [0", "seeds: [70")
    target.write_text(edited, encoding="utf-8")
    with pytest.raises(
        FdError,
        match=r"has local edits, it equals none of ablation, .*, quick; copy it elsewhere, or overwrite it with `fidec suite quick --force`",
    ):
        select("quick", target)
    assert target.read_text(encoding="utf-8") == edited
    select("quick", target, "--force")
    assert read_settings(target).suite == "quick"


def dvc_writes(text: str, folder: Path) -> str:
    """The text after an experiment of DVC: other lines, the same values and comments."""
    path = folder / "experiment.yaml"
    path.write_text(text, encoding="utf-8")
    apply_overrides(str(path), ["report.seed=0"])
    return path.read_text(encoding="utf-8")


REWRITTEN: dict[str, Callable[[str, Path], str]] = {
    "line ends of Windows": lambda text, _: text.replace("\n", "\r\n"),
    "a byte order mark": lambda text, _: f"\ufeff{text}",
    "both": lambda text, _: "\ufeff" + text.replace("\n", "\r\n"),
    "blanks at the ends of lines": lambda text, _: text.replace("\n", "  \n"),
    "no last line end": lambda text, _: text.rstrip(),
    "an experiment of DVC": dvc_writes,
}


@pytest.mark.parametrize("rewritten", REWRITTEN)
@pytest.mark.parametrize("suite", ["quick", "d4rl-antmaze"])
def test_another_layout_is_no_edit(rewritten: str, suite: str, tmp_path: Path) -> None:
    target = tmp_path / "params.yaml"
    text = REWRITTEN[rewritten](TEXTS[suite], tmp_path)
    assert text != TEXTS[suite]
    target.write_bytes(text.encode())
    select("ci", target)
    assert target.read_text(encoding="utf-8") == TEXTS["ci"]


@pytest.mark.parametrize("edit", [("# Adam", "# adam, I think"), ("seed: 0 ", "seed: 1 "), ("suite: quick", "suite: x"), ("seeds:", "- :")])  # fmt: skip
def test_an_edit_is_kept_whatever_the_layout(edit: tuple[str, str], tmp_path: Path) -> None:
    target = tmp_path / "params.yaml"
    assert edit[0] in TEXTS["quick"]
    content = TEXTS["quick"].replace(*edit).replace("\n", "\r\n").encode()
    target.write_bytes(content)
    with pytest.raises(FdError, match=r"params\.yaml: has local edits"):
        select("ci", target)
    assert target.read_bytes() == content


def test_line_ends_and_a_byte_order_mark_of_tables_mean_nothing(tmp_path: Path) -> None:
    for name in ("suites", "reference", "baseline"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for path in (path for path in tmp_path.rglob("*") if path.is_file()):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    assert benchmark(tmp_path / "reference") == benchmark(FOLDER)
    assert hyperparameters(tmp_path / "reference") == hyperparameters(FOLDER)
    assert load_reference(tmp_path / "reference") == load_reference(FOLDER)
    assert load_baseline(tmp_path / "baseline" / "ci.json") == load_baseline(ROOT / "baseline" / "ci.json")
    texts = suites.suite_texts(tmp_path / "suites", tmp_path / "reference")
    assert {name: text.splitlines() for name, text in texts.items()} == {
        name: text.splitlines() for name, text in TEXTS.items()
    }


def test_git_changes_no_line_end() -> None:
    """DVC compares the bytes of files, so a clone has the same ones whatever core.autocrlf says."""
    if not (ROOT / ".git").exists():
        pytest.skip("no Git repository")
    told = subprocess.run(["git", "ls-files", "--eol"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told and [line for line in told.splitlines() if "attr/-text" not in line] == []


@pytest.mark.parametrize("name", ["papers", "../quick", "benchmark/settings", ""])
def test_unknown_suite_is_told(tmp_path: Path, name: str) -> None:
    with pytest.raises(FdError, match=f"'{name}' does not exist, allowed: ablation, .*ogbench-state, paper, quick"):
        select(name, tmp_path / "params.yaml")
    assert not list(tmp_path.iterdir())


def test_a_suite_without_tasks_and_a_bad_value_are_told(tmp_path: Path) -> None:
    folder = tmp_path / "suites" / "benchmark"
    folder.mkdir(parents=True)
    shared = (ROOT / "suites" / "benchmark" / "settings.yaml").read_text(encoding="utf-8")
    (folder / "settings.yaml").write_text(shared, encoding="utf-8")
    (folder / "suites.csv").write_text("suite,seeds,settings,online,about\nnone,0 1,settings.csv,,Nothing.\n")
    with pytest.raises(FdError, match=r"suites.csv:2: suite 'none', allowed: one that .*tasks.csv names"):
        suites.suite_texts(tmp_path / "suites", FOLDER)
    (folder / "suites.csv").write_text("suite,seeds,settings,online,about\npaper,0 0,settings.csv,,Twice the same.\n")
    text = suites.suite_texts(tmp_path / "suites", FOLDER)["paper"]
    with pytest.raises(FdError, match=r"^suite paper: seeds: duplicate 0, allowed: each once$"):
        parse_settings(text, "suite paper")


def test_no_number_is_text_to_a_reader_of_yaml() -> None:
    for name, text in TEXTS.items():
        assert not re.search(r"[:,\[] *[0-9]+e", text), (
            name
        )  # a number has a point, so that YAML 1.1 readers take it for one, too


def test_checking_settings(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["check", "--params", str(ROOT / "params.yaml")], catch_exceptions=False)
    assert (
        "suite quick; tasks: 3, seeds: 3, cells to refine and evaluate: 12; methods: bc, fql, deflow, fidec"
        in result.output
    )
    (tmp_path / "params.yaml").write_text(TEXTS["quick"].replace("&residual", ""), encoding="utf-8")
    with pytest.raises(FdError, match=r"params\.yaml: not YAML: found undefined alias 'residual' in line \d+$"):
        CliRunner().invoke(app, ["check", "--params", str(tmp_path / "params.yaml")], catch_exceptions=False)

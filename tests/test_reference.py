"""The published scores as they are stored, and the rule for when one may stand beside ours."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from fd.errors import FdError
from fd.reference.d4rl_files import FILE_COLUMNS, d4rl_files
from fd.reference.hyperparameters import SETTING_COLUMNS, hyperparameters
from fd.reference.published import METHODS, PROTOCOL_COLUMNS, SCORE_COLUMNS, Setting, compare_published, load_reference
from fd.reference.tasks import TASK_COLUMNS, benchmark, find_task

FOLDER = Path(__file__).parent.parent / "reference"
TASK1 = Setting("cube-single-play-singletask-task1-v0", "ogbench", None, (800000, 900000, 1000000), 50, "post")
MINARI = {"dataset": "D4RL/antmaze/umaze-v1", "source": "minari"}
ALL = tuple(METHODS)


def test_same_data_and_protocol_are_comparable() -> None:
    comparison = compare_published(load_reference(FOLDER), TASK1, ["bc", "fql", "fidec"])
    assert [(figure.method, figure.mean, figure.spread) for figure in comparison.figures] == [("FQL", 97, 2)]
    assert comparison.figures[0].source == "FQL paper, arXiv 2502.02538, Table 3"
    assert comparison.note == "published scores of the same data and protocol"


def test_other_methods_of_the_table() -> None:
    comparison = compare_published(load_reference(FOLDER), TASK1, ALL)
    assert {figure.method for figure in comparison.figures} == {"FQL", "IFQL", "IQL", "ReBRAC"}


def test_bc_of_the_papers_is_another_method() -> None:
    comparison = compare_published(load_reference(FOLDER), TASK1, ["bc"])
    assert comparison.figures == () and comparison.note == "no published score for these methods"


def test_pixel_tasks_have_their_own_steps() -> None:
    pixels = replace(TASK1, dataset="visual-" + TASK1.dataset, final_steps=(300000, 400000, 500000))
    assert [figure.mean for figure in compare_published(load_reference(FOLDER), pixels, ["fql"]).figures] == [81]
    assert (
        compare_published(load_reference(FOLDER), replace(pixels, final_steps=TASK1.final_steps), ["fql"]).figures == ()
    )


def test_timing_of_the_reward_is_told() -> None:
    comparison = compare_published(load_reference(FOLDER), replace(TASK1, success_timing="pre"), ["fql"])
    assert len(comparison.figures) == 1
    assert comparison.note.endswith("their rewards have success_timing post, ours pre")


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"source": "generate"}, "the data are regenerated, not the published set of that name: no published score"),
        ({"final_steps": (1000000,)}, "no published score has this protocol (50 episodes at steps 1000000)"),
        ({"final_steps": (15000, 20000, 25000)}, "no published score has this protocol"),
        ({"episodes": 20}, "no published score has this protocol (20 episodes at steps 800000, 900000, 1000000)"),
        ({"source": "d4rl", "verified": False}, "the file is not verified, its SHA-256 is not known to be that of"),
        ({"source": "d4rl", "verified": False, "differs": "replayed"}, "replayed: no published score is comparable"),
        ({"source": "d4rl", "differs": "replayed"}, "replayed: no published score is comparable"),
        ({"dataset": "cube-single-play-v0"}, "there is no published score for this data set"),
        (MINARI, "there is no published score for this data set"),
        (MINARI | {"differs": "recorded anew"}, "recorded anew: no published score is comparable"),
        ({"differs": "another simulator"}, "another simulator: no published score is comparable"),
        ({"dataset": "antmaze-umaze-v2", "source": "minari"}, "no published score has this protocol"),
        ({"source": "generate", "dataset": "fd/pointmaze/umaze-v0"}, "there is no published score for this data set"),
    ],
)
def test_anything_else_is_not_comparable(change: dict[str, object], note: str) -> None:
    comparison = compare_published(load_reference(FOLDER), replace(TASK1, **change), ALL)
    assert comparison.figures == () and note in comparison.note


def test_stored_figures() -> None:
    reference = load_reference(FOLDER)
    assert len(reference.figures) == 918
    assert not any(
        figure.secondary for figure in reference.figures
    )  # second-hand figures are of families and the whole
    assert (len(reference.families), len(reference.aggregates)) == (284, 3)
    secondary = {figure.method for figure in (*reference.families, *reference.aggregates) if figure.secondary}
    assert secondary == {"FiDec", "FAC", "floq (best)", "floq (default)"}
    assert {figure.method for figure in reference.figures} >= {"FQL", "IFQL", "IQL", "ReBRAC"}
    sources = {figure.source for figure in reference.figures}
    assert {protocol.source for protocol in reference.protocols} <= sources


def test_stored_settings_are_yaml() -> None:
    values = yaml.safe_load((FOLDER / "hyperparameters.yaml").read_text())
    assert values["FQL"]["alpha"]["cube-single"] == 300


def published(scope: str, protocol: str) -> set[str]:
    """Names of scores.csv."""
    with (FOLDER / "scores.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"] for row in csv.DictReader(file) if (row["scope"], row["protocol"]) == (scope, protocol)}


def test_benchmark_has_the_names_of_the_published_tables() -> None:
    tasks = benchmark(FOLDER)
    assert len(tasks) == 73
    assert {task.published for task in tasks} == published("task", "offline")
    assert {task.family for task in tasks} == published("family", "offline")
    online = {task.published_o2o for task in tasks if task.published_o2o}
    assert online == published("task", "o2o_start_1M") == published("task", "o2o_end_2M")


def test_task_of_either_name() -> None:
    tasks = benchmark(FOLDER)
    for name in ("D4RL/pen/human-v2", "pen-human-v1"):
        assert (task := find_task(tasks, name)) and task.name == "pen-human" and task.horizon == 100
    assert find_task(tasks, "pen-human-v2") is None


def test_every_task_of_d4rl_has_a_file() -> None:
    files = d4rl_files(FOLDER)
    assert set(files) == {task.published for task in benchmark(FOLDER) if task.source == "minari"}
    assert {name for name, file in files.items() if not file.sha256} == {"relocate-human-v1", "relocate-expert-v1"}
    for name, file in files.items():  # D4RL's infos.py names the files of Adroit as the sets, those of AntMaze by maze
        maze = {"umaze": "u", "medium": "big", "large": "hardest"}.get(name.split("-")[1])
        assert file.file == f"{name}.hdf5" if maze is None else file.file.startswith(f"Ant_maze_{maze}-maze_noisy_")
    assert len({file.file for file in files.values()}) == len(files)
    assert len({file.sha256 for file in files.values() if file.sha256}) == len(files) - 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a-v1,a.hdf5,0f,here", "d4rl_files.csv:2: sha256 '0f', allowed: 64 hexadecimal digits and their source"),
        (f"a-v1,a.hdf5,{'0' * 64},", "d4rl_files.csv:2: sha256 '0000"),
        ("a-v1,a.hdf5,,here", "d4rl_files.csv:2: sha256 '', allowed: 64 hexadecimal digits"),
        ("a-v1,a.hdf5,,\na-v1,b.hdf5,,", "d4rl_files.csv:3: duplicate data set 'a-v1', allowed: each once"),
        ("a-v1,a.hdf5", "d4rl_files.csv:2: 4 values are needed"),
    ],
)
def test_a_broken_table_of_files_is_named(tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "d4rl_files.csv").write_text(",".join(FILE_COLUMNS) + f"\n{rows}\n")
    with pytest.raises(FdError, match=re.escape(message)):
        d4rl_files(tmp_path)


def test_shapes_and_horizons_are_those_of_ogbench() -> None:
    table = {
        "antmaze-large": ((29,), 8, 1000),
        "antmaze-giant": ((29,), 8, 1000),
        "humanoidmaze-medium": ((69,), 21, 2000),
        "humanoidmaze-large": ((69,), 21, 2000),
        "antsoccer-arena": ((42,), 8, 1000),
        "cube-single": ((28,), 5, 200),
        "cube-double": ((37,), 5, 500),
        "scene": ((40,), 5, 750),
        "puzzle-3x3": ((55,), 5, 500),
        "puzzle-4x4": ((83,), 5, 500),
    }
    tasks = [task for task in benchmark(FOLDER) if task.source == "ogbench"]
    for task in tasks:
        name = task.dataset.removeprefix("visual-").split("-navigate")[0].split("-play")[0]
        shape, actions, horizon = table[name]
        pixels = task.dataset.startswith("visual-")
        assert (task.observation, task.actions, task.horizon) == ((64, 64, 3) if pixels else shape, actions, horizon)


TASK = "a,s,f,ogbench,a-v0,a-v0,,3,2,10,success,here"
SETTING = "*,all,refine.tau,0.1,paper"


@pytest.mark.parametrize(
    ("tasks", "settings", "message"),
    [
        (TASK.replace(",10,", ",ten,"), SETTING, "tasks.csv:2: 'ten' is not a number"),
        (f"{TASK}\n{TASK}", SETTING, "tasks.csv:3: duplicate task 'a', allowed: each once"),
        (TASK, SETTING.replace("refine.", ""), "settings.csv:2: key 'tau' of method 'all', allowed: "),
        (
            TASK,
            SETTING.replace("all,refine", "fql,evaluate"),
            "settings.csv:2: key 'evaluate.tau' of method 'fql', allowed: ",
        ),
        (TASK, SETTING.replace("0.1", "[0.1"), "settings.csv:2: not YAML: "),
    ],
)
def test_broken_tasks_and_settings_are_named(tmp_path: Path, tasks: str, settings: str, message: str) -> None:
    (tmp_path / "tasks.csv").write_text(",".join(TASK_COLUMNS) + f"\n{tasks}\n")
    (tmp_path / "settings.csv").write_text(",".join(SETTING_COLUMNS) + f"\n{settings}\n")
    with pytest.raises(FdError, match=re.escape(message)):
        benchmark(tmp_path)
        hyperparameters(tmp_path)


SCORE = "FQL,task,x-v0,offline,97,2,std,8,paper,primary"
PROTOCOL = "paper,*,100 200,50,post"


@pytest.mark.parametrize(
    ("scores", "protocols", "message"),
    [
        (SCORE.replace("97", "high"), PROTOCOL, "scores.csv:2: 'high' is not a number"),
        (SCORE.replace(",2,", ",wide,"), PROTOCOL, "scores.csv:2: 'wide' is not a number"),
        (SCORE.removesuffix(",primary"), PROTOCOL, "scores.csv:2: 10 values are needed"),
        (SCORE + ",more", PROTOCOL, "scores.csv:2: 10 values are needed"),
        (SCORE.replace("task", "tasks"), PROTOCOL, "scores.csv:2: scope 'tasks', allowed: task, family, aggregate"),
        (SCORE, PROTOCOL.replace("100", "some"), "protocols.csv:2: 'some' is not a number"),
        (SCORE, PROTOCOL.replace("50", ""), "protocols.csv:2: '' is not a number"),
    ],
)
def test_broken_tables_are_named(tmp_path: Path, scores: str, protocols: str, message: str) -> None:
    (tmp_path / "scores.csv").write_text(",".join(SCORE_COLUMNS) + f"\n{scores}\n")
    (tmp_path / "protocols.csv").write_text(",".join(PROTOCOL_COLUMNS) + f"\n{protocols}\n")
    with pytest.raises(FdError, match=re.escape(message)):
        load_reference(tmp_path)


def test_missing_table_and_column(tmp_path: Path) -> None:
    with pytest.raises(FdError, match=r"scores\.csv: cannot be read: No such file"):
        load_reference(tmp_path)
    (tmp_path / "scores.csv").write_text("method,mean\n")
    with pytest.raises(FdError, match=r"scores\.csv: columns 'method,mean', allowed: 'method,scope"):
        load_reference(tmp_path)

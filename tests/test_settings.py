"""Published hyperparameters: each is a value of the section `refine` and stands in the transcript that it is drawn from."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from fd.cli.program import app
from fd.errors import FdError
from fd.reference.d4rl_files import d4rl_files
from fd.reference.hyperparameters import hyperparameters, of_dataset
from fd.settings.data_settings import DATA, D4rlData
from fd.settings.online_settings import Finetuning
from fd.settings.refine_settings import Refine
from fd.settings.settings_file import read_settings
from fd.settings.simulation_settings import Evaluate
from fd.settings.training_settings import Network, Pretrain

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "reference"
TRANSCRIPT: dict[str, Any] = yaml.safe_load((FOLDER / "hyperparameters.yaml").read_text(encoding="utf-8"))
FAMILIES = [name for name in TRANSCRIPT["FQL"]["alpha"] if "-" in name and " " not in name and "/" not in name]
DATASETS = [
    "antmaze-large-navigate-singletask-task1-v0",
    "humanoidmaze-medium-navigate-singletask-task2-v0",
    "antsoccer-arena-navigate-singletask-task4-v0",
    "cube-single-play-singletask-task1-v0",
    "puzzle-4x4-play-singletask-task4-v0",
    "visual-scene-play-singletask-task1-v0",
    "D4RL/antmaze/umaze-v1",
    "D4RL/pen/human-v2",
]


def values(dataset: str) -> dict[tuple[str, str], Any]:
    return {
        (item.method, item.key): item.value
        for item in of_dataset(hyperparameters(FOLDER), dataset)
        if item.section == "refine"
    }


def printed(dataset: str, *more: str) -> str:
    arguments = ["--dataset", dataset, "--reference", str(FOLDER), "--params", str(ROOT / "params.yaml"), *more]
    return CliRunner().invoke(app, ["task", *arguments], catch_exceptions=False).output


@pytest.mark.parametrize("dataset", DATASETS)
def test_printed_entry_is_a_task(dataset: str, tmp_path: Path) -> None:
    settings = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    settings["film"] = {"tasks": [], "methods": []}
    settings["tasks"] = yaml.safe_load(printed(dataset))
    settings["refine"] |= {"log_every": 1000}
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    (name,) = settings["tasks"]
    refine = read_settings(path).section(Refine, "refine", name)
    assert refine.discount in (0.99, 0.995) and refine.steps in (500_000, 1_000_000) and refine.learning_rate == 3e-4


# Of a D4RL file, beside source, dataset, folder and file.
PEN: dict[str, Any] = {
    "environment": "AdroitHandPen-v1",
    "observation": (),
    "reward": "dense",
    "cut_at_success": False,
    "maze": None,
    "horizon": 100,
    "score": "return",
    "return_range": (96.262799, 3076.8331017826877),
    "differs": None,
}
UMAZE: dict[str, Any] = PEN | {
    "environment": "AntMaze_UMaze-v4",
    "observation": ("achieved_goal", "observation"),
    "reward": "sparse",
    "maze": {"start": (1, 1), "goal": (3, 1)},
    "horizon": 700,
    "score": "success",
    "return_range": None,
}
BIG: dict[str, Any] = {"horizon": 1000, "environment": "AntMaze_Medium-v4", "maze": {"start": (1, 1), "goal": (6, 6)}}
D4RL: dict[str, dict[str, Any]] = {
    "pen-expert-v1": PEN,
    "door-human-v1": PEN
    | {"environment": "AdroitHandDoor-v1", "horizon": 200, "return_range": (-56.512833, 2880.5693087298737)},
    "antmaze-umaze-v2": UMAZE,
    "antmaze-umaze-diverse-v2": UMAZE,
    "antmaze-medium-diverse-v2": UMAZE | BIG,
    "antmaze-large-play-v2": UMAZE
    | {"environment": "AntMaze_Large-v4", "horizon": 1000, "maze": {"start": (1, 1), "goal": (7, 9)}},
}


@pytest.mark.parametrize("dataset", d4rl_files(FOLDER))
def test_printed_entry_of_a_file_of_d4rl_is_whole_and_passes_the_check(dataset: str, tmp_path: Path) -> None:
    """Pasted into the committed settings as it is printed."""
    entry = printed(dataset, "--source", "d4rl")
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text(encoding="utf-8").replace("\ntasks:\n", f"\ntasks:\n{entry}", 1))
    assert "tasks: 4," in CliRunner().invoke(app, ["check", "--params", str(path)], catch_exceptions=False).output
    ((name, values),) = yaml.safe_load(entry).items()
    data = read_settings(path).part(DATA, "tasks", name, "data").model_dump()
    assert set(values["data"]) == set(data) == set(D4rlData.model_fields)
    assert (data["source"], data["dataset"], data["folder"]) == ("d4rl", dataset, "~/.d4rl/datasets")
    assert data["file"] == d4rl_files(FOLDER)[dataset].file
    if dataset in D4RL:
        assert {key: data[key] for key in D4RL[dataset]} == D4RL[dataset]
    assert values["refine"]["steps"] == 500_000 and "alpha" in values["methods"]["fql"]


def test_a_task_has_the_sources_that_it_has() -> None:
    assert printed("pen-expert-v1", "--source", "minari") == printed("pen-expert-v1")
    assert printed("D4RL/pen/expert-v2", "--source", "d4rl") == printed("pen-expert-v1", "--source", "d4rl")
    with pytest.raises(FdError, match=r"^--source: 'tfds', allowed for pen-expert-v1: minari, d4rl$"):
        printed("pen-expert-v1", "--source", "tfds")
    with pytest.raises(FdError, match=r"^--source: 'd4rl', allowed for cube-single-play-.*-task1-v0: ogbench$"):
        printed("cube-single-play-singletask-task1-v0", "--source", "d4rl")


@pytest.mark.parametrize(
    ("dataset", "near"),
    [
        ("cube-single", ""),
        ("../cube-single-play-singletask-task1-v0", "; nearest: cube-single-play-singletask-task1-v0"),
        ("D4RL/pen/human-v1", "; nearest: D4RL/pen/human-v2"),
    ],
)
def test_a_dataset_of_no_task_is_told(dataset: str, near: str) -> None:
    with pytest.raises(
        FdError, match=rf"^--dataset: '{dataset}', allowed: a dataset or published name of .*tasks\.csv{near}$"
    ):
        printed(dataset)


@pytest.mark.parametrize("family", [name for name in FAMILIES if name in TRANSCRIPT["DeFlow"]["target_divergence"]])
def test_values_are_those_of_the_transcript(family: str) -> None:
    found = values(f"{family}-some-singletask-task1-v0")
    assert found["fql", "alpha"] == TRANSCRIPT["FQL"]["alpha"][family]
    assert found["deflow", "target_divergence"] == TRANSCRIPT["DeFlow"]["target_divergence"][family]
    assert found["all", "target_divergence"] == TRANSCRIPT["FiDec_official_code"]["target_divergence"][family]
    slow = family == "antmaze-giant" or family.startswith(("humanoidmaze", "antsoccer"))
    assert found["all", "discount"] == (0.995 if slow else 0.99)
    assert found["all", "q_agg"] == ("min" if family in ("antmaze-large", "antmaze-giant") else "mean")
    baseline = TRANSCRIPT["baselines_per_family"]["values"].get(family)
    if baseline:
        rebrac = f"({found['rebrac', 'rebrac_alpha']:g},{found['rebrac', 'rebrac_alpha_critic']:g})"
        assert (rebrac, f"{found['iql', 'iql_alpha']:g}") == (baseline["ReBRAC_a1a2"], baseline["IQL_alpha"])


def test_every_row_has_a_source_and_a_known_key() -> None:
    sections = {
        "network": Network,
        "pretrain": Pretrain,
        "refine": Refine,
        "evaluate": Evaluate,
    }
    sections |= {"data": D4rlData, "online": Finetuning}
    known = {f"{name}.{key}" for name, section in sections.items() for key in section.model_fields}
    for name in ("settings.csv", "settings_online.csv"):
        with (FOLDER / name).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert {row["key"] for row in rows} <= known and all(row["source"] for row in rows)


def test_quick_suite_has_the_published_weight_of_fql_on_cube_single() -> None:
    settings = read_settings(ROOT / "params.yaml").section(Refine, "refine", "cube-single")
    assert settings.alpha == values("cube-single-play-singletask-task1-v0")["fql", "alpha"]

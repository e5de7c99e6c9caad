"""The stage `evaluate` on a run with fresh weights, in a real simulator."""

from __future__ import annotations

import csv
import json
import multiprocessing
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
import yaml
from edits import program

from fd.errors import FdError
from fd.method.agent import Agent
from fd.method.spec import Spec
from fd.policy import Policy, snapshot_name
from fd.results import episode_scores
from fd.settings.settings_file import read_settings
from fd.settings.simulation_settings import Act
from fd.simulation import evaluation
from fd.simulation.episodes import Episode
from fd.simulation.evaluation import episode_score
from fd.simulation.rollout import Rollout
from fd.storage import transitions
from fd.storage.files import write_record
from fd.storage.transitions import Manifest
from fd.training.snapshot import write_snapshot
from stages import evaluate

MANIFEST = Manifest(
    source="generate", dataset="tests/reacher-v0", collector="none",
    environment={"suite": "minari", "spec": json.loads(gymnasium.spec("Reacher-v5").to_json()), "observation": []},
    horizon=8, score="return", return_range=[-20.0, 0.0], success_timing="post", versions={}, seed=0, episodes=1,
    validation_episodes=0, files={}, transitions=1, obs_shape=[10], act_dim=2, successes=0, reward_sum=0.0, sha256={},
)  # fmt: skip
SEEDS, STEPS, EPISODES = (5, 2), (10, 20), 3
ACTS = ({"best_of": 1, "refinements": 1}, {"best_of": 3, "refinements": 2}, {"best_of": 1, "refinements": 2})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with settings, the manifest of a task and a run of two seeds and two snapshots."""
    monkeypatch.chdir(tmp_path)
    values = yaml.safe_load((Path(__file__).parent.parent / "params.yaml").read_text())
    data = next(iter(values["tasks"].values()))["data"]
    sections: dict[str, Any] = {"network": {}, "pretrain": {}, "refine": {}}
    values["seeds"], values["compute"] = list(SEEDS), {**values["compute"], "device": "cpu", "workers": 1}
    values["film"] = {"tasks": [], "methods": []}
    values["tasks"] = {
        "reacher": {
            "data": data,
            **sections,
            "evaluate": {"episodes": EPISODES, "environments": 4, "timeout": 60.0},
            "methods": {},
        }
    }
    Path("params.yaml").write_text(yaml.safe_dump(values))
    write_manifest(MANIFEST)
    write_run(SEEDS)
    return tmp_path


def write_manifest(manifest: Manifest) -> None:
    Path("data/reacher").mkdir(parents=True, exist_ok=True)
    values = {field: getattr(manifest, field) for field in manifest.__dataclass_fields__}
    write_record(Path("data/reacher", transitions.MANIFEST), values | {"arrays": "00"})


def write_run(seeds: tuple[int, ...], *, obs_dim: int = 10, broken: bool = False) -> None:
    values = yaml.safe_load(Path("params.yaml").read_text())
    shapes = {"obs_shape": (obs_dim,), "act_dim": 2, "hidden": [16, 16]}
    train = values["methods"]["fidec"]["train"] | {"behaviour": "joint"}
    spec = Spec.of(values["network"], values["refine"], train, shapes)
    folder = Path("runs/reacher/fidec")
    folder.mkdir(parents=True, exist_ok=True)
    for step in STEPS:
        agent = Agent(spec, [torch.Generator().manual_seed(seed + step) for seed in seeds])
        if broken:
            agent.policy.biases[2].data[1] = torch.nan
        origin = {"task": "reacher", "method": "fidec", "data_sha256": MANIFEST.sha256}
        write_snapshot(folder, agent, step=step, seeds=seeds, origin=origin)


def change(**sections: dict[str, Any]) -> None:
    """Change keys of sections of the settings."""
    values = yaml.safe_load(Path("params.yaml").read_text())
    Path("params.yaml").write_text(
        yaml.safe_dump(values | {name: values[name] | keys for name, keys in sections.items()})
    )


def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, **options: str) -> tuple[int, str]:
    """Exit code and standard error of the stage as a program."""
    arguments = {"task": "reacher", "method": "fidec"} | options
    code = program(monkeypatch, evaluate.app, *(f"--{key}={value}" for key, value in arguments.items()))
    assert multiprocessing.active_children() == []
    return code, capsys.readouterr().err


@dataclass
class Watched:
    """What real pools are asked for; a fault after their first snapshot, where a test wants one."""

    steps: list[tuple[int, ...]] = field(default_factory=list)  # of the snapshots, a tuple for each run
    noise: list[int] = field(default_factory=list)  # width of a row of noise
    fault: bool = False


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    found, start, run_pool = Watched(), Rollout.__init__, Rollout.run

    def started(self: Rollout, *args: Any, noise_dim: int, **more: Any) -> None:
        found.noise.append(noise_dim)
        start(self, *args, noise_dim=noise_dim, **more)

    def told(self: Rollout, steps: Sequence[int], **more: Any) -> Iterator[tuple[int, list[Episode]]]:
        found.steps.append(tuple(steps))
        for step, rows in run_pool(self, steps, **more):
            yield step, rows
            if found.fault:
                raise FdError("reacher: the environment fails")

    monkeypatch.setattr(Rollout, "__init__", started)
    monkeypatch.setattr(Rollout, "run", told)
    return found


def test_the_table_has_a_row_an_episode_whatever_the_workers(project: Path, capsys: Any, monkeypatch: Any) -> None:
    tables = []
    for workers in (1, 2):
        change(compute={"workers": workers})
        assert run(capsys, monkeypatch)[0] == 0
        tables.append(Path("evals/reacher/fidec.csv").read_bytes())
    assert tables[0] == tables[1]
    with Path("evals/reacher/fidec.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == evaluation.COLUMNS == episode_scores.COLUMNS
    expected = [(seed, step, episode) for seed in (2, 5) for step in STEPS for episode in range(EPISODES)]
    assert [(int(row["seed"]), int(row["step"]), int(row["episode"])) for row in rows] == expected
    assert len({row["return"] for row in rows}) == len(rows)
    for row in rows:
        assert float(row["score"]) == 100 * (float(row["return"]) + 20) / 20
        assert (row["success"], row["length"]) == ("0", "8")
    record = json.loads(Path("evals/reacher/fidec.json").read_text())
    assert record["simulated_steps"] == len(rows) * 8
    assert record["steps_per_second"] > 0 and record["seconds"] > 0 and record["machine"]["cores"] > 0
    assert {"mujoco", "gymnasium", "torch"} <= set(record["versions"])
    assert sorted(path.name for path in Path("evals/reacher").iterdir()) == ["fidec.csv", "fidec.json"]
    assert list(Path(".scratch").glob("evaluate-*")) == []


def test_an_evaluation_that_fails_goes_on_from_its_finished_snapshots(
    project: Path, capsys: Any, monkeypatch: Any, watched: Watched
) -> None:
    assert run(capsys, monkeypatch, out="one")[0] == 0
    watched.fault = True
    code, error = run(capsys, monkeypatch, out="two")
    assert (code, error.splitlines()[-1]) == (2, "error: reacher: the environment fails")
    assert not Path("two").exists()
    watched.fault = False
    assert run(capsys, monkeypatch, out="two")[0] == 0
    assert watched.steps == [(10, 20), (10, 20), (20,)]
    assert Path("two/reacher/fidec.csv").read_bytes() == Path("one/reacher/fidec.csv").read_bytes()


def test_rows_kept_of_another_run_or_way_to_act_are_not_used(
    project: Path, capsys: Any, monkeypatch: Any, watched: Watched
) -> None:
    watched.fault = True
    assert run(capsys, monkeypatch)[0] == 2
    values = yaml.safe_load(Path("params.yaml").read_text())
    change(methods={"fidec": values["methods"]["fidec"] | {"act": ACTS[1]}})
    assert run(capsys, monkeypatch)[0] == 2
    Path("params.yaml").write_text(yaml.safe_dump(values))
    write_run((6, 7))
    watched.fault = False
    assert run(capsys, monkeypatch)[0] == 0
    assert watched.steps == [(10, 20)] * 3
    assert {line.split(",")[0] for line in Path("evals/reacher/fidec.csv").read_text().splitlines()[1:]} == {"6", "7"}


def test_a_policy_acts_as_its_method_says(project: Path, capsys: Any, monkeypatch: Any, watched: Watched) -> None:
    """The best of several actions, refined twice: each step has the noise for all of them."""
    folder, found, methods = Path("runs/reacher/fidec"), [], yaml.safe_load(Path("params.yaml").read_text())["methods"]
    obs, tables = torch.randn(2, 4, 10), set[bytes]()
    for how in ACTS:
        change(methods={"fidec": methods["fidec"] | {"act": how}})
        assert run(capsys, monkeypatch)[0] == 0
        tables.add(Path("evals/reacher/fidec.csv").read_bytes())
        assert watched.noise[-1] == 2 * how["best_of"]
        noise = torch.linspace(-2, 2, 8 * watched.noise[-1]).reshape(2, 4, -1)
        acting = read_settings(Path("params.yaml")).part(Act, "methods", "fidec", "act")
        subject = evaluation.Subject("reacher", "fidec", folder, acting, MANIFEST)
        found.append(evaluation.load_actor(subject, torch.device("cpu"), 20)(obs.numpy(), noise.numpy()))
        assert (found[-1] == Policy.load(folder, 20).act(obs, noise, **how).detach().numpy()).all()
    assert not any((found[i] == found[j]).all() for i, j in ((0, 1), (0, 2), (1, 2)))
    assert len(tables) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "walker"}, r"tasks: 'walker' does not exist, allowed: reacher"),
        ({"method": "sac"}, r"methods: 'sac' does not exist, allowed: .*fidec"),
        ({"method": "bc"}, r"runs/reacher/bc: holds no snapshot"),
        ({"data": "nowhere"}, r"nowhere/reacher/manifest.json: no such file"),
        ({"params": "nowhere.yaml"}, r"nowhere.yaml: cannot be read"),
    ],
)
def test_bad_options_are_one_line(
    project: Path, capsys: Any, monkeypatch: Any, options: dict[str, str], message: str
) -> None:
    fails(capsys, monkeypatch, message, **options)


def test_a_run_of_other_shapes_than_its_data_is_named(project: Path, capsys: Any, monkeypatch: Any) -> None:
    write_run(SEEDS, obs_dim=9)
    fails(
        capsys,
        monkeypatch,
        r"runs/reacher/fidec: snapshot 10 has obs_shape \[9\], allowed: \[10\], .* tests/reacher-v0",
    )


def test_a_truncated_snapshot_is_named(project: Path, capsys: Any, monkeypatch: Any) -> None:
    path = Path("runs/reacher/fidec", snapshot_name(20))
    path.write_bytes(path.read_bytes()[:200])
    fails(capsys, monkeypatch, re.escape(str(path)))


def test_a_snapshot_of_another_cell_is_named(project: Path, capsys: Any, monkeypatch: Any) -> None:
    write_manifest(replace(MANIFEST, sha256={"actions": "00"}))
    fails(capsys, monkeypatch, r"runs/reacher/fidec: snapshot 10 was trained on different data")
    write_manifest(MANIFEST)
    shutil.copytree("runs/reacher/fidec", "runs/reacher/bc")
    fails(capsys, monkeypatch, r"runs/reacher/bc: snapshot 10 has method 'fidec', allowed: 'bc'", method="bc")


def test_kept_rows_that_were_changed_are_named(project: Path, capsys: Any, monkeypatch: Any, watched: Watched) -> None:
    watched.fault = True
    assert run(capsys, monkeypatch)[0] == 2
    (kept,) = Path(".scratch").glob("evaluate-*/10.json")
    kept.write_text(kept.read_text().replace("10", "11", 1))
    watched.fault = False
    fails(capsys, monkeypatch, r".*/10.json: is damaged or was changed")


def test_a_policy_that_gives_nan_is_named_by_its_seed_and_step(project: Path, capsys: Any, monkeypatch: Any) -> None:
    write_run(SEEDS, broken=True)
    fails(capsys, monkeypatch, r"reacher: the policy of seed 2, snapshot 10 gave NaN")


def test_a_return_without_a_range_is_an_error(project: Path, capsys: Any, monkeypatch: Any) -> None:
    write_manifest(replace(MANIFEST, return_range=None))
    fails(capsys, monkeypatch, r"tests/reacher-v0: .* return_range None, allowed")


def fails(capsys: Any, monkeypatch: Any, message: str, **options: str) -> None:
    """The stage ends with code 2, one line that matches, and nothing written."""
    code, error = run(capsys, monkeypatch, **options)
    assert code == 2
    assert "Traceback" not in error
    assert re.match(f"error: .*{message}", error.splitlines()[-1])
    assert not Path("evals").exists()


def test_score_is_success_or_normalised_return() -> None:
    episode = Episode(seed=0, step=1, episode=2, return_=-5.0, success=True, length=3)
    assert episode_score(episode, MANIFEST) == 75.0
    assert episode_score(episode, replace(MANIFEST, score="success")) == 100.0
    assert episode_score(replace(episode, success=False), replace(MANIFEST, score="success")) == 0.0

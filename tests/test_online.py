"""Training that goes on online: what is stored, what is drawn, that nothing depends on where it runs, and what is refused."""

from __future__ import annotations

import multiprocessing
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from agents import agent_of
from edits import change_params, contents, refused
from example_suite import MACHINE, edit_record
from safetensors.torch import load_file
from typer import Typer
from typer.testing import CliRunner

from fd.errors import FdError
from fd.networks.adam import Optimiser
from fd.policy import Policy
from fd.reference.published import REGENERATED
from fd.settings.settings_file import SettingsFile, read_settings
from fd.simulation.environments import make, make_env
from fd.simulation.lockstep import Lockstep, Order, StepOutcome
from fd.storage.files import digest, digests, read_record, write_record
from fd.storage.tensors import FLOW, read_tensors
from fd.storage.transitions import ACTION_BOUND, load_transitions, read_manifest
from fd.training.checkpoint import STATE, Checkpoint, load_state
from fd.training.experience import Experience, Label, labelled
from fd.training.online_training import reset_seed
from fd.training.replay import Replay
from stages import evaluate, finetune, refine, report_online

ROOT = Path(__file__).parent.parent
TASK = "umaze"
GOING = {
    "steps": 60, "updates": 1, "batch_size": 16, "balanced": True, "behaviour": "joint", "evaluate_every": 20, "log_every": 10,
}  # fmt: skip


def going(*methods: str, **changes: object) -> Callable[[dict[str, Any]], object]:
    """The change that lets methods go on online."""

    def change(values: dict[str, Any]) -> None:
        values["refine"]["keep_state"] = True
        values["compute"]["workers"] = 1
        values["online"] = {"tasks": {TASK: GOING | changes}, "methods": list(methods), "pages": {"all": [TASK]}}

    return change


def call(app: Typer, *arguments: str) -> None:
    """Run a stage; its FdError is raised."""
    result = CliRunner().invoke(app, arguments)
    if result.exception:
        raise result.exception


def run(method: str, *arguments: str) -> dict[str, bytes]:
    """Files of the folder that finetuning writes."""
    call(finetune.app, "--task", TASK, "--method", method, *arguments)
    folder = Path(dict(zip(arguments[::2], arguments[1::2], strict=True)).get("--out", "online"))
    return contents(folder / TASK / method)


def offline(method: str) -> None:
    call(refine.app, "--task", TASK, "--method", method)


# --- labels ---


@pytest.mark.parametrize(
    ("convention", "outcome", "expected"),
    [
        ("own", StepOutcome(np.zeros(1), -1.0, truncated=True), Label(-1.0, 1.0, True)),
        ("own", StepOutcome(np.zeros(1), 0.0, success=True, terminated=True), Label(0.0, 0.0, True)),
        ("sparse", StepOutcome(np.zeros(1), 0.0), Label(-1.0, 1.0, False)),
        ("sparse", StepOutcome(np.zeros(1), 1.0, success=True), Label(0.0, 0.0, True)),
        ("dense", StepOutcome(np.zeros(1), 7.5, success=True), Label(7.5, 1.0, False)),
        ("dense", StepOutcome(np.zeros(1), 7.5, terminated=True), Label(7.5, 0.0, True)),
    ],
)
def test_labels_follow_the_convention_of_the_data(convention: str, outcome: StepOutcome, expected: Label) -> None:
    assert labelled(outcome, convention) == expected


def test_labels_of_ogbench_are_those_of_its_relabelled_sets() -> None:
    """States at the goal of a maze, just within and just outside its reach, and away: the simulator pays for them what the same states are relabelled with."""
    from ogbench.relabel_utils import relabel_dataset

    name = "pointmaze-medium-singletask-task1-v0"
    env = make(name)
    env.reset(seed=0)
    inner: Any = env.unwrapped
    goal = np.asarray(inner.cur_goal_xy)
    places = [goal + np.array([0.0, tolerances * inner._goal_tol]) for tolerances in (0.0, 0.9, 1.1, 6.0)]
    found = []
    for place in places:
        env.reset(seed=0)
        inner.set_xy(place)
        obs, reward, terminated, truncated, info = env.step(np.zeros(2))
        found.append(labelled(StepOutcome(obs, float(reward), bool(info["success"]), terminated, truncated), "own"))
    rows: dict[str, Any] = {"qpos": np.array(places)}
    relabel_dataset(name, env, rows)
    env.close()
    assert [label.reward for label in found] == rows["rewards"].tolist() == [0, 0, -1, -1]
    assert [label.mask for label in found] == rows["masks"].tolist() == [0, 0, 1, 1]
    assert [label.end for label in found] == [True, True, False, False]


# --- experience ---


def data() -> Replay:
    """Two episodes of three and two transitions; states are their row's number."""
    going = torch.tensor([1, 1, 1, 0, 1, 1, 0.0])
    numbers = torch.arange(7.0)
    first = torch.tensor([0, 0, 0, 0, 4, 4, 4])
    return Replay(
        obs=numbers.unsqueeze(1), act=-numbers.unsqueeze(1), reward=numbers, mask=torch.ones(7), going=going,
        starts=going.nonzero().squeeze(1), first=first,
    )  # fmt: skip


def filled(steps: int = 6, *, balanced: bool = False, room: int = 8) -> Experience:
    """Two seeds whose states are 100 s + step; episodes of seed 0 end after every step, of seed 1 after four."""
    experience = Experience(data(), seeds=2, steps=room, balanced=balanced)
    experience.begin({0: np.zeros(1, np.float32), 1: np.full(1, 100, np.float32)})
    for at in range(1, steps + 1):
        states = np.array([[at], [100 + at]], np.float32)
        labels = [Label(float(at), 0.0, True), Label(-float(at), 1.0, at % 4 == 0)]
        experience.append(states / 1000, states, labels)
        ended = [index for index, found in enumerate(labels) if found.end]
        experience.begin({index: states[index] + 0.5 for index in ended})
    return experience


def test_appended_rows_are_in_time_order_with_a_row_for_the_end_of_an_episode() -> None:
    experience = filled()
    numbers = torch.arange(5, 11).expand(2, -1)  # behind the five transitions of the data
    rows = experience.choose(numbers)
    batch = experience.replay.batch(rows, next_actions=True)
    assert batch.obs.squeeze(2).tolist() == [[0, 1.5, 2.5, 3.5, 4.5, 5.5], [100, 101, 102, 103, 104.5, 105]]
    assert batch.next_obs.squeeze(2).tolist() == [[1, 2, 3, 4, 5, 6], [101, 102, 103, 104, 105, 106]]
    assert batch.reward.tolist() == [[1, 2, 3, 4, 5, 6], [-1, -2, -3, -4, -5, -6]]
    assert batch.mask.tolist() == [[0] * 6, [1] * 6]
    assert batch.next_known is not None and batch.next_known.tolist() == [[0] * 6, [1, 1, 1, 0, 1, 0]]
    assert torch.equal(1000 * batch.act, batch.next_obs)
    assert experience.episodes.tolist() == [6, 1]
    assert [len(actions) for actions in experience.unfinished()] == [0, 2]
    assert experience.states().flatten().tolist() == [6.5, 106]
    firsts = experience.replay.obs[experience.replay.first[rows]].squeeze(2)
    assert firsts.tolist() == [[0, 1.5, 2.5, 3.5, 4.5, 5.5], [100] * 4 + [104.5] * 2]


def test_the_data_stay_as_they_are() -> None:
    grown, given = filled().replay, data()
    for name in ("obs", "act", "reward", "mask", "going", "first"):
        assert torch.equal(getattr(grown, name)[:7], getattr(given, name)), name


def test_transitions_are_drawn_alike_or_half_of_them_online() -> None:
    numbers = torch.randint(2**62, (2, 4000))
    alike, balanced = filled(), filled(balanced=True)
    shared = len(data().obs)
    met = (alike.choose(numbers) >= shared).float().mean(dim=1)
    assert torch.allclose(met, torch.tensor(6 / 11), atol=0.03)
    rows = balanced.choose(numbers)
    assert (rows >= shared).float().mean(dim=1).tolist() == [0.5, 0.5]
    counts = torch.stack([torch.bincount(row, minlength=shared + 34) for row in rows])
    assert ((counts[:, data().starts] - 400).abs() < 100).all()  # 2000 draws of five transitions
    own = counts[counts > 0].numel() - 2 * 5
    assert own == 2 * 6 and ((counts[:, shared:][counts[:, shared:] > 0] - 2000 / 6).abs() < 100).all()
    assert (rows[0] < shared + 17).all() and (rows[1][rows[1] >= shared] >= shared + 17).all()  # each seed its own


@pytest.mark.parametrize("balanced", [False, True])
def test_before_the_first_step_all_is_of_the_data(balanced: bool) -> None:
    experience = Experience(data(), seeds=2, steps=3, balanced=balanced)
    rows = experience.choose(torch.randint(2**62, (2, 100)))
    assert set(rows.flatten().tolist()) == set(data().starts.tolist())


def test_experience_is_kept_by_what_each_checkpoint_adds(tmp_path: Path) -> None:
    whole, part = filled(6), filled(2)
    part.save(tmp_path, 102)
    more = filled(6)
    more.restore(tmp_path, 102)
    assert more.steps == 2
    for at in range(3, 7):
        states = np.array([[at], [100 + at]], np.float32)
        labels = [Label(float(at), 0.0, True), Label(-float(at), 1.0, at % 4 == 0)]
        more.append(states / 1000, states, labels)
        more.begin({index: states[index] + 0.5 for index, found in enumerate(labels) if found.end})
    more.save(tmp_path, 106)
    assert len(read_tensors(tmp_path / "experience_000000106.safetensors")[0]["starts"][0]) == 4
    for at, expected in ((106, whole), (102, part)):
        found = Experience(data(), seeds=2, steps=8, balanced=False)
        found.restore(tmp_path, at)
        assert found.steps == expected.steps and found.episodes.tolist() == expected.episodes.tolist()
        assert torch.equal(found.states(), expected.states())
        rows = expected.choose(torch.arange(5 + expected.steps).expand(2, -1))
        assert torch.equal(found.choose(torch.arange(5 + expected.steps).expand(2, -1)), rows)
        ours, theirs = found.replay.batch(rows), expected.replay.batch(rows)
        for name in ("obs", "act", "reward", "mask", "next_obs"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


# --- simulators ---


def simulators(workers: int, seeds: tuple[int, ...] = (0, 1, 4), **changes: Any) -> Lockstep:
    manifest = read_manifest(Path("data", TASK))
    settings: dict[str, Any] = {"shapes": ((4,), (2,)), "timeout": 120.0} | changes
    return Lockstep(partial(make_env, manifest), name=TASK, seeds=seeds, workers=workers, **settings)


def test_outcomes_are_those_of_the_simulator_and_do_not_depend_on_the_workers(tiny_project: Path) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 12, 2)).astype(np.float32)
    found = []
    for workers in (1, 2):
        with simulators(workers) as pool:
            pool.send({index: Order(index, actions[index][:5]) for index in range(3)})
            first = pool.receive()
            pool.send({2: Order(None, actions[2][5:]), 0: Order(9, actions[0])})
            found.append([*first.values(), *pool.receive().values()])
    env = make_env(read_manifest(Path("data", TASK)))
    expected = []
    for seed, taken in (
        (0, actions[0][:5]),
        (1, actions[1][:5]),
        (2, actions[2][:5]),
        (9, actions[0]),
        (2, actions[2]),
    ):
        env.reset(seed=seed)
        for action in taken:
            obs, reward, terminated, truncated, info = env.step(action)
        expected.append(StepOutcome(obs, reward, info["success"], terminated, truncated))
    env.close()
    for outcomes in found:
        for ours, theirs in zip(outcomes, expected, strict=True):
            assert np.array_equal(ours.obs, theirs.obs)
            assert replace(ours, obs=theirs.obs) == theirs


def test_a_simulator_that_fails_is_one_line(tiny_project: Path) -> None:
    with pytest.raises(FdError, match=r"^umaze: observations and actions have shapes \(4,\) and \(2,\), the data have"):
        simulators(1, shapes=((5,), (2,)))
    with simulators(1) as pool:
        pool.send({1: Order(None, np.zeros((1, 2), np.float32))})  # before its first reset
        with pytest.raises(FdError, match=r"^umaze: the simulator of seed 1: \w+: [^\n]+$"):
            pool.receive()
    with simulators(1) as pool:
        (process,) = multiprocessing.active_children()
        process.kill()
        process.join()
        with pytest.raises(FdError, match=r"^umaze: a process between two jobs: its process died with exit code -9"):
            pool.send({0: Order(0, np.zeros((0, 2), np.float32))})
            pool.receive()


# --- the stage ---


@pytest.mark.parametrize(
    ("method", "behaviour"),
    [("fql", "joint"), ("deflow", "frozen"), ("ifql", "joint"), ("fidec-stein", "joint"), ("fidec-official", "frozen")],
)
def test_every_method_goes_on(method: str, behaviour: str, tiny_project: Path) -> None:
    change_params(Path(), going(method, behaviour=behaviour, steps=20, updates=2))
    offline(method)
    files = run(method)
    spec = Policy.load(Path("online", TASK, method)).spec
    by_flow = behaviour == "frozen" and spec.acts_by_flow
    assert files.keys() == {"step_000000060.safetensors", "train.csv"} | ({FLOW} if by_flow else set())
    before, after = read_tensors(Path("runs", TASK, method, STATE))[0], load_file(
        Path("online", TASK, method, "step_000000060.safetensors")
    )  # fmt: skip
    assert any(name.startswith("flow.") for name in after) == (behaviour == "joint")
    if behaviour == "joint":
        assert not torch.equal(before["net.flow.weights.0"], after["flow.weights.0"])
    if by_flow:
        kept = load_file(Path("online", TASK, method, FLOW))
        assert all(torch.equal(before[f"net.{name}"], value) for name, value in kept.items())
    log = files["train.csv"].decode().splitlines()
    assert [line.split(",")[:2] for line in log[1:]] == [["50", "0"], ["50", "1"], ["60", "0"], ["60", "1"]]


def test_rows_are_what_the_simulator_gave(tiny_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stored actions, taken again in a simulator that this test makes, give the stored states, rewards and masks."""
    change_params(Path(), going("fql", steps=100, balanced=False))
    offline("fql")
    kept = list[Experience]()
    make = Experience.__init__

    def made(self: Experience, *parts: Any, **more: Any) -> None:
        make(self, *parts, **more)
        kept.append(self)

    monkeypatch.setattr(Experience, "__init__", made)
    run("fql")
    (experience,), env = kept, make_env(read_manifest(Path("data", TASK)))
    offline_count = len(Replay.of(load_transitions(Path("data", TASK)), torch.device("cpu")).starts)
    rows = experience.choose(torch.arange(offline_count, offline_count + 100).expand(2, -1))
    batch = experience.replay.batch(rows)
    for index, seed in enumerate((0, 1)):
        episode, ended = 0, True
        for at in range(100):
            if ended:
                state, _ = env.reset(seed=reset_seed(seed, episode))
                episode += 1
            assert np.array_equal(state, batch.obs[index, at])
            state, reward, _, truncated, info = env.step(batch.act[index, at].numpy())
            assert np.array_equal(state, batch.next_obs[index, at])
            assert batch.reward[index, at] == reward - 1 and batch.mask[index, at] == 1 - info["success"]
            ended = truncated or info["success"]
        assert episode >= 3 and experience.episodes[index] == episode - 1 + ended
    assert batch.act.abs().max() <= ACTION_BOUND
    env.close()


def interrupted(at: int) -> Callable[..., None]:
    """`Checkpoint.log`, but the user stops the run at that step."""
    log = Checkpoint.log

    def stop(self: Checkpoint, step: int, *parts: Any) -> None:
        log(self, step, *parts)
        if step == at:
            raise KeyboardInterrupt

    return stop


def test_an_interrupted_run_goes_on_to_the_same_bytes(tiny_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before the first checkpoint, and again in the middle of an episode behind the second."""
    method = "fidec"
    change_params(Path(), going(method))
    offline(method)
    whole = run(method, "--out", "whole")
    for at in (50, 90):
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoint, "log", interrupted(at))
            result = CliRunner().invoke(finetune.app, ["--task", TASK, "--method", method])
        assert result.exit_code != 0 and not Path("online").exists()
    assert list(Path(".scratch").glob("finetune-*/experience_000000080.safetensors"))
    logged = list[int]()
    log = Checkpoint.log
    monkeypatch.setattr(Checkpoint, "log", lambda self, step, *parts: (logged.append(step), log(self, step, *parts)))
    assert run(method) == whole
    assert logged == [90, 100] and not list(Path(".scratch").glob("finetune-*"))


def test_what_went_on_is_evaluated_like_a_run_and_compared(tiny_project: Path) -> None:
    """The stages as dvc.yaml calls them."""
    change_params(Path(), going("fidec", steps=20))
    offline("fidec")
    run("fidec")
    for runs, out in (("runs", "evals"), ("online", "evals-online")):
        call(evaluate.app, "--task", TASK, "--method", "fidec", "--runs", runs, "--out", out)
    call(report_online.app, "--page", "all", "--reference", str(ROOT / "reference"))
    assert "| umaze | fidec | 40 to 60 | " in Path("reports", "tiny", "online", "all.md").read_text()
    record = Path("online", TASK, "fidec.json")
    values = read_record(record)
    write_record(record, values | {"files": values["files"] | {"step_000000060.safetensors": "0" * 64}})
    with pytest.raises(FdError, match=r"^evals-online/umaze/fidec.json: weights do not match the run"):
        call(report_online.app, "--page", "all", "--reference", str(ROOT / "reference"))


def test_the_number_of_workers_does_not_matter(tiny_project: Path) -> None:
    change_params(Path(), going("fidec"))
    offline("fidec")
    one = run("fidec")
    change_params(Path(), lambda values: values["compute"].update(workers=2))
    assert run("fidec", "--out", "two") == one


def test_a_seed_alone_meets_what_it_meets_among_others(tiny_project: Path) -> None:
    """To rounding: the states of an episode of a single seed grow apart from it only by what matrix products round."""
    change_params(Path(), going("fql", steps=20))
    offline("fql")
    run("fql")
    among = load_file(Path("online", TASK, "fql", "step_000000060.safetensors"))
    only_the_second()
    run("fql", "--out", "alone", "--runs", "single")
    alone = load_file(Path("alone", TASK, "fql", "step_000000060.safetensors"))
    for name, value in alone.items():
        assert torch.allclose(value, among[name].chunk(2)[1], atol=2e-4), name


def only_the_second() -> None:
    """The run single/umaze/fql: runs/umaze/fql cut down to its second seed."""
    from fd.storage.tensors import write_tensors

    source, folder = Path("runs", TASK, "fql"), Path("single", TASK, "fql")
    folder.mkdir(parents=True)
    shutil.copy(f"{source}.json", f"{folder}.json")
    snapshot = "step_000000040.safetensors"
    for name in (snapshot, STATE):
        tensors, record = read_tensors(source / name)
        cut = {key: value if value.dim() == 0 else value.chunk(2)[1] for key, value in tensors.items()}
        changed = {"seeds": [1]} if name == snapshot else {"snapshot_sha256": digest(folder / snapshot)}
        write_tensors(folder / name, cut, record | changed)


def test_the_optimiser_goes_on_where_it_was(tiny_project: Path) -> None:
    """What is trained in both parts keeps its moments, by name; the flow, fixed before, begins without."""
    change_params(Path(), going("fidec"))
    offline("fidec")
    path = Path("runs", TASK, "fidec", STATE)
    spec = Policy.load(Path("runs", TASK, "fidec")).spec
    agent = agent_of("fidec", 0, 1)
    agent = type(agent)(replace(spec, behaviour="joint"), [torch.Generator(), torch.Generator()])
    adam = Optimiser(agent.trained(), 1e-3)
    assert load_state(path, agent, adam)["step"] == 40
    tensors, _ = read_tensors(path)
    found = adam.moments()
    kinds = ("step", "exp_avg", "exp_avg_sq")
    assert set(found) == {f"{name}.0.{kind}" for name in ("policy", "critic", "log_dual") for kind in kinds}
    for name, value in found.items():
        assert torch.equal(value, tensors[f"adam.{name}"])
    before = agent.flow.weights[0].detach().clone()
    loss = sum((p.square().flatten(1).sum(dim=1) for p in agent.flow.parameters()), torch.zeros(2))
    adam.descend(loss, clip=0)
    assert not torch.equal(before, agent.flow.weights[0])


def test_a_simulator_that_is_another_is_one_line(tiny_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first states of the episodes under way are others on resuming, here for their seeds are."""
    change_params(Path(), going("fql"))
    offline("fql")
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "log", interrupted(70))
        assert CliRunner().invoke(finetune.app, ["--task", TASK, "--method", "fql"]).exit_code != 0
    monkeypatch.setattr("fd.training.online_training.reset_seed", lambda seed, episode: 5)
    with pytest.raises(
        FdError, match=r"^finetune umaze fql: the simulator of seed 0 does not return to its earlier state"
    ):
        run("fql")


def test_a_run_without_its_state_is_one_line(tiny_project: Path) -> None:
    offline("fql")
    change_params(Path(), going("fql"))
    with pytest.raises(
        FdError, match=r"^runs/umaze/fql/state.safetensors: no such file, so the run cannot be fine-tuned; refine it"
    ):
        run("fql")
    assert not Path("online").exists()


def test_a_run_of_another_device_is_one_line(tiny_project: Path) -> None:
    change_params(Path(), going("fql"))
    offline("fql")
    record = Path("runs", TASK, "fql.json")
    edit_record(record, machine=MACHINE | {"gpu": "Example GPU"})
    with pytest.raises(FdError, match=r"^runs/umaze/fql.json: was trained on Example GPU, this is cpu"):
        run("fql")
    assert not Path("online").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["refine"].update(keep_state=False), "online.tasks.umaze: fine-tuning starts from a state that refine.keep_state: false"),
        (lambda v: v["online"].update(methods=["bc"]), "online.methods: 'bc' learns nothing from rewards"),
        (lambda v: v["online"].update(methods=["rebrac"]), "online.methods: 'rebrac' always takes its mean action"),
        (lambda v: v["online"].update(methods=["iql"]), "online.methods: 'iql' always takes its mean action"),
        (lambda v: v["online"].update(methods=["sac"]), "online.methods: 'sac' does not exist, allowed: bc, ifql"),
        (lambda v: v["online"].update(methods=["fql", "fql"]), "online.methods: duplicate 'fql', allowed: each once"),
        (lambda v: v["online"]["tasks"].update(maze=GOING), "online.tasks: 'maze' does not exist, allowed: umaze"),
        (lambda v: v["online"].update(pages={"all": ["maze"]}), "online.pages.all: 'maze' does not exist, allowed: umaze"),
        (lambda v: v["online"]["tasks"][TASK].update(steps=70), "online.tasks.umaze: steps: 70 is not a multiple of"),
        (lambda v: v["online"]["tasks"][TASK].update(evaluate_every=30, steps=60), "online.tasks.umaze.evaluate_every: 30 does"),
        (lambda v: v["online"]["tasks"][TASK].update(updates=0), "online.tasks.umaze.updates: 0, allowed: "),
        (lambda v: v["online"]["tasks"][TASK].update(behaviour="free"), "online.tasks.umaze.behaviour: 'free', allowed: "),
        (lambda v: v["methods"]["fidec"]["train"].update(desmooth=True), "online.methods: 'fidec' needs a bank"),
    ],
)  # fmt: skip
def test_wrong_settings_are_one_line(
    change: Callable[[dict[str, Any]], object], message: str, tiny_project: Path
) -> None:
    change_params(Path(), going("fql", "fidec"))
    read_settings(Path("params.yaml"))
    change_params(Path(), change)
    with refused(start=f"params.yaml: {message}"):
        read_settings(Path("params.yaml"))


def test_what_does_not_go_on_is_one_line(tiny_project: Path) -> None:
    change_params(Path(), going("fql"))
    with pytest.raises(FdError, match=r"^online.methods: 'fidec' does not exist, allowed: fql$"):
        run("fidec")
    with pytest.raises(
        FdError, match=r"^tasks: 'maze' does not exist|^online.tasks: 'maze' does not exist, allowed: umaze$"
    ):
        call(finetune.app, "--task", "maze", "--method", "fql")
    with pytest.raises(FdError, match=r"^online.pages: 'some' does not exist, allowed: all$"):
        call(report_online.app, "--page", "some", "--reference", str(ROOT / "reference"))


# --- the report ---


def write_evaluations(folder: str, method: str, rows: list[str], *, data: str = "00", mujoco: str = "4.0.0") -> None:
    """Episodes of a method and the record beside them."""
    path = Path(folder, TASK, f"{method}.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["seed,step,episode,return,success,length,score", *rows]) + "\n")
    record = {"task": TASK, "method": method, "data_sha256": {"actions": data}, "weights": {}, "seconds": 1.0}
    record |= {"machine": MACHINE, "versions": {"mujoco": mujoco}}
    write_record(path.with_suffix(".json"), record | {"files": digests(path)})
    runs = {"evals": "runs", "evals-online": "online"}[folder]
    write_record(Path(runs, TASK, f"{method}.json"), record | {"files": {}})


def rows_of(folder: str, method: str) -> list[str]:
    """The rows of a table of episodes."""
    return Path(folder, TASK, f"{method}.csv").read_text().splitlines()[1:]


def test_the_page_has_start_end_and_gain(tiny_project: Path) -> None:
    change_params(Path(), going("fql", "fidec", steps=20))
    for folder, steps in (("evals", (20, 40)), ("evals-online", (60,))):
        for place, method in enumerate(("fql", "fidec")):
            rows = [
                f"{seed},{at},{episode},-1.0,0,9,{10.0 * place + at / 2 + 4 * seed}"
                for seed in (0, 1)
                for at in steps
                for episode in (0, 1)
            ]
            write_evaluations(folder, method, rows)
    for _ in range(2):
        call(report_online.app, "--page", "all", "--reference", str(ROOT / "reference"))
        found = contents("reports/tiny/online")
        assert found.keys() == {"all.html", "all.md", "all.csv", "all.svg"}
    assert found["all.csv"].decode().splitlines() == [
        "task,method,quantity,mean,std,low,high,seeds",
        "umaze,fql,start,22.00,2.83,-3.41,47.41,2",
        "umaze,fql,end,32.00,2.83,6.59,57.41,2",
        "umaze,fql,gain,10.00,0.00,10.00,10.00,2",
        "umaze,fidec,start,32.00,2.83,6.59,57.41,2",
        "umaze,fidec,end,42.00,2.83,16.59,67.41,2",
        "umaze,fidec,gain,10.00,0.00,10.00,10.00,2",
    ]
    assert '<td style="text-align:right">22.0 ± 2.8 [-3.4, 47.4]</td>' in found["all.html"].decode()
    page = found["all.md"].decode()
    assert (
        "| umaze | fql | 40 to 60 | 22.0 ± 2.8 [-3.4, 47.4] | 32.0 ± 2.8 [6.6, 57.4] | 10.0 ± 0.0 [10.0, 10.0] |"
        in page
    )
    assert "there is no published score for this data set" in page
    assert "band: its 95 % t-interval, cut at 0 and 100." in page  # 22 [-3.4, 47.4]
    write_evaluations("evals-online", "fidec", rows_of("evals-online", "fidec"), mujoco="3.1.6")
    call(report_online.app, "--page", "all", "--reference", str(ROOT / "reference"))
    first = Path("reports", "tiny", "online", "all.md").read_text().splitlines()[0]
    assert first.startswith("**Mixed versions: mujoco 4.0.0 and 3.1.6.")
    trained = Path("online", TASK, "fidec.json")
    edit_record(trained, machine=MACHINE | {"gpu": "Example GPU"})
    with pytest.raises(
        FdError, match=r"^online/umaze/fidec.json: was trained on Example GPU, but runs/umaze/fql.json on cpu"
    ):
        call(report_online.app, "--page", "all", "--reference", str(ROOT / "reference"))
    write_evaluations("evals-online", "fidec", rows_of("evals-online", "fidec"), data="11")
    with pytest.raises(FdError, match=r"^online/umaze/fidec.json: data_sha256 belongs to different data"):
        call(report_online.app, "--page", "all", "--reference", str(ROOT / "reference"))
    Path("evals-online", TASK, "fql.csv").unlink()
    with pytest.raises(FdError, match=r"^evals-online/umaze/fql.csv: no such file"):
        call(report_online.app, "--page", "all", "--reference", str(ROOT / "reference"))


def test_published_pairs_stand_beside_ours_by_the_name_of_the_data(tiny_project: Path) -> None:
    """Figures of cube-double's default task, as the table prints them; those of a regenerated set are marked."""
    from fd.report.online_page import EvaluatedRuns, gather_online, render_online

    change_params(Path(), going("fql", steps=20))
    values = read_settings(Path("params.yaml"))
    sizes = {"steps": 1000, "episodes": 1, "validation_episodes": 1, "seed": 0}
    data = {"source": "generate", "collector": "play", "dataset": "cube-double-play-singletask-v0"} | sizes
    values = SettingsFile(values.values | {"tasks": {TASK: values.at("tasks", TASK) | {"data": data}}})
    for folder, steps in (("evals", (20, 40)), ("evals-online", (60,))):
        rows = [f"{seed},{at},{episode},-1.0,0,9,50.0" for seed in (0, 1) for at in steps for episode in (0, 1)]
        write_evaluations(folder, "fql", rows)
    found = gather_online(
        values, "all", start=EvaluatedRuns(Path("runs"), Path("evals")), end=EvaluatedRuns(Path("online"), Path("evals-online")),
        reference=ROOT / "reference",
    )  # fmt: skip
    page = render_online(found)["all.md"]
    assert "| umaze | ReBRAC | 6 ± 5 | 28 ± 28 | FQL paper, arXiv 2502.02538, Table 4 |" in page
    assert f"- umaze: not comparable with ours; {REGENERATED}." in page
    assert "band: its 95 % t-interval." in page  # of zero width: all seeds agree


def test_a_file_of_d4rl_is_not_taken_for_the_published_one() -> None:
    from fd.report.online_page import Going, _reason
    from fd.results.grid import GridTask

    task = GridTask("pen", "pen-cloned-v1", "d4rl", None, (1_000_000,), 50, 1)
    assert "does not check whether the file is the one that D4RL published" in _reason(
        Going(task, 1_000_000, 2_000_000, (2_000_000,))
    )


def test_a_state_of_other_settings_is_one_line(tiny_project: Path) -> None:
    """Of the same data, seeds, method and step, so that nothing but the hash of its snapshot tells."""
    change_params(Path(), going("fql"))
    offline("fql")
    kept = Path("runs", TASK, "fql", STATE).read_bytes()
    change_params(Path(), lambda values: values["refine"].update(discount=0.5))
    offline("fql")
    Path("runs", TASK, "fql", STATE).write_bytes(kept)
    with pytest.raises(FdError, match=r"state\.safetensors: does not match snapshot 40; refine it again$"):
        run("fql")

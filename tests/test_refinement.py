"""The refinement of an agent, step by step: which noise it draws, and how it ends where numbers stop being finite."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from agents import METHODS, agent_of, replay_of, spec_of

from fd.errors import FdError
from fd.method.agent import Agent
from fd.method.fisher import desmoothed, score
from fd.policy import Policy
from fd.storage.tensors import read_tensors
from fd.training.bank import Bank, BankPlan, build_bank, memory
from fd.training.checkpoint import Checkpoint
from fd.training.loop import BLOCK, Run, Schedule
from fd.training.policy_training import noise_shapes, refine
from fd.training.random_streams import generator
from fd.training.replay import Replay
from fd.training.snapshot import write_snapshot

ROWS, EPISODE = 2000, 50
SCHEDULE = Schedule(steps=30, batch_size=8, log_every=5, marks=(10, 20, 30))
SEEDS = (3, 5)


def replay() -> Replay:
    return replay_of(ROWS, EPISODE)


def test_the_next_action_of_the_data_is_known_within_an_episode_alone() -> None:
    data = replay()
    rows = torch.tensor([[0, EPISODE - 2, EPISODE]])  # the first of an episode, its last, the first of the next
    batch = data.batch(rows, next_actions=True)
    assert batch.next_act is not None and batch.next_known is not None
    assert torch.equal(batch.next_act, data.act[rows + 1]) and torch.equal(batch.next_obs, data.obs[rows + 1])
    assert batch.next_known.tolist() == [[1.0, 0.0, 1.0]]
    plain = data.batch(rows)
    assert plain.next_act is None and plain.next_known is None


def train(folder: Path, data: Replay, agent: Agent) -> Agent:
    folder.mkdir(exist_ok=True)
    out = folder / "out"
    checkpoint = Checkpoint(folder, out, lambda step: write_snapshot(out, agent, step=step, seeds=SEEDS, origin={}))
    refine(agent, data, None, Run(SEEDS, SCHEDULE, checkpoint, "refine cube x"))
    return agent


def rows_drawn(data: Replay, seed: int) -> torch.Tensor:
    """Rows of a seed's transitions at every step, [30, 8]."""
    stream = generator(seed, "refine", 0)
    return data.starts[torch.randint(len(data.starts), (BLOCK, SCHEDULE.batch_size), generator=stream)][
        : SCHEDULE.steps
    ]


def first_drawn(data: Replay, step: int, seed: int) -> int:
    """A row that a seed meets for the first time in that step (from 1), and no other seed before."""
    drawn = {s: rows_drawn(data, s) for s in SEEDS}
    before = {int(row) for rows in drawn.values() for row in rows[: step - 1].flatten()}
    others = {int(row) for s in SEEDS if s != seed for row in drawn[s][step - 1]}
    return next(int(row) for row in drawn[seed][step - 1] if int(row) not in before | others)


@pytest.mark.parametrize("method", ["fql", "ifql", "iql", "rebrac"])
@pytest.mark.parametrize(("step", "seed"), [(13, 5), (26, 3)])
def test_a_bad_reward_ends_the_run_at_the_step_that_draws_it(method: str, step: int, seed: int, tmp_path: Path) -> None:
    """What was saved before is there, acts, and is where the run goes on once the reward is repaired."""
    good = replay()
    bad = replace(good, reward=good.reward.clone())
    bad.reward[first_drawn(good, step, seed)] = torch.nan
    with pytest.raises(FdError) as error:
        train(tmp_path, bad, agent_of(method, *SEEDS))
    assert str(error.value).startswith(
        f"refine cube x: critic_loss of seed {seed} is nan in step {step}, allowed: finite "
    )
    last = step // 10 * 10
    assert Policy.steps(tmp_path / "out") == list(range(10, last + 1, 10))
    assert read_tensors(tmp_path / "state.safetensors")[1]["step"] == last
    with (tmp_path / "out" / "train.csv").open(newline="") as file:
        assert {int(row["step"]) for row in csv.DictReader(file)} == set(range(5, last + 1, 5))
    if method != "ifql":  # acts by a flow, whose file the stage copies
        assert Policy.load(tmp_path / "out", last).act(torch.zeros(5)).isfinite().all()
    resumed, whole = (
        train(tmp_path, good, agent_of(method, *SEEDS)),
        train(tmp_path / "whole", good, agent_of(method, *SEEDS)),
    )
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name


@pytest.mark.parametrize("method", ["fql", "fidec-stein", "iql", "rebrac"])
def test_an_infinite_learning_rate_ends_the_run_at_the_step_after(method: str, tmp_path: Path) -> None:
    with pytest.raises(
        FdError, match=r"^refine cube x: \w+ of seed 3 is (nan|-?inf) in step 2, allowed: finite numbers"
    ):
        train(tmp_path, replay(), agent_of(method, *SEEDS, learning_rate=float("inf")))
    assert not (tmp_path / "state.safetensors").exists()


def test_a_policy_is_updated_in_every_second_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, forward = list[bool](), Agent.forward

    def told(self: Agent, *parts: object, with_policy: bool = True) -> object:
        asked.append(with_policy)
        return forward(self, *parts, with_policy=with_policy)  # type: ignore[arg-type]

    monkeypatch.setattr(Agent, "forward", told)
    train(tmp_path, replay(), agent_of("rebrac", *SEEDS))
    assert asked == [False, True] * 15


ACT, SAMPLES = (8, 3), (8, 4)
FRESH, SCORED = (
    {"base": ACT, "next_base": ACT},
    {"fisher_base": (*SAMPLES, 3), "fisher_x0": (*SAMPLES, 3), "fisher_t": (*SAMPLES, 1)},
)
NEEDED: dict[str, tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]] = {
    "bc": ({}, {}),
    "ifql": ({}, {}),
    "fql": (FRESH, {}),
    "iql": ({}, {}),
    "rebrac": ({"target": ACT}, {"target": ACT}),
    "fidec": (FRESH | SCORED, {}),
    "deflow": (FRESH, {}),
    "fidec-stein": (FRESH | {"fisher_t": (8, 1, 1)}, {}),
    "fidec-official": (FRESH | SCORED | {"flow_x0": ACT, "flow_t": (8, 1)}, {"flow_x0": ACT, "flow_t": (8, 1)}),
}


@pytest.mark.parametrize("method", METHODS)
def test_noise_is_drawn_where_it_is_used(method: str) -> None:
    fresh, banked = NEEDED[method]
    assert noise_shapes(spec_of(method), 8, banked=False) == fresh
    assert noise_shapes(spec_of(method), 8, banked=True) == banked


def test_probes_are_drawn_where_the_divergence_is_estimated() -> None:
    for width in (8, 9):
        shapes = noise_shapes(spec_of("fidec-stein", act_dim=width), 8, banked=True)
        assert shapes == ({"probes": (2, 8, 9)} if width == 9 else {})


def test_probes_are_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, forward = list[torch.Tensor](), Agent.forward

    def told(self: Agent, batch: object, base: object, noise: object, **more: object) -> object:
        seen.append(noise.probes)  # type: ignore[attr-defined]
        return forward(self, batch, base, noise, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Agent, "forward", told)
    data = replay()
    train(tmp_path, replace(data, act=data.act.repeat(1, 3)), agent_of("fidec-stein", *SEEDS, act_dim=9))
    probes = torch.stack(seen)
    assert probes.shape == (30, 2, 2, 8, 9) and probes.dtype == torch.float32
    assert (probes.abs() == 1).all() and probes.mean().abs() < 0.05


def bank_of(agent: Agent, data: Replay) -> Bank:
    path = Path("banks/cube.safetensors")
    bank = build_bank(agent.spec, agent.flow, data, BankPlan(6, 1.0, path, "k"), seeds=SEEDS, label="refine cube")
    assert bank is not None
    return bank


@pytest.mark.parametrize("method", ["bc", "ifql", "iql", "rebrac"])
def test_methods_without_base_actions_need_no_bank(method: str) -> None:
    assert not agent_of(method, *SEEDS).spec.based


def test_desmoothing_without_memory_for_a_bank_is_refused(tmp_path: Path) -> None:
    agent = agent_of("fidec", *SEEDS, desmooth=True)
    with pytest.raises(FdError, match=r"takes .* GiB, refine.bank_memory is 1e-06, and desmooth needs a bank"):
        build_bank(agent.spec, agent.flow, replay(), BankPlan(6, 1e-6, tmp_path, "k"), seeds=SEEDS, label="x")


@pytest.mark.parametrize("method", ["fql", "deflow", "fidec", "fidec-stein"])
def test_a_bank_beyond_its_budget_is_not_built(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The budget is what building takes at its height: noise, actions and scores."""
    monkeypatch.chdir(tmp_path)
    agent, data = agent_of(method, *SEEDS), replay()
    bank = bank_of(agent, data)
    parts = [bank.actions, torch.empty_like(bank.actions), *([] if bank.scores is None else [bank.scores])]
    needed = sum(part.nbytes for part in parts) / 2**30
    assert memory(agent.spec, seeds=2, rows=ROWS, samples=6) == pytest.approx(needed)
    capsys.readouterr()
    for budget, built in ((0.999 * needed, False), (1.001 * needed, True)):
        plan = BankPlan(6, budget, Path("banks/cube.safetensors"), "k")
        found = build_bank(agent.spec, agent.flow, data, plan, seeds=SEEDS, label="refine cube x")
        assert (found is not None) == built
        told = capsys.readouterr().err
        assert ("refine cube x: a bank of 6 base actions per state takes" in told) != built


def test_desmoothing_without_a_bank_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FdError, match="bank: 0, but desmooth: true needs a bank, because it is done once per state"):
        train(tmp_path, replay(), agent_of("fidec", *SEEDS, desmooth=True))


def test_a_broken_flow_is_named_by_its_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    agent = agent_of("fidec", *SEEDS)
    agent.flow.biases[0].data[1, 0, 0] = float("nan")
    message = f"^refine cube: scores of the behaviour flow of seed {SEEDS[1]} are NaN or infinite, allowed: finite$"
    with pytest.raises(FdError, match=message):
        bank_of(agent, replay())


@pytest.mark.parametrize(
    ("metric", "desmooth", "shape"),
    [
        ("identity", False, None),
        ("state", False, (2, 100, 4, 3)),
        ("state", True, (2, 100, 3, 3)),
        ("action", False, (2, 100, 6, 1, 3)),
        ("stein", False, (2, 100, 6, 1, 3)),
    ],
)
def test_a_bank_holds_the_scores_of_its_metric(
    metric: str, desmooth: bool, shape: tuple[int, ...] | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = replay()
    data = replace(data, obs=data.obs[:100])
    agent = agent_of("fidec", *SEEDS, metric=metric, desmooth=desmooth)
    bank = bank_of(agent, data)
    assert bank.actions.shape == (2, 100, 6, 3) and bank.noise is None
    assert (None if bank.scores is None else bank.scores.shape) == shape
    if desmooth:
        plain = agent_of("fidec", *SEEDS)
        kept = bank_of(plain, data)
        assert kept.scores is not None and torch.equal(kept.actions, bank.actions)
        torch.testing.assert_close(bank.scores, desmoothed(kept.scores, 0.8))
    elif metric in ("action", "stein"):
        obs, t = data.obs.expand(2, -1, -1), torch.full((2, 100, 1), 0.8)
        for sample in range(6):
            expected = score(agent.flow, obs, bank.actions[:, :, sample], t, formula="exact")
            torch.testing.assert_close(bank.scores[:, :, sample, 0], expected)  # type: ignore[index]

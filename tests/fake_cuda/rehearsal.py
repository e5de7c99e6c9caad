"""What is rehearsed: an update of every method in every regime, and everything else that training does on a GPU."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from watch import Watch

from benchmarks.step import BATCH, METHODS, regimes_of, spec_of
from fd.method import agent as agents
from fd.method.acting import flow_net
from fd.method.agent import Agent
from fd.method.spec import Spec
from fd.policy import Policy
from fd.training import bank as banks
from fd.training import flow_training
from fd.training.bank import Bank, BankPlan, build_bank
from fd.training.execution import Update
from fd.training.experience import Experience, Label
from fd.training.loop import BLOCK, Draws, Run, Schedule, Window
from fd.training.policy_training import updates
from fd.training.replay import Replay

Net = TypeVar("Net", bound=torch.nn.Module)
GPU = torch.device("cuda", 0)
SEEDS, STATES, SAMPLES = range(8), 200, 16
NET = "4x16"  # the number of operations does not depend on the width
IMAGES = {"obs_shape": (16, 16, 3), "encoder": (4, 8), "augmentation": 0.5}
STACKED = IMAGES | {"obs_shape": (16, 16, 9), "frame_stack": 3}
WIDE = {"act_dim": 21}  # probes in place of an exact divergence; not all eigenpairs of a curvature


def cells() -> Iterator[tuple[str, str]]:
    """Methods that differ in their operations, and regimes; without a bank, `desmooth` and curvatures are refused."""
    for method in (*METHODS.split(","), "fidec-desmooth", "fidec-local"):
        for regime in regimes_of(method):
            spec = spec_of(method, regime, NET)
            if regime in ("bank", "-") or not (spec.desmooth or spec.metric == "curvature"):
                yield method, regime


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.empty(*shape, dtype=dtype, device=GPU)


def replay_of(spec: Spec) -> Replay:
    *size, channels = spec.obs_shape
    kind = torch.uint8 if spec.encoder else torch.float32
    return Replay(
        tensor(STATES, *size, channels // spec.frame_stack, dtype=kind), tensor(STATES, spec.act_dim), tensor(STATES),
        tensor(STATES), tensor(STATES), tensor(STATES - 10, dtype=torch.int64), tensor(STATES, dtype=torch.int64),
        spec.frame_stack,
    )  # fmt: skip


def on_gpu(make: Callable[[list[torch.Generator]], Net]) -> Net:
    """A network of all seeds, made on the CPU as in training, and moved."""
    with unset_fake_temporarily():
        net = make([torch.Generator() for _ in SEEDS])
    return net.to(GPU)


def agent_of(spec: Spec) -> Agent:
    return on_gpu(partial(Agent, spec))


def bank_of(agent: Agent, replay: Replay) -> Bank:
    """The bank, built by the agent's flow."""
    plan = BankPlan(SAMPLES, math.inf, Path(), "")
    with Watch(update=False):
        bank = build_bank(agent.spec, agent.flow, replay, plan, seeds=SEEDS, label="bank")
    assert bank is not None
    assert all(value.device == GPU for value in vars(bank).values() if value is not None)
    return bank


def launches(one: Update, draws: Draws, *, phases: int = 1) -> int:
    """Launches of an update, of its longest phase."""
    with Watch(update=False):  # the first update allocates lasting memory
        numbers = draws.at(0)
        for phase in range(phases):
            one(phase, numbers)
    counts, window = [], Window(SEEDS, "log", phases)
    for phase in range(phases):
        with Watch(update=True) as watch:
            metrics = one(phase, numbers)
        counts.append(watch.launches)
        assert all(value.device == GPU and value.shape == (len(SEEDS),) for value in metrics.values())
        with Watch(update=True):
            window.add(phase, metrics)
    return max(counts)


def update(method: str, regime: str, **changes: object) -> int:
    spec = replace(spec_of(method, regime, NET), **changes)
    agent, replay = agent_of(spec), replay_of(spec)
    bank = bank_of(agent, replay) if regime == "bank" else None
    one, draws = updates(agent, agent.optimiser(), replay, bank, seeds=SEEDS, batch_size=BATCH)
    return launches(one, draws, phases=spec.policy_every)


def pretraining(**changes: object) -> int:
    spec, caught = replace(spec_of("bc", "-", NET), **changes), list[tuple[Update, Draws]]()
    flow = on_gpu(partial(flow_net, spec))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow_training, "train", lambda one, draws, *others: caught.append((one, draws)))
        run = Run(SEEDS, Schedule(10, BATCH, 5, [10]), None, "pretrain")
        flow_training.pretrain(flow, replay_of(spec), run, learning_rate=1e-3, augmentation=spec.augmentation)
    return launches(*caught[0])


def acting(method: str, **how: int) -> int:
    spec = spec_of(method, "-", NET)
    agent, width = agent_of(spec), how.get("best_of", 1) * spec.act_dim
    policy = Policy(spec, tuple(SEEDS), 0, agent.flow, agent.policy, agent.critic)
    with torch.no_grad(), Watch(update=True) as watch:
        actions = policy.act(tensor(len(SEEDS), 7, *spec.obs_shape), tensor(len(SEEDS), 7, width), **how)
    with Watch(update=False):
        one = policy.act(tensor(*spec.obs_shape), **how)  # draws its own noise
    assert actions.device == one.device == GPU
    return watch.launches


def online(*, balanced: bool) -> int:
    """An update on data and experience, after a step in the simulators."""
    spec = spec_of("fidec", "fresh", NET)
    agent, count = agent_of(spec), len(SEEDS)
    experience = Experience(replay_of(spec), seeds=count, steps=50, balanced=balanced)
    policy = Policy(spec, tuple(SEEDS), 0, agent.flow, agent.policy, agent.critic)
    one, draws = updates(
        agent, agent.optimiser(), experience.replay, None, seeds=SEEDS, batch_size=BATCH, purpose="online",
        choose=experience.choose,
    )  # fmt: skip
    obs, act = np.zeros((count, *spec.obs_shape), np.float32), np.zeros((count, spec.act_dim), np.float32)
    with torch.no_grad(), Watch(update=False):
        experience.begin(dict(enumerate(obs)))
        assert policy.act(experience.states(), tensor(count, 1, spec.act_dim)).device == GPU
        experience.append(act, obs, [Label(0.0, 1.0, False)] * count)
    return launches(one, draws)


OTHERS: dict[str, Callable[[], int]] = {
    **{f"images {name}": partial(update, name, "bank", **IMAGES) for name in ("fidec", "fql")},
    **{f"images {name}": partial(update, name, "-", **IMAGES) for name in ("ifql", "rebrac")},
    "images fidec-official": partial(update, "fidec-official", "joint", **IMAGES),
    "stacks fidec": partial(update, "fidec", "fresh", **STACKED),
    "wide fidec-stein": partial(update, "fidec-stein", "bank", **WIDE),
    "wide fidec-desmooth": partial(update, "fidec-desmooth", "bank", **WIDE),
    "wide fidec-local": partial(update, "fidec-local", "bank", **WIDE),
    "wide fidec-stein fresh": partial(update, "fidec-stein", "fresh", **WIDE),
    "pretraining on images": partial(pretraining, **IMAGES),
    **{f"acting {name}": partial(acting, name) for name in ("bc", "fidec", "fql", "iql", "rebrac")},
    "acting best of 32": partial(acting, "ifql", best_of=32),
    "acting refined twice": partial(acting, "fidec", refinements=2),
    "online": partial(online, balanced=False),
    "online balanced": partial(online, balanced=True),
}  # fmt: skip

ON_CPU = torch.ones(1)
FAULTS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda y: y.mean().item(),
    "branch": lambda y: 1 if (y > 0).all() else 0,
    "boolean index": lambda y: y[y > 0],
    "made on the CPU": lambda y: torch.zeros(3),
    "moved to the CPU": lambda y: y.cpu(),
    "moved from the CPU": lambda y: torch.tensor([1.0], device=y.device),
    "number of the CPU": lambda y: y * torch.tensor(2.0),
    "index of the CPU": lambda y: y[:, ON_CPU.long()],
    "tensor of the CPU": lambda y: y * ON_CPU,
    "generator of the CPU": lambda y: y + torch.randn(y.shape, generator=torch.Generator()),
    "draw": lambda y: torch.rand_like(y),
}


def planted(fault: Callable[[Tensor], object], *, backward: bool = False) -> int:
    """An update of IQL in which the critic's loss commits a fault, in the forward or in the backward pass."""

    def faulty(critic: torch.nn.Module, obs: Tensor, act: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        if not backward:
            fault(y)
        loss, q = plain(critic, obs, act, y)
        if backward:
            loss.register_hook(lambda grad: (fault(grad), grad)[1])
        return loss, q

    plain = agents.critic_loss
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agents, "critic_loss", faulty)
        return update("iql", "-")


def foreign_generator() -> int:
    """Random numbers for the GPU from a generator of the CPU."""

    def draw(stream: torch.Generator) -> list[Tensor]:
        return [torch.randn(BLOCK, 3, generator=torch.Generator(), device=GPU)]

    with Watch(update=False) as watch:
        Draws(SEEDS, "refine", GPU, draw).at(0)
    return watch.launches


def outcome(case: Callable[[], int]) -> int | str:
    """The launches of a case; or its last line is the fault that ended it, after the lines of code that led there."""
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            return case()
    except Exception as error:  # noqa: BLE001 - a test shows it
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "site-packages" not in frame.filename]
        return f"{''.join(traceback.format_list(frames))}{type(error).__name__}: {str(error).splitlines()[0]}"


def results() -> dict[str, dict[str, int | str]]:
    """Launches, or the fault, of every update, of everything else, and of updates with planted faults."""
    torch.cuda._lazy_init = lambda: None  # there is nothing to start
    torch.cuda.mem_get_info = lambda device=None: (2**37, 2**37)
    banks.kept_actions = lambda draw, *others: draw()  # nothing to write to a file
    faults = {name: partial(planted, fault) for name, fault in FAULTS.items()}
    faults["item in the backward pass"] = partial(planted, FAULTS["item"], backward=True)
    faults["generator of the CPU for the GPU"] = foreign_generator
    faults |= {f"fidec-local {regime}": partial(update, "fidec-local", regime) for regime in ("fresh", "joint")}
    cases = {f"{method} {regime}": partial(update, method, regime) for method, regime in cells()}
    return {
        "updates": {name: outcome(case) for name, case in (cases | {"pretraining": pretraining}).items()},
        "others": {name: outcome(case) for name, case in OTHERS.items()},
        "faults": {name: outcome(case) for name, case in faults.items()},
    }

"""Ways to execute an update: all give the same numbers; a CUDA graph runs without the host."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from agents import agent_of, replay_of
from torch import Tensor

from fd.method.agent import Agent
from fd.networks.adam import optimiser
from fd.training.bank import Bank
from fd.training.execution import WARM_UP, Update, executed
from fd.training.loop import BLOCK, Draws
from fd.training.policy_training import updates

ROWS, SIZE, SAMPLES = 400, 32, 4
SEEDS = (3, 5)
CPU = torch.device("cpu")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def bank(agent: Agent, seeds: tuple[int, ...], device: torch.device) -> Bank | None:
    """A bank of random base actions, the same for a seed on every device and among any others; None where the flow is trained along."""
    spec = agent.spec
    if not spec.based or spec.behaviour == "joint":
        return None
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def of(*shape: int) -> Tensor:
        return torch.stack([2 * torch.rand(ROWS, *shape, generator=stream) - 1 for stream in streams]).to(device)

    actions, noise = of(SAMPLES, 3), of(SAMPLES, 3)
    scores = of(spec.fisher_samples, 3) if spec.state_scores else of(SAMPLES, 1, 3) if spec.action_scores else None
    return Bank(actions, noise if spec.policy == "onestep" else None, scores)


def numbers(update_seeds: tuple[int, ...], step: int, like: list[Tensor]) -> list[Tensor]:
    """Random numbers of a step in the shapes of `like`, the same on every device and for a seed among any others."""
    streams = [torch.Generator().manual_seed(1000 * seed + step) for seed in update_seeds]

    def of(one: Tensor, number: int) -> Tensor:
        if one.is_floating_point():
            return torch.stack([torch.rand(one.shape[1:], generator=s) for s in streams]).to(one)
        most = ROWS // 50 * 49 if number == 0 else SAMPLES
        return torch.stack([torch.randint(most, one.shape[1:], generator=s) for s in streams]).to(one.device)

    return [of(one, number) for number, one in enumerate(like)]


def prepared(method: str, device: torch.device, seeds: tuple[int, ...]) -> tuple[Agent, Update, Draws]:
    """An agent, its update and the random numbers of the steps."""
    agent = agent_of(method, *seeds).to(device)
    adam, base = optimiser(agent.trained(), 1e-3), bank(agent, seeds, device)
    return agent, *updates(agent, adam, replay_of(ROWS, 50, device=device), base, seeds=seeds, batch_size=SIZE)


def trained(
    method: str, device: torch.device, execution: str, steps: int, seeds: tuple[int, ...] = SEEDS
) -> tuple[Agent, list[dict[str, list[float]]]]:
    """An agent after some updates, and the metrics of each."""
    agent, update, draws = prepared(method, device, seeds)
    update, like, metrics = executed(update, agent, execution), draws.at(0), []
    for step in range(steps):
        told = update(step % agent.spec.policy_every, numbers(seeds, step, like))
        metrics.append({name: value.tolist() for name, value in told.items()})
    return agent, metrics


def assert_same(ours: Agent, theirs: Agent, rtol: float, atol: float) -> None:
    for (name, a), b in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        torch.testing.assert_close(
            a.cpu(), b.cpu(), rtol=rtol, atol=atol, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="needs a C++ compiler")
def test_a_compiled_update_is_the_same_update() -> None:
    """Of one method after another in a process, which the slopes of `fidec-stein` by `torch.func.jvp` did not survive."""
    for method in ("fidec", "fidec-stein", "fidec-official"):
        agent, told = trained(method, CPU, "compiled", 5)
        expected, metrics = trained(method, CPU, "eager", 5)
        assert_same(agent, expected, 1e-3, 1e-5)
        for ours, theirs in zip(told, metrics, strict=True):
            assert ours.keys() == theirs.keys()
            for name, value in ours.items():
                assert value == pytest.approx(theirs[name], rel=1e-3, abs=1e-4), (method, name)


METHODS = ["fql", "deflow", "fidec", "fidec-stein", "fidec-official", "ifql", "iql", "rebrac"]


@cuda
@pytest.mark.parametrize("method", METHODS)
def test_replay_of_a_graph_is_the_same_update(method: str) -> None:
    """Across the warm-up, the recording and replays, with phases where the method has them."""
    device, steps = torch.device("cuda"), 2 * WARM_UP + 14
    ours, metrics = trained(method, device, "graph", steps)
    theirs, expected = trained(method, device, "eager", steps)
    assert_same(ours, theirs, 1e-4, 1e-6)
    for step, (told, wanted) in enumerate(zip(metrics, expected, strict=True)):
        for name, value in told.items():
            assert value == pytest.approx(wanted[name], rel=1e-3, abs=1e-4), (step, name)


@cuda
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_follows_the_cpu(method: str) -> None:
    """Fifty losses in float32, without TF32."""
    _, ours = trained(method, torch.device("cuda"), "graph", 50)
    _, theirs = trained(method, CPU, "eager", 50)
    names = [name for name in theirs[-1] if name.endswith("_loss") and name != "dual_loss"]
    assert names
    for step, (told, wanted) in enumerate(zip(ours, theirs, strict=True)):
        for name in names:
            if name in wanted:
                assert told[name] == pytest.approx(wanted[name], rel=1e-4, abs=1e-4), (step, name)


@cuda
@pytest.mark.parametrize("method", METHODS)
def test_a_seed_alone_is_that_seed_among_eight(method: str) -> None:
    device, seeds = torch.device("cuda"), tuple(range(8))
    among, _ = trained(method, device, "graph", 20, seeds)
    alone, _ = trained(method, device, "graph", 20, (3,))
    for (name, a), b in zip(among.state_dict().items(), alone.state_dict().values(), strict=True):
        own = a.reshape(8, -1)[3]
        torch.testing.assert_close(
            own, b.flatten(), rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@cuda
@pytest.mark.parametrize("method", METHODS)
def test_replays_neither_wait_for_the_gpu_nor_allocate(method: str) -> None:
    agent, plain, draws = prepared(method, torch.device("cuda"), SEEDS)
    update: Update = executed(plain, agent, "graph")
    for step in range(4 * WARM_UP):
        update(step % agent.spec.policy_every, draws.at(step))
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    try:
        torch.cuda.set_sync_debug_mode("error")
        for step in range(4 * WARM_UP, BLOCK):
            update(step % agent.spec.policy_every, draws.at(step))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before

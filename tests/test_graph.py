"""Ways to execute an update: all give the same numbers; a CUDA graph runs without the host.

Without a GPU, tests/tape.py stands for CUDA graphs: it checks what is recorded, not what a GPU makes of it.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tape
import torch
from agents import TRAINED, agent_of, replay_of
from torch import Tensor

from fd.errors import FdError
from fd.method.agent import Agent
from fd.networks.adam import Optimiser
from fd.training.bank import Bank
from fd.training.checkpoint import Checkpoint
from fd.training.execution import WARM_UP, Recorded, Update, executed, execution
from fd.training.loop import BLOCK, Draws, Run, Schedule
from fd.training.policy_training import refine, updates

ROWS, SIZE, SAMPLES = 400, 32, 4
SEEDS = (3, 5)
CPU = torch.device("cpu")
cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

# The methods of tests/tiny.yaml and others, as a method of that file and what they change of it.
METHODS: dict[str, tuple[str, dict[str, object]]] = {name: (name, {}) for name in TRAINED} | {
    "fidec-action": ("fidec", {"metric": "action"}),
    "fidec-desmooth": ("fidec", {"desmooth": True}),
    "fidec-local": ("fidec", {"metric": "curvature"}),
    "fidec-joint": ("fidec", {"behaviour": "joint"}),
    "iql-ddpgbc": ("iql", {"extraction": "ddpgbc"}),
    "fidec-fresh": ("fidec", {}),
    "fidec-stein-fresh": ("fidec-stein", {}),
}


@pytest.fixture(params=[pytest.param("GPU", marks=cuda), "tape"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where updates are recorded: a GPU, or the CPU with tapes."""
    if request.param == "GPU":
        return torch.device("cuda")
    tape.install(monkeypatch)
    return CPU


def bank(agent: Agent, seeds: tuple[int, ...], device: torch.device) -> Bank | None:
    """A bank of random base actions, the same for a seed on every device and among any others; None where the flow is trained along."""
    spec = agent.spec
    if not spec.based or spec.behaviour == "joint":
        return None
    streams = [torch.Generator().manual_seed(seed) for seed in seeds]

    def of(*shape: int) -> Tensor:
        return torch.stack([2 * torch.rand(ROWS, *shape, generator=stream) - 1 for stream in streams]).to(device)

    actions, noise = of(SAMPLES, 3), of(SAMPLES, 3)
    vectors = 3 if spec.metric == "curvature" else 1
    scores = (
        of(spec.fisher_samples, 3) if spec.state_scores else of(SAMPLES, vectors, 3) if spec.action_scores else None
    )
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


def prepared(
    method: str, device: torch.device, seeds: tuple[int, ...], execution: str = "eager"
) -> tuple[Agent, Update, Draws]:
    """An agent, its update and the random numbers of the steps."""
    known, changes = METHODS[method]
    agent = agent_of(known, *seeds, **changes).to(device)
    base = None if method.endswith("-fresh") else bank(agent, seeds, device)
    steps = Optimiser(agent.trained(), 1e-3)
    replay = replay_of(ROWS, 50, device=device)
    return agent, *updates(agent, steps, replay, base, seeds=seeds, batch_size=SIZE, execution=execution)


def trained(
    method: str, device: torch.device, execution: str, steps: int, seeds: tuple[int, ...] = SEEDS
) -> tuple[Agent, list[dict[str, list[float]]]]:
    """An agent after some updates, and the metrics of each."""
    agent, update, draws = prepared(method, device, seeds, execution)
    update, like, metrics = executed(update, agent, execution, method), draws.at(0), []
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


def test_auto_is_a_compiled_graph_where_torch_can_compile(capsys: pytest.CaptureFixture[str]) -> None:
    assert execution("auto", CPU) == "eager"
    chosen, told = execution("auto", torch.device("cuda")), capsys.readouterr().err
    if chosen == "compiled-graph":
        assert torch.cuda.is_available() and not told
    else:
        assert chosen == "graph" and told.startswith("compute.execution: graph, because torch cannot compile here: ")


@pytest.mark.parametrize("method", METHODS)
def test_replay_of_a_graph_is_the_same_update(method: str, device: torch.device) -> None:
    """Across the warm-up, the recording and replays, with phases where the method has them."""
    steps = 2 * WARM_UP + 14
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


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_alone_is_that_seed_among_eight(method: str, device: torch.device) -> None:
    seeds = tuple(range(8))
    among, _ = trained(method, device, "graph", 20, seeds)
    alone, _ = trained(method, device, "graph", 20, (3,))
    for (name, a), b in zip(among.state_dict().items(), alone.state_dict().values(), strict=True):
        own = a.reshape(8, -1)[3]
        torch.testing.assert_close(
            own, b.flatten(), rtol=1e-4, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("method", METHODS)
def test_state_stays_in_its_memory(method: str, device: torch.device) -> None:
    """A replay writes where the recording wrote: to the agent's weights, and to the metrics of its phase."""
    agent, plain, draws = prepared(method, device, SEEDS)
    weights = [weight.data_ptr() for weight in agent.state_dict().values()]
    update, period, places = executed(plain, agent, "graph", method), agent.spec.policy_every, dict[int, list[int]]()
    for step in range(period * (WARM_UP + 3)):
        metrics = update(step % period, draws.at(step))
        if step >= period * WARM_UP:
            found = [value.data_ptr() for value in metrics.values()]
            assert places.setdefault(step % period, found) == found
    assert [weight.data_ptr() for weight in agent.state_dict().values()] == weights


@cuda
@pytest.mark.parametrize("method", METHODS)
def test_replays_neither_wait_for_the_gpu_nor_allocate(method: str) -> None:
    agent, plain, draws = prepared(method, torch.device("cuda"), SEEDS)
    update: Update = executed(plain, agent, "graph", method)
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


def recorded(change: Callable[[Tensor], Tensor]) -> list[float]:
    """A number from 0 on, after each of some updates, recorded and replayed, that add `change` of it."""
    number = torch.zeros(1)

    def update(phase: int, numbers: list[Tensor]) -> dict[str, Tensor]:
        number.add_(change(number))
        return {"number": number}

    run = Recorded(update)
    return [run(0, [])["number"].item() for _ in range(WARM_UP + 3)]


def test_a_tape_plays_what_was_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """And neither executes the recording nor counts in Python."""
    tape.install(monkeypatch)
    assert recorded(lambda number: number + 1) == [2.0 ** (step + 1) - 1 for step in range(WARM_UP + 3)]
    steps = itertools.count(1)
    assert recorded(lambda number: torch.tensor([float(next(steps))])) == [1, 3, 6, 10, 14, 18]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda number: number * number.item(), "reads a number"),
        (lambda number: number if number > 0 else -number, "reads a number"),
        (lambda number: number[number >= 0], "reads a number"),
        (lambda number: torch.linalg.eigvalsh(number.view(1, 1)), "reads a number"),
        (lambda number: torch.rand(1), "draws a number"),
        (lambda number: torch.randn(1, generator=torch.Generator().manual_seed(1)), "draws a number"),
    ],
)
def test_a_tape_refuses_what_no_graph_keeps(
    change: Callable[[Tensor], Tensor], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tape.install(monkeypatch)
    with pytest.raises(RuntimeError, match=told):
        recorded(change)


def test_curvature_afresh_is_refused_before_it_is_recorded(tmp_path: Path) -> None:
    """It takes eigenvalues, and the host looks whether they were found."""
    agent, replay = agent_of("fidec", *SEEDS, metric="curvature"), replay_of(ROWS, 50)
    run = Run(SEEDS, Schedule(2, SIZE, 1, [2]), Checkpoint(tmp_path, tmp_path, lambda step: None), "x", "graph")
    with pytest.raises(FdError, match=r"no CUDA graph can record \(allowed: eager, or a bank\)"):
        refine(agent, replay, None, run)

"""Compares the stepping rate of an evaluation with the raw rate of the simulators: `python -m benchmarks.rollout`.

Raw: one process per worker replays episodes in one environment and does nothing else. A single such process is measured, too: its rate
times the number of workers is the rate of cores that do not slow each other down. Kept: the rate through `fd.simulation.rollout` with
untrained policies of three seeds, of the size in params.yaml; every worker runs the same number of jobs.

Both run the same episodes, because the cost of a step depends on the actions: resting in contact costs more than flailing. They take
turns, slice by slice, because the speed of a shared machine changes from one second to the next: each slice of the pool is compared with
the raw slices right before and after it. `share` is relative to the raw processes together, `share_of_alone` to the single process
times the workers. The output has medians and, for the shares, quartiles, by the clock and by processor time; processor time is the
fairer measure if other programs use the cores.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any, Self

import gymnasium
import numpy as np
import typer

from fd.simulation.environments import FlatEnv, make
from fd.simulation.episodes import Act, Floats, Key, streams
from fd.simulation.rollout import Rollout

if TYPE_CHECKING:
    from fd.policy import Policy

CASES: dict[str, tuple[str, tuple[str, ...], int]] = {
    "cube-single": ("cube-single-singletask-task1-v0", (), 200),
    "umaze": ("PointMaze_UMaze-v3", ("observation",), 300),
    "reacher": ("Reacher-v5", (), 50),
}
SEEDS = (0, 1, 2)
Recording = list[tuple[int, list[Floats]]]  # the environment's seed and the actions of each episode
app = typer.Typer(add_completion=False)


@app.command()
def command(
    case: Annotated[str, typer.Option(help=f"One of {', '.join(CASES)}.")] = "cube-single",
    params_file: Annotated[Path, typer.Option("--params", help="The settings file.")] = Path("params.yaml"),
    method: Annotated[str, typer.Option(help="Method whose policy acts.")] = "fidec",
    environments: Annotated[int, typer.Option(help="Environments per process.")] = 12,
    workers: Annotated[int, typer.Option(help="Simulator processes.")] = 2,
    jobs: Annotated[int, typer.Option(help="Jobs per process in a slice.")] = 1,
    slices: Annotated[int, typer.Option(help="Slices of the pool, each between two raw slices.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Measure the raw stepping rate of a simulator and the share of it that an evaluation reaches."""
    spec = untrained(case, params_file, method).spec
    episodes = -(-environments // len(SEEDS)) * workers * jobs  # of each seed
    start = time.perf_counter()
    with Rollout(
        partial(build, case), partial(load, case, params_file, method), name=case, seeds=SEEDS, obs_shape=spec.obs_shape,
        noise_dim=spec.act_dim, act_dim=spec.act_dim, environments=environments, workers=workers, timeout=60.0,
    ) as pool:  # fmt: skip
        building = time.perf_counter() - start
        simulators = [child.pid for child in multiprocessing.active_children() if child.pid]
        with Raw(case, record(case, load(case, params_file, method, 0), episodes), workers) as raw:
            raws, alone, kept = [raw.rate()], [raw.rate(1)], list[Rate]()
            for number in range(slices + 1):
                kept.append(kept_rate(pool, episodes, simulators))
                raws.append(raw.rate())
                alone.append(raw.rate(1))
                if number == 0:  # a warm-up of both, in which the workers load the policy
                    raws, alone, kept = raws[1:], alone[1:], []
    found = [compare(one, raws[i : i + 2], alone[i : i + 2], workers) for i, one in enumerate(kept)]
    result: dict[str, Any] = {
        "case": case,
        "environments": environments,
        "workers": workers,
        "building_seconds": building,
    }
    for name in found[0]:
        quartiles = statistics.quantiles((values[name] for values in found), n=4, method="inclusive")
        result[name] = quartiles[1]
        if "share" in name:
            result[f"{name}_quartiles"] = [round(quartiles[0], 3), round(quartiles[2], 3)]
    result = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in result.items()}
    print(json.dumps(result) if as_json else "\n".join(f"{name:24}{value}" for name, value in result.items()))


@dataclass(frozen=True)
class Rate:
    """Steps per second and processor seconds per step of a slice."""

    steps: float
    cpu: float


def compare(kept: Rate, raws: Sequence[Rate], alone: Sequence[Rate], workers: int) -> dict[str, float]:
    """Return rates in steps per second, processor time in µs per step, and the shares kept."""
    alone_steps = statistics.mean(raw.steps for raw in alone)
    raw_steps, raw_cpu = statistics.mean(raw.steps for raw in raws), statistics.mean(raw.cpu for raw in raws)
    return {
        "raw_steps_per_second": raw_steps,
        "steps_per_second": kept.steps,
        "share": kept.steps / raw_steps,
        "alone_steps_per_second": alone_steps,
        "share_of_alone": kept.steps / (workers * alone_steps),
        "raw_cpu_us": 1e6 * raw_cpu,
        "cpu_us": 1e6 * kept.cpu,
        "cpu_share": raw_cpu / kept.cpu,
    }


def kept_rate(pool: Rollout, episodes: int, simulators: list[int]) -> Rate:
    """Run the episodes of a slice in the pool, whose processes are given."""
    clock, cpu = time.perf_counter(), cpu_seconds(simulators)
    steps = sum(row.length for _, rows in pool.run([0], episodes=episodes) for row in rows)
    seconds, cpu = time.perf_counter() - clock, cpu_seconds(simulators) - cpu
    return Rate(steps / seconds, cpu / steps)


class Raw:
    """Processes that share the episodes of a slice and replay them at the same time; between two slices they sleep."""

    def __init__(self, case: str, recording: Recording, processes: int) -> None:
        """Start the processes and build an environment in each."""
        context = multiprocessing.get_context("spawn")
        self._connections: list[Connection[Any, Any]] = []
        for first in range(processes):
            here, there = context.Pipe()
            context.Process(target=replay, args=(case, recording[first::processes], there), daemon=True).start()
            there.close()
            self._connections.append(here)
        for connection in self._connections:
            connection.recv()

    def __enter__(self) -> Self:
        """Return the processes, which are ready."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the pipes, which ends the processes."""
        for connection in self._connections:
            connection.close()

    def rate(self, processes: int | None = None) -> Rate:
        """Replay the episodes of all processes, or of the first ones.

        The processes' rates are added, because they end at slightly different times.
        """
        connections = self._connections[:processes]
        for connection in connections:
            connection.send(None)
        found = [connection.recv() for connection in connections]
        cpu = sum(cpu for _, _, cpu in found) / sum(steps for steps, _, _ in found)
        return Rate(sum(steps / seconds for steps, seconds, _ in found), cpu)


def replay(case: str, recording: Recording, connection: Connection[Any, Any]) -> None:
    """Replay the recorded episodes at every request, and send back the steps, the seconds and the processor seconds."""
    env = build(case)
    env.reset(seed=0)
    connection.send(None)
    with contextlib.suppress(EOFError):
        while True:
            connection.recv()
            clock, cpu = time.perf_counter(), time.process_time()
            for seed, actions in recording:
                env.reset(seed=seed)
                for action in actions:
                    env.step(action)
            steps = sum(len(actions) for _, actions in recording)
            connection.send((steps, time.perf_counter() - clock, time.process_time() - cpu))


def record(case: str, act: Act, episodes: int) -> Recording:
    """Record the episodes that the pool runs at snapshot 0."""
    env, recording = build(case), Recording()
    (width,) = env.action_space.shape or ()
    for episode in range(episodes):
        for index, seed in enumerate(SEEDS):
            start, generator = streams(Key(seed, 0, episode))
            observation, ended, actions = env.reset(seed=start)[0], False, list[Floats]()
            while not ended:
                batch = np.broadcast_to(observation, (len(SEEDS), 1, len(observation))).copy()
                noise = generator.standard_normal((len(SEEDS), 1, width), np.float32)
                actions.append(act(batch, noise)[index, 0])
                observation, _, terminated, truncated, _ = env.step(actions[-1])
                ended = terminated or truncated
            recording.append((start, actions))
    return recording


def cpu_seconds(processes: Iterable[int]) -> float:
    """Return the processor time of processes, user and system (Linux)."""
    stats = [Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split() for process in processes]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / os.sysconf("SC_CLK_TCK")


def build(case: str) -> gymnasium.Env[Any, Any]:
    """Make the environment of a case."""
    name, keys, horizon = CASES[case]
    return FlatEnv(make(name, max_episode_steps=horizon), keys=keys, seeds_numpy=True)


def load(case: str, params_file: Path, method: str, step: int) -> Act:
    """Return an untrained policy to act in one of the processes, the same at every step."""
    import torch

    from fd.simulation.evaluation import acting

    torch.set_num_threads(1)
    return acting(untrained(case, params_file, method), torch.device("cpu"))


def untrained(case: str, params_file: Path, method: str) -> Policy:
    """Return a policy with fresh weights, of the shapes that the settings give."""
    from fd.method.acting import critic_net, flow_net, policy_net
    from fd.method.spec import Spec
    from fd.policy import Policy
    from fd.settings.refine_settings import TRAIN, Refine
    from fd.settings.settings_file import read_settings
    from fd.settings.training_settings import Network
    from fd.training.random_streams import generator

    env, values = build(case), read_settings(params_file)
    obs_shape, (act_dim,) = env.observation_space.shape or (), env.action_space.shape or ()
    sections = (
        values.section(Network, "network", case if case in values.tasks else None),
        values.section(Refine, "refine"),
        values.part(TRAIN, "methods", method, "train"),
    )
    spec = Spec.of(*(section.model_dump() for section in sections), {"obs_shape": obs_shape, "act_dim": act_dim})
    weights = [generator(seed, "weights", 0) for seed in SEEDS]
    return Policy(spec, SEEDS, 0, *(net(spec, weights) for net in (flow_net, policy_net, critic_net)))


if __name__ == "__main__":
    app()

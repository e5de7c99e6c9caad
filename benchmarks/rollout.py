"""How much of the simulators' raw stepping rate an evaluation keeps: `python -m benchmarks.rollout`.

Raw: as many processes as there are workers, each replaying recorded episodes of the policy in one environment, and nothing
else (a step's cost depends on the actions: resting in contact costs more than flailing). Kept: the rate through
`fd.rollout` with the untrained policies of three seeds, of the size that params.yaml gives. Both are told by the clock and
by the processors' time; the second is fair on a machine that others use, too.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import gymnasium
import numpy as np
import typer

from fd.environments import FlatEnv, make
from fd.rollout import Act, Rollout
from fd.simulators import Floats, Key, streams

if TYPE_CHECKING:
    from fd.policy import Policy

CASES: dict[str, tuple[str, tuple[str, ...], int]] = {
    "cube-single": ("cube-single-singletask-task1-v0", (), 200),
    "umaze": ("PointMaze_UMaze-v3", ("observation",), 300),
    "reacher": ("Reacher-v5", (), 50),
}
SEEDS = (0, 1, 2)
Recording = list[tuple[int, list[Floats]]]  # of each episode the environment's seed and the actions
app = typer.Typer(add_completion=False)


@app.command()
def command(
    case: Annotated[str, typer.Option(help=f"One of {', '.join(CASES)}.")] = "cube-single",
    params_file: Annotated[Path, typer.Option("--params", help="The file of settings.")] = Path("params.yaml"),
    method: Annotated[str, typer.Option(help="Method whose policy acts.")] = "fidec",
    environments: Annotated[int, typer.Option(help="Environments alive at a time.")] = 12,
    workers: Annotated[int, typer.Option(help="Simulator processes.")] = 2,
    episodes: Annotated[int, typer.Option(help="Episodes of each of the three seeds, in one round.")] = 8,
    rounds: Annotated[int, typer.Option(help="Measurements, of which the median is told.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object.")] = False,
) -> None:
    """Measure the raw stepping rate of a simulator and what an evaluation keeps of it."""
    # Imported here, for the processes of the simulators import this file again.
    import torch

    from fd.evaluation import acting

    torch.set_num_threads(1)
    policy = untrained(case, params_file, method)
    act = acting(policy, torch.device("cpu"))
    recording = record(case, act, episodes=2)
    start = time.perf_counter()
    with Rollout(
        partial(build, case), name=case, seeds=SEEDS, obs_dim=policy.spec.obs_dim, act_dim=policy.spec.act_dim,
        environments=environments, workers=workers, timeout=60.0,
    ) as pool:  # fmt: skip
        building = time.perf_counter() - start
        pool.run(act, step=0, episodes=1)
        measured = [measure(case, pool, act, step=step, episodes=episodes, recording=recording, workers=workers)
                    for step in range(1, rounds + 1)]  # fmt: skip
    result: dict[str, Any] = {
        "case": case,
        "environments": environments,
        "workers": workers,
        "building_seconds": building,
    }
    result |= {name: statistics.median(values[name] for values in measured) for name in measured[0]}
    result = {name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in result.items()}
    print(json.dumps(result) if as_json else "\n".join(f"{name:24}{value}" for name, value in result.items()))


def measure(
    case: str, pool: Rollout, act: Act, *, step: int, episodes: int, recording: Recording, workers: int
) -> dict[str, float]:
    """Return rates in steps per second, processor time in µs a step, and the shares kept."""
    simulators = [child.pid for child in multiprocessing.active_children() if child.pid]
    clock, cpu, own = time.perf_counter(), cpu_seconds(simulators), time.process_time()
    steps = sum(row.length for row in pool.run(act, step=step, episodes=episodes))
    seconds, cpu, own = time.perf_counter() - clock, cpu_seconds(simulators) - cpu, time.process_time() - own
    raw = raw_rates(case, recording, workers)
    raw_rate, raw_cpu = sum(rate for rate, _ in raw), statistics.mean(cpu for _, cpu in raw)
    return {
        "raw_steps_per_second": raw_rate,
        "steps_per_second": steps / seconds,
        "share": steps / seconds / raw_rate,
        "raw_cpu_us": 1e6 * raw_cpu,
        "simulator_cpu_us": 1e6 * cpu / steps,
        "policy_cpu_us": 1e6 * own / steps,
        "cpu_share": raw_cpu * steps / (cpu + own),
    }


def raw_rates(case: str, recording: Recording, processes: int) -> list[tuple[float, float]]:
    """Return (steps per second, processor seconds a step) of each of several processes that step at the same time."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(processes), context.Queue()
    started = [
        context.Process(target=replay, args=(case, recording, barrier.wait, answers.put)) for _ in range(processes)
    ]
    for process in started:
        process.start()
    found = [answers.get(timeout=300) for _ in started]
    for process in started:
        process.join()
    return found


def replay(
    case: str, recording: Recording, ready: Callable[[], int], tell: Callable[[tuple[float, float]], None]
) -> None:
    """Replay the recorded episodes for 4 s or more from when all are ready, and tell how fast that went."""
    env = build(case)
    env.reset(seed=0)
    ready()
    steps, start, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() - start < 4.0:
        for seed, actions in recording:
            env.reset(seed=seed)
            for action in actions:
                env.step(action)
            steps += len(actions)
    tell((steps / (time.perf_counter() - start), (time.process_time() - cpu) / steps))


def record(case: str, act: Act, episodes: int) -> Recording:
    """Record episodes of every seed's policy."""
    env, recording = build(case), Recording()
    (width,) = env.action_space.shape or ()
    for index, seed in enumerate(SEEDS):
        for episode in range(episodes):
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


def untrained(case: str, params_file: Path, method: str) -> Policy:
    """Return a policy with fresh weights, of the shapes that the settings give."""
    from fd import params
    from fd.agent import flow_net, policy_net
    from fd.policy import Policy
    from fd.spec import Spec
    from fd.streams import generator

    env, values = build(case), params.load(params_file)
    (obs_dim,), (act_dim,) = env.observation_space.shape or (), env.action_space.shape or ()
    network = values.settings(case).network if case in values.tasks else values.network
    sections = (network, values.refine, values.method(method))
    spec = Spec.of(*(section.model_dump() for section in sections), {"obs_dim": obs_dim, "act_dim": act_dim})
    weights = [generator(seed, "weights", 0) for seed in SEEDS]
    return Policy(spec, SEEDS, 0, flow_net(spec, weights), policy_net(spec, weights))


if __name__ == "__main__":
    app()

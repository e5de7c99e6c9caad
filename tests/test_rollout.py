"""Evaluation in worker processes: reproducible whatever the number of workers, and clear when a simulator fails."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from processes import alive

from fd.environments import FlatEnv, make
from fd.errors import FdError
from fd.rollout import Rollout
from fd.simulators import Key, streams

SEEDS = (3, 0, 7)


class Walk(gymnasium.Env[np.ndarray, np.ndarray]):
    """Episodes of 3 to 12 steps, by the seed, which fail as `fault` says in their third step or at their start."""

    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, fault: str | None = None, log: Path | None = None) -> None:
        self._fault = fault
        if log is not None:
            with log.open("a") as file:
                file.write("built\n")
        if fault == "build":
            raise OSError("no such\n  model")

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        if self._fault == "reset":
            raise ValueError("boom")
        self._end, self._time = int(self.np_random.integers(3, 13)), 0
        self._state = self.np_random.standard_normal(3).astype(np.float32)
        return self._state, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self._time += 1
        if self._time == 3:
            self._fail()
        self._state = 0.9 * self._state + np.float32(0.1) * np.append(action, action[:1])
        success = bool(self._state[0] > 0.2 and self._time == 2)  # never in the last step
        return self._state, float(self._state.sum()), self._time == self._end, False, {"success": success}

    def _fail(self) -> None:
        if self._fault == "step":
            raise ValueError("boom\n  twice")
        if self._fault == "exit":
            os._exit(5)
        if self._fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self._fault == "hang":
            time.sleep(3600)


class Seen(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The reward is the sum of the observation: returns that agree to the last bit mean that trajectories do."""

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        return observation, float(observation.sum()), terminated, truncated, info


def reacher() -> Seen:
    return Seen(FlatEnv(make("Reacher-v5", max_episode_steps=12), keys=(), seeds_numpy=False))


def pointmaze() -> Seen:
    """Its reset draws from numpy's global generator, which the environments of a worker share."""
    return Seen(FlatEnv(make("pointmaze-medium-singletask-task1-v0", max_episode_steps=12), keys=(), seeds_numpy=True))


def linear(observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """A policy for every seed, elementwise, so that a row's action does not depend on the batch's shape."""
    bias = np.linspace(-0.5, 0.5, len(observations), dtype=np.float32)[:, None, None]
    return np.clip(0.3 * observations[..., : noise.shape[-1]] + 0.5 * noise + bias, -1, 1)


def dense(observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """A policy of matrix products, whose rounding may depend on the batch's shape."""
    weights = np.random.default_rng(0).standard_normal((len(observations), observations.shape[-1], noise.shape[-1]))
    return np.tanh(observations @ weights.astype(np.float32) + noise)


def walks(fault: str | None = None, *, workers: int = 2, environments: int = 6, **more: Any) -> Rollout:
    settings = {"name": "walk", "seeds": SEEDS, "obs_dim": 3, "noise_dim": 2, "act_dim": 2, "timeout": 30.0} | more
    return Rollout(partial(Walk, fault), environments=environments, workers=workers, **settings)


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("make_env", "obs_dim"), [(reacher, 10), (pointmaze, 2)])
def test_rows_do_not_depend_on_the_number_of_workers(make_env: Any, obs_dim: int) -> None:
    found = []
    for workers in (1, 2, 3):
        with Rollout(
            make_env,
            name="x",
            seeds=SEEDS,
            obs_dim=obs_dim,
            noise_dim=2,
            act_dim=2,
            environments=9,
            workers=workers,
            timeout=60,
        ) as pool:
            found.append(pool.run(dense, step=100, episodes=5))
    assert found[0] == found[1] == found[2]
    assert [(row.seed, row.episode) for row in found[0]] == [(s, e) for s in sorted(SEEDS) for e in range(5)]
    assert {row.length for row in found[0]} == {12}
    assert len({row.return_ for row in found[0]}) == 15


def test_rows_do_not_depend_on_the_number_of_environments() -> None:
    found = []
    for environments in (1, 3, 7, 30):
        with walks(environments=environments) as pool:
            found.append(pool.run(linear, step=100, episodes=7))
    assert found[0] == found[1] == found[2] == found[3]
    assert {row.success for row in found[0]} == {False, True}
    assert len({row.length for row in found[0]}) > 3


def test_a_half_batch_without_episodes_gives_no_answer_that_another_turn_could_take_for_its_own() -> None:
    with walks(environments=12) as pool:
        few = [pool.run(linear, step=100, episodes=2) for _ in range(3)]
        many = pool.run(linear, step=100, episodes=4)
    assert few[0] == few[1] == few[2] == [row for row in many if row.episode < 2]


def test_an_episode_can_be_replayed_alone_and_depends_on_seed_snapshot_and_number() -> None:
    with walks() as pool:
        rows = pool.run(linear, step=100, episodes=4) + pool.run(linear, step=200, episodes=4)
    assert len({row.return_ for row in rows}) == len(rows)
    env = Walk()
    for row in rows:
        seed, generator = streams(Key(row.seed, row.step, row.episode))
        observation, _ = env.reset(seed=seed)
        total, length, ended, batch = 0.0, 0, False, np.zeros((3, 1, 3), np.float32)
        while not ended:
            index = SEEDS.index(row.seed)
            batch[index] = observation
            noise = np.broadcast_to(generator.standard_normal(2, np.float32), (3, 1, 2))
            observation, reward, ended, _, _ = env.step(linear(batch, noise)[index, 0])
            total, length = total + reward, length + 1
        assert (row.return_, row.length) == (total, length)


def test_environments_are_built_once_and_descriptors_do_not_grow(tmp_path: Path) -> None:
    log, open_files = tmp_path / "log", []
    for _ in range(3):
        settings = {"name": "walk", "seeds": SEEDS, "obs_dim": 3, "noise_dim": 2, "act_dim": 2, "timeout": 30.0}
        with Rollout(partial(Walk, log=log), environments=6, workers=2, **settings) as pool:
            for step in (1, 2, 3):
                pool.run(linear, step=step, episodes=4)
                open_files.append(len(os.listdir("/proc/self/fd")))
        open_files.append(len(os.listdir("/proc/self/fd")))
    assert log.read_text().count("built") == 3 * 6
    assert open_files[0] == open_files[2] == open_files[-2]
    assert open_files[3] == open_files[-1]


def test_batches_keep_their_shape_and_episodes_are_told_when_they_end() -> None:
    shapes, told = set(), []

    def act(observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        shapes.add((observations.shape, noise.shape))
        return linear(observations, noise)

    with walks(environments=12) as pool:
        rows = pool.run(act, step=1, episodes=5, on_episode=told.append)
    assert shapes == {((3, 2, 3), (3, 2, 2))}
    assert sorted(told, key=lambda row: (row.seed, row.episode)) == rows


def test_the_noise_has_the_width_that_the_policy_asks_for() -> None:
    seen = []

    def act(observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        seen.append(noise.copy())
        return linear(observations, noise[..., :2])

    with walks(environments=3, noise_dim=6) as pool:
        pool.run(act, step=9, episodes=1)
    generators = [streams(Key(seed, 9, 0))[1] for seed in SEEDS]
    expected = np.stack([generator.standard_normal((1, 6), np.float32) for generator in generators])
    assert seen[0].shape == (3, 1, 6)
    assert (seen[0] == expected).all()


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("step", "seed 3, snapshot 9, episode 0, in step 3: ValueError: boom twice"),
        ("reset", "seed 3, snapshot 9, episode 0, in reset: ValueError: boom"),
        ("exit", "seed 3, snapshot 9, episode 0, in step 3: its process died with exit code 5"),
        ("kill", "seed 3, snapshot 9, episode 0, in step 3: its process died with exit code -9, perhaps for lack of memory"),
        ("hang", "seed 3, snapshot 9, episode 0, in step 3: hangs, no answer in 2 s"),
    ],
)  # fmt: skip
def test_a_failing_environment_is_named_and_its_processes_end(fault: str, cause: str) -> None:
    with walks(fault, timeout=2.0) as pool:
        with pytest.raises(FdError) as error:
            pool.run(linear, step=9, episodes=4)
        assert multiprocessing.active_children() == []
    # Every environment fails in the same step; where both processes die, either may be the first to be noticed.
    expected = re.escape(cause).replace("seed\\ 3", r"seed \d+")
    assert re.fullmatch(f"walk: the environment of {expected}", str(error.value))


def test_an_environment_that_cannot_be_built_is_named() -> None:
    with pytest.raises(FdError, match=r"^walk: an environment being built: OSError: no such model$"):
        walks("build")


def test_an_environment_of_other_shapes_is_named() -> None:
    with pytest.raises(FdError, match=r"\(3,\) and \(2,\), the data have \(4,\) and \(2,\)"):
        walks(obs_dim=4)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_action_that_is_not_finite_is_an_error_of_its_seed(value: float) -> None:
    def act(observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        actions = linear(observations, noise)
        actions[1, 0, 1] = value
        return actions

    with walks() as pool, pytest.raises(FdError, match=r"^walk: the policy of seed 0, snapshot 9 gave NaN or infinity"):
        pool.run(act, step=9, episodes=4)


def test_actions_of_another_shape_are_an_error() -> None:
    with walks() as pool, pytest.raises(FdError, match=r"shape \(3, 1, 3\), allowed: \(3, 1, 2\)"):
        pool.run(lambda observations, noise: observations, step=9, episodes=4)


def test_workers_end_with_a_parent_that_is_killed_even_inside_a_hanging_step(tmp_path: Path) -> None:
    script = (
        "import multiprocessing, threading, time\n"
        "from test_rollout import linear, walks\n"
        "pool = walks('hang')\n"
        "threading.Thread(target=pool.run, args=(linear,), kwargs={'step': 1, 'episodes': 4}, daemon=True).start()\n"
        "time.sleep(1)\n"
        "print(*(child.pid for child in multiprocessing.active_children()), flush=True)\n"
        "time.sleep(60)\n"
    )
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        children = [int(number) for number in parent.stdout.readline().split()]
        parent.kill()
    assert len(children) == 2
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and any(alive(child) for child in children):
        time.sleep(0.05)
    assert not any(alive(child) for child in children)

"""Evaluation in worker processes: reproducible whatever the number of workers, and clear when something fails in one."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from fd.errors import FdError
from fd.simulation.environments import FlatEnv, make
from fd.simulation.episodes import Act, Episode, Key, MakeAct, streams
from fd.simulation.rollout import Rollout

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
        if fault == "unknown":
            raise FdError("environment: Walk-v9 does not exist")

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
        if self._fault == "slow":
            time.sleep(0.8)
        if self._fault == "hang":
            time.sleep(3600)
        if self._fault == "lock":  # of the interpreter, held for longer than anybody lives
            re.match(r"(a+)+$", "a" * 60 + "b")
        if self._fault == "memory":
            np.ones(10**9)


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


class Broken:
    """Makes `linear`, which from snapshot `bad` on fails as `fault` says, there or in its second call."""

    def __init__(self, fault: Any, bad: int) -> None:
        self._fault, self._bad = fault, bad

    def __call__(self, step: int) -> Act:
        self._calls = 0
        if step < self._bad:
            return linear
        if self._fault == "missing":
            raise FdError("runs/x: no such snapshot")
        if self._fault == "unreadable":
            raise RuntimeError("boom\n twice")
        return self._act

    def _act(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        self._calls += 1
        actions = linear(observations, noise)
        if self._calls == 2:
            if self._fault == "raises":
                raise ValueError("boom")
            if self._fault == "hangs":
                time.sleep(3600)
            if self._fault == "shape":
                return observations
            actions[1, 0, 1] = self._fault
        return actions


class Told:
    """Makes `linear`, and writes what it was called with to files of a folder, one for each process and snapshot."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, step: int) -> Act:
        self._calls: list[tuple[np.ndarray, np.ndarray]] = []
        self._file = self._folder / f"{os.getpid()}-{step}.npz"
        assert not self._file.exists()
        return self._act

    def _act(self, observations: np.ndarray, noise: np.ndarray) -> np.ndarray:
        self._calls.append((observations.copy(), noise.copy()))
        names = [f"{number:03d}{name}" for number in range(len(self._calls)) for name in ("observations", "noise")]
        np.savez(self._file, **dict(zip(names, (array for call in self._calls for array in call), strict=True)))
        return linear(observations, noise[..., :2])


def calls(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Observations and noise of every call that `Told` wrote."""
    found = []
    for file in folder.iterdir():
        with np.load(file) as arrays:
            found += [(arrays[name], arrays[name[:3] + "noise"]) for name in sorted(arrays) if "obs" in name]
    return found


def always(act: Act, step: int) -> Act:
    return act


def walks(
    fault: str | None = None,
    make_act: MakeAct | None = None,
    log: Path | None = None,
    make_env: Any = None,
    **more: Any,
) -> Rollout:
    settings: dict[str, Any] = {"name": "walk", "seeds": SEEDS, "obs_shape": (3,), "noise_dim": 2, "act_dim": 2}
    settings |= {"environments": 6, "workers": 2, "timeout": 30.0} | more
    return Rollout(make_env or partial(Walk, fault, log), make_act or partial(always, linear), **settings)


def rows_of(pool: Rollout, step: int, episodes: int) -> list[Episode]:
    """The rows of one snapshot."""
    ((told, rows),) = pool.run([step], episodes=episodes)
    assert told == step
    return rows


@pytest.fixture(autouse=True)
def no_process_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize(("make_env", "obs_dim"), [(reacher, 10), (pointmaze, 2)])
def test_rows_do_not_depend_on_the_number_of_workers(make_env: Any, obs_dim: int) -> None:
    found = []
    for workers in (1, 3):
        with Rollout(
            make_env,
            partial(always, dense),
            name="x",
            seeds=SEEDS,
            obs_shape=(obs_dim,),
            noise_dim=2,
            act_dim=2,
            environments=6,
            workers=workers,
            timeout=60,
        ) as pool:
            found.append(dict(pool.run([100, 200], episodes=5)))
    assert found[0] == found[1]
    assert found[0].keys() == {100, 200}
    for step, rows in found[0].items():
        assert [(row.seed, row.episode) for row in rows] == [(s, e) for s in sorted(SEEDS) for e in range(5)]
        assert {(row.step, row.length) for row in rows} == {(step, 12)}
    assert len({row.return_ for rows in found[0].values() for row in rows}) == 30


def test_rows_do_not_depend_on_the_number_of_environments_or_of_episodes() -> None:
    found = []
    for environments in (1, 7, 30):
        with walks(environments=environments) as pool:
            found.append(rows_of(pool, 100, 7))
            few = rows_of(pool, 100, 2)
        assert few == [row for row in found[-1] if row.episode < 2]
    assert found[0] == found[1] == found[2]
    assert {row.success for row in found[0]} == {False, True}
    assert len({row.length for row in found[0]}) > 3


def test_an_episode_can_be_replayed_alone_and_depends_on_seed_snapshot_and_number() -> None:
    with walks() as pool:
        rows = [row for _, rows in pool.run([100, 200], episodes=4) for row in rows]
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
    settings = {"name": "walk", "seeds": SEEDS, "obs_shape": (3,), "noise_dim": 2, "act_dim": 2, "timeout": 30.0}
    for _ in range(2):
        with Rollout(partial(Walk, log=log), partial(always, linear), environments=4, workers=2, **settings) as pool:
            for _ in pool.run((1, 2, 3), episodes=4):
                open_files.append(len(os.listdir("/proc/self/fd")))
        open_files.append(len(os.listdir("/proc/self/fd")))
    assert log.read_text().count("built") == 2 * 2 * 6
    assert open_files[0] == open_files[2] == open_files[-2]
    assert open_files[3] == open_files[-1]


def test_snapshots_are_given_as_they_end_and_episodes_are_told() -> None:
    told: list[Episode] = []
    with walks(workers=1) as pool:
        snapshots = pool.run([2, 1, 3], episodes=5, on_episode=told.append)
        for step in (2, 1, 3):
            assert next(snapshots) == (step, sorted(told[-15:], key=lambda row: (row.seed, row.episode)))
        assert next(snapshots, None) is None
        assert len(told) == 45 and len(set(told)) == 45


def test_a_worker_that_is_free_takes_the_next_job_of_any_snapshot(tmp_path: Path) -> None:
    """The job of the first or the second snapshot never ends; the other worker does the rest."""
    with walks(make_act=partial(_first_sleeps, tmp_path / "first")) as pool:
        snapshots = pool.run([1, 2, 3], episodes=2)
        assert next(snapshots)[0] in (1, 2)
        assert next(snapshots)[0] == 3


def _first_sleeps(first: Path, step: int) -> Act:
    """The process that comes first does nothing, ever."""
    try:
        first.touch(exist_ok=False)
    except FileExistsError:
        return linear
    time.sleep(3600)
    raise AssertionError


def test_an_unfinished_run_closes_the_pool() -> None:
    with walks() as pool:
        snapshots = pool.run([1, 2], episodes=4)
        next(snapshots)
        snapshots.close()
        assert multiprocessing.active_children() == []
        with pytest.raises(ValueError, match="closed"):
            next(pool.run([1], episodes=4))


def test_the_policies_of_all_seeds_act_in_one_call_of_one_shape_whose_rows_depend_on_the_job_alone(
    tmp_path: Path,
) -> None:
    found = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        with walks(make_act=Told(folder), workers=workers) as pool:
            lengths = [row.length for _, rows in pool.run([1, 2, 3], episodes=5) for row in rows]
        found.append(sorted((obs.tobytes(), noise.tobytes()) for obs, noise in calls(folder)))
        assert {(obs.shape, noise.shape) for obs, noise in calls(folder)} == {((3, 2, 3), (3, 2, 2))}
    assert found[0] == found[1]
    assert len(found[0]) < sum(lengths) / 2


def test_the_noise_has_the_width_that_the_policy_asks_for(tmp_path: Path) -> None:
    with walks(make_act=Told(tmp_path), environments=3, noise_dim=6, workers=1) as pool:
        rows_of(pool, 9, 1)
    generators = [streams(Key(seed, 9, 0))[1] for seed in SEEDS]
    expected = np.stack([generator.standard_normal((1, 6), np.float32) for generator in generators])
    assert calls(tmp_path)[0][1].shape == (3, 1, 6)
    assert (calls(tmp_path)[0][1] == expected).all()


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("step", "seed 3, snapshot 9, episode 0, in step 3: ValueError: boom twice"),
        ("reset", "seed 3, snapshot 9, episode 0, in reset: ValueError: boom"),
        ("exit", "seed 3, snapshot 9, episode 0, in step 3: its process died with exit code 5"),
        ("kill", "seed 3, snapshot 9, episode 0, in step 3: its process died with exit code -9, perhaps out of memory"),
        ("hang", "seed 3, snapshot 9, episode 0, in step 3: hangs, no progress in 2 s"),
    ],
)  # fmt: skip
def test_a_failing_environment_is_named_and_its_processes_end(fault: str, cause: str) -> None:
    with walks(fault, timeout=2.0) as pool:
        with pytest.raises(FdError) as error:
            rows_of(pool, 9, 4)
        assert multiprocessing.active_children() == []
    # The other process fails in the same step of its first episode; either may be the first to be noticed.
    expected = re.escape(cause).replace("episode\\ 0", "episode [02]")
    assert re.fullmatch(f"walk: the environment of {expected}", str(error.value))


def test_an_environment_that_cannot_be_built_is_named() -> None:
    with pytest.raises(FdError, match=r"^walk: an environment being built: OSError: no such model$"):
        walks("build")
    with pytest.raises(FdError, match=r"^walk: environment: Walk-v9 does not exist$"):
        walks("unknown")


def test_an_environment_of_other_shapes_is_named() -> None:
    with pytest.raises(FdError, match=r"\(3,\) and \(2,\), the data have \(4,\) and \(2,\)"):
        walks(obs_shape=(4,))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (np.nan, "walk: the policy of seed 0, snapshot 9 gave NaN or infinity as an action (the observations are finite)"),
        (np.inf, "walk: the policy of seed 0, snapshot 9 gave NaN or infinity as an action (the observations are finite)"),
        ("shape", "walk: the policy gave actions of shape (3, 2, 3), allowed: (3, 2, 2)"),
        ("raises", "walk: the policy of snapshot 9: ValueError: boom"),
        ("hangs", "walk: the policy of snapshot 9: hangs, no progress in 2 s"),
        ("missing", "runs/x: no such snapshot"),
        ("unreadable", "walk: the policy of snapshot 9 being loaded: RuntimeError: boom twice"),
    ],
)  # fmt: skip
def test_a_failing_policy_is_named_and_what_ended_before_is_kept(fault: Any, message: str) -> None:
    with walks(make_act=Broken(fault, 9), workers=1, timeout=2.0) as pool:
        snapshots = pool.run([8, 9], episodes=4)
        step, rows = next(snapshots)
        assert (step, len(rows)) == (8, 12)
        with pytest.raises(FdError) as error:
            next(snapshots)
        assert multiprocessing.active_children() == []
    assert str(error.value) == message


def test_slow_progress_is_no_hanging() -> None:
    """Steps that take longer than the timeout together, not each."""
    with walks("slow", environments=3, workers=1, timeout=2.0) as pool:
        start = time.monotonic()
        rows = rows_of(pool, 9, 1)
        assert len(rows) == 3 and time.monotonic() - start > 2.0

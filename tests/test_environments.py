"""Evaluation environments of both suites behind one interface."""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from two_episodes import manifest_of, two_episodes

from fd.environments import FlatEnv, make, make_env
from fd.errors import FdError
from fd.sources.waypoint import evaluation_spec
from fd.transitions import Manifest

HORIZON = 12


def ogbench(name: str) -> Manifest:
    """A manifest of an OGBench task."""
    return replace(manifest_of(two_episodes()), environment={"suite": "ogbench", "name": name}, horizon=HORIZON)


def minari(spec: Any, *keys: str) -> Manifest:
    """A manifest of a Minari task."""
    environment = {"suite": "minari", "spec": json.loads(spec.to_json()), "observation": list(keys)}
    return replace(manifest_of(two_episodes()), environment=environment, horizon=HORIZON)


def umaze() -> Any:
    """Spec of a maze with one start and one goal."""
    return evaluation_spec("PointMaze_UMaze-v3", 300, start=(3, 1), goal=(1, 1))


MANIFESTS = {
    "cube": lambda: ogbench("cube-single-singletask-task1-v0"),
    "maze": lambda: ogbench("pointmaze-medium-singletask-task1-v0"),
    "umaze": lambda: minari(umaze(), "observation"),
}
SHAPES = {"cube": (28, 5), "maze": (2, 2), "umaze": (4, 2)}


@pytest.fixture(scope="module", params=list(MANIFESTS))
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[str, FlatEnv, FlatEnv]]:
    """The same environment twice."""
    manifest = MANIFESTS[request.param]()
    envs = make_env(manifest), make_env(manifest)
    yield request.param, *envs
    for env in envs:
        env.close()


def episode(env: FlatEnv, seed: int) -> list[Any]:
    """What an episode of random actions gives."""
    random = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    rows: list[Any] = [observation]
    ended = False
    while not ended:
        action = random.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        observation, reward, terminated, truncated, info = env.step(action)
        rows += [observation, reward, terminated, truncated, info["success"]]
        ended = terminated or truncated
    return rows


def test_flat_float32_and_cut_at_the_horizon(pair: tuple[str, FlatEnv, FlatEnv]) -> None:
    name, env, _ = pair
    width, actions = SHAPES[name]
    assert env.observation_space.shape == (width,)
    assert env.action_space == gymnasium.spaces.Box(-1.0, 1.0, (actions,), np.float32)
    rows = episode(env, 0)
    assert rows[0].dtype == np.float32
    assert rows[0].shape == (width,)
    assert len(rows) == 1 + 5 * HORIZON
    assert rows[-2] is True
    assert [type(value) for value in rows[2:6]] == [float, bool, bool, bool]


def test_an_episode_depends_on_its_seed_alone(pair: tuple[str, FlatEnv, FlatEnv]) -> None:
    _, env, other = pair
    first = episode(env, 5)
    episode(env, 6)  # neither what the environment did before…
    episode(other, 7)
    np.random.seed(99)  # …nor the state of the global generator matters
    again = episode(other, 5)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], episode(other, 6)[0])


def test_nothing_is_left_in_the_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("maze", "umaze"):
        make_env(MANIFESTS[name]()).close()
    assert list(tmp_path.iterdir()) == []


def test_goal_stays_at_the_centre_of_its_cell() -> None:
    env = make(umaze())
    starts = []
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        starts.append(tuple(observation["achieved_goal"]))
        np.testing.assert_allclose(observation["desired_goal"], [-1, 1])
        np.testing.assert_allclose(env.unwrapped.goal, [-1, 1])  # type: ignore[attr-defined]
    assert len(set(starts)) == 3
    env.close()


def test_reaching_the_goal_is_a_success_and_ends_the_episode() -> None:
    env = make_env(minari(umaze(), "observation"))
    env.reset(seed=0)
    inner: Any = env.unwrapped
    inner.point_env.set_state(np.array([-1.0, 1.0]), np.zeros(2))
    _, reward, terminated, _, info = env.step(np.zeros(2, np.float32))
    assert (reward, terminated, info["success"]) == (1.0, True, True)
    env.close()


def test_keys_are_concatenated_in_their_order() -> None:
    env = make_env(minari(umaze(), "desired_goal", "observation"))
    observation, _ = env.reset(seed=0)
    assert observation.shape == (6,)
    assert observation[:2].tolist() == [-1, 1]
    env.close()


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (replace(ogbench("x"), environment={"suite": "atari"}), "'atari' does not exist, allowed: ogbench, minari"),
        (ogbench("cube-sextuple-singletask-v0"), "`cube-sextuple-singletask` doesn't exist"),
        (minari(gymnasium.spec("Pendulum-v1")), "allowed: a box from -1 to 1"),
        (minari(gymnasium.spec("CartPole-v1")), "allowed: a box from -1 to 1"),
        (lambda: minari(umaze(), "speed"), "allowed: achieved_goal, desired_goal, observation"),
        (lambda: minari(umaze()), "allowed: achieved_goal, desired_goal, observation"),
    ],
)
def test_unusable_environment_is_one_line(manifest: Any, message: str) -> None:
    with pytest.raises(FdError) as error:
        make_env(manifest() if callable(manifest) else manifest)
    assert message in str(error.value)
    assert "\n" not in str(error.value)

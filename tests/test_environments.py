"""Evaluation environments of both suites behind one interface."""

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from edits import refused
from two_episodes import manifest_of, two_episodes

from fd.datasets.ogbench import parse_name
from fd.datasets.push import push_spec
from fd.datasets.waypoint import waypoint_spec
from fd.errors import FdError
from fd.simulation.environments import FlatEnv, make, make_env
from fd.storage.transitions import Manifest

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
    return waypoint_spec("PointMaze_UMaze-v3", 300, start=(3, 1), goal=(1, 1))


MANIFESTS = {
    "cube": lambda: ogbench("cube-single-singletask-task1-v0"),
    "maze": lambda: ogbench("pointmaze-medium-singletask-task1-v0"),
    "umaze": lambda: minari(umaze(), "observation"),
    "pusher": lambda: minari(push_spec(100)),
}
SHAPES = {"cube": (28, 5), "maze": (2, 2), "umaze": (4, 2), "pusher": (23, 7)}


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
        (ogbench("visual-cube-dozen-singletask-v0"), "`visual-cube-dozen-singletask` doesn't exist"),
    ],
)
def test_unusable_environment_is_one_line(manifest: Any, message: str) -> None:
    with refused(message):
        make_env(manifest() if callable(manifest) else manifest)


ROOT = Path(__file__).parent.parent
TABLE = (ROOT / "reference" / "tasks.csv").read_text().splitlines()
TASKS = [row for row in csv.DictReader(TABLE) if row["source"] == "ogbench"]


def finish(inner: Any) -> None:
    """Put a simulator of OGBench into a state that its task asks for."""
    if hasattr(inner, "set_agent_ball_xy"):
        inner.set_agent_ball_xy(np.add(inner.cur_goal_xy, 1), inner.cur_goal_xy)
    elif hasattr(inner, "set_xy"):
        inner.set_xy(inner.cur_goal_xy)
    for cube in range(getattr(inner, "_num_cubes", 0)):
        inner.data.joint(f"object_joint_{cube}").qpos[:3] = inner.data.mocap_pos[inner._cube_target_mocap_ids[cube]]
    for part in ("drawer", "window"):
        if hasattr(inner, f"_target_{part}_pos"):
            inner.data.joint(f"{part}_slide").qpos[0] = getattr(inner, f"_target_{part}_pos")
    if hasattr(inner, "_target_button_states"):
        inner._cur_button_states[:] = inner._target_button_states
        inner._apply_button_states()


def test_the_table_names_all_tasks_of_ogbench() -> None:
    assert len({row["dataset"] for row in TASKS}) == 55
    assert sum(row["observation"] == "64 64 3" for row in TASKS) == 5


@pytest.mark.parametrize("row", TASKS, ids=[row["task"] for row in TASKS])
def test_every_task_of_ogbench_is_as_the_table_says(row: dict[str, str]) -> None:
    horizon, shape = int(row["horizon"]), tuple(int(size) for size in row["observation"].split())
    name = parse_name(row["dataset"])
    assert gymnasium.spec(name.task).max_episode_steps == horizon
    env = make_env(replace(ogbench(name.task), horizon=horizon))
    images = len(shape) == 3
    assert env.observation_space.shape == shape
    assert env.observation_space.dtype == (np.uint8 if images else np.float32)
    assert env.action_space.shape == (int(row["actions"]),)
    env.action_space.seed(0)
    env.reset(seed=0)
    # A whole episode of one task of each environment; of the others, and of images, which software renders slowly, a few steps.
    steps = 1 if images else horizon if row["task"].endswith("task1") else 5
    for step in range(1, steps + 1):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert env.observation_space.contains(observation)
        assert (reward < 0, terminated, truncated, info["success"]) == (True, False, step == horizon, False)
    if steps == horizon:
        env.reset(seed=1)
    finish(env.unwrapped)
    for _ in range(2):  # the reward of a step is that of the state before it
        _, reward, terminated, _, info = env.step(np.zeros(env.action_space.shape, np.float32))
    assert (reward, terminated, info["success"]) == (0.0, True, True)
    env.close()


def test_images_are_stacked_oldest_first_and_the_first_stands_in_for_missing_ones() -> None:
    manifest = ogbench("visual-cube-single-singletask-task1-v0")
    single, stacked = make_env(manifest), make_env(manifest, frame_stack=3)
    assert stacked.observation_space == gymnasium.spaces.Box(0, 255, (64, 64, 9), np.uint8)
    for seed in range(2):
        images, stacks = [single.reset(seed=seed)[0]], [stacked.reset(seed=seed)[0]]
        for sign in (1.0, -1.0, 1.0)[: 3 * (1 - seed)]:
            action = np.full(5, sign, np.float32)
            images.append(single.step(action)[0])
            stacks.append(stacked.step(action)[0])
        assert len({image.tobytes() for image in images}) == len(images)
        for now, stack in enumerate(stacks):
            expected = [images[max(now - back, 0)] for back in (2, 1, 0)]
            np.testing.assert_array_equal(stack, np.concatenate(expected, axis=-1))
    single.close()
    stacked.close()


def test_vectors_are_not_stacked() -> None:
    with pytest.raises(FdError, match="frame_stack: 2 needs images, but its observations are vectors, allowed: 1"):
        make_env(ogbench("cube-single-singletask-v0"), frame_stack=2)


@pytest.mark.parametrize("renderer", [{}, {"MUJOCO_GL": "egl"}])
def test_no_renderer_is_one_line(renderer: dict[str, str]) -> None:
    script = (
        "from fd.simulation.environments import make; from fd.errors import FdError\n"
        "try: make('visual-cube-single-v0')\n"
        "except FdError as error: print(error)\n"
    )
    variables = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    variables |= {"__EGL_VENDOR_LIBRARY_FILENAMES": "/nonexistent", "PYTHONPATH": str(ROOT)} | renderer
    done = subprocess.run([sys.executable, "-c", script], check=True, env=variables, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.count("\n") == 1
    assert "EGL" in done.stdout


@pytest.mark.parametrize("name", ["PointMaze_UMaze-v3", "cube-single-v0"])
def test_no_other_program_is_started(name: str) -> None:
    """One that outlived its process, killed, would write after the stage's last line."""
    script = (
        "import sys; from fd.simulation.environments import make\n"
        "sys.addaudithook(lambda event, args: print(args[1]) if event == 'subprocess.Popen' else None)\n"
        f"make({name!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_an_environment_draws_its_own_numbers_whatever_others_draw() -> None:
    """Teleports of a maze draw from numpy's global generator at every step."""

    def walk(*, disturbed: bool) -> list[float]:
        env = FlatEnv(make("pointmaze-teleport-v0"), keys=(), seeds_numpy=True)
        env.reset(seed=3)
        drawn = []
        for _ in range(3):
            if disturbed:
                np.random.seed(0)
            with env._own_numbers():
                drawn.append(float(np.random.random()))
            env.step(np.zeros(2, np.float32))
        env.close()
        return drawn

    assert walk(disturbed=True) == walk(disturbed=False)
    np.random.seed(1)
    expected = np.random.random(2).tolist()
    np.random.seed(1)
    before = np.random.random()
    walk(disturbed=False)
    assert [before, np.random.random()] == expected

"""Plain HDF5 files of D4RL, in the layout of the published ones, of steps in the environments themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from edits import refused
from pydantic import ValidationError
from robots import walk

from fd.datasets import d4rl
from fd.datasets.fetch import describe
from fd.datasets.prepare import PrepareJob, prepare
from fd.errors import FdError
from fd.settings.data_settings import D4rlData, Download, Maze
from fd.simulation.environments import make, make_env
from fd.storage.transitions import Manifest, Transitions, load_transitions, read_manifest

DOOR = D4rlData(
    source="d4rl",
    dataset="door-cloned-v1",
    folder="files",
    file="door-cloned-v1.hdf5",
    environment="AdroitHandDoor-v1",
    observation=(),
    reward="dense",
    cut_at_success=False,
    maze=None,
    horizon=200,
    score="return",
    return_range=(-56.512833, 2880.5693087298737),
    differs=None,
)
ANT = DOOR.model_copy(
    update={
        "dataset": "antmaze-medium-play-v2",
        "file": "Ant_maze_big-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5",
        "environment": "AntMaze_Medium-v4",
        "observation": ("achieved_goal", "observation"),
        "reward": "sparse",
        "maze": Maze(start=(1, 1), goal=(6, 6)),
        "horizon": 1000,
        "score": "success",
        "return_range": None,
    }
)
# D4RL's medium maze (BIG_MAZE_TEST of its maze_env.py): row i is at y = 4 (i - 1), column j at x = 4 (j - 1).
MEDIUM = ["11111111", "1r011001", "10010001", "11000111", "10010001", "10100101", "100010g1", "11111111"]
Fields = dict[str, Any]


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a folder of files in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "files").mkdir()
    return tmp_path


def write(data: D4rlData, fields: Fields) -> None:
    """Write a file as D4RL does."""
    with h5py.File(Path(data.folder) / data.file, "w") as file:
        for name, values in fields.items():
            file[name] = values


def made(data: D4rlData, known: Fields | None = None) -> tuple[Transitions, Manifest]:
    """What the stage makes of a file, if these SHA-256 are known by the name of the data set."""
    nowhere = Download(folder="~", mirrors=(), timeout=1.0)
    prepare(data, Path("data"), PrepareJob("test", nowhere, 1, Path("scratch"), known or {}))
    return load_transitions(Path("data")), read_manifest(Path("data"))


@pytest.fixture(scope="module")
def doors() -> Fields:
    """Two episodes of 12 and 8 steps, of which the second ends in a terminal state."""
    env = make(d4rl.d4rl_spec(DOOR))
    walks = [walk(env, 0, 12), walk(env, 1, 8)]
    env.close()
    row = np.arange(20)
    return {
        "observations": np.concatenate([episode.observations[:-1] for episode in walks]).astype(np.float32),
        "actions": np.concatenate([episode.actions for episode in walks]),
        "rewards": np.concatenate([episode.rewards for episode in walks]).astype(np.float32),
        "terminals": row == 19,
        "timeouts": row == 11,
        "infos/qpos": np.zeros((20, 30), np.float32),
    }


@pytest.fixture(scope="module")
def ants() -> Fields:
    """Two walks of 30 steps around the goal of the medium maze, rewarded as D4RL relabels them: by the next row."""
    env = make(d4rl.d4rl_spec(ANT))
    walks = [walk(env, seed, 30, reset_cell=(1, 6)) for seed in (0, 1)]  # the goal's cell, with the rows from below
    env.close()
    states = np.concatenate(
        [
            np.concatenate([episode.observations["achieved_goal"], episode.observations["observation"]], axis=1)[:-1]
            for episode in walks
        ]
    )
    goal = states[10, :2] + np.array([0.45, 0.0])
    near = np.append(np.linalg.norm(states[1:, :2] - goal, axis=1) <= 0.5, False)
    return {
        "observations": states.astype(np.float32),
        "actions": np.concatenate([episode.actions for episode in walks]),
        "rewards": near.astype(np.float32),
        "terminals": near.astype(np.float32),
        "timeouts": np.arange(60) % 30 == 29,
        "infos/goal": np.tile(goal, (60, 1)),
    }


def test_the_last_step_of_an_episode_is_kept_where_it_has_no_next_state_to_bootstrap(doors: Fields) -> None:
    write(DOOR, doors)
    arrays, manifest = made(DOOR)
    states, rewards = doors["observations"], doors["rewards"]
    assert np.flatnonzero(arrays.ends).tolist() == [11, 20]
    np.testing.assert_array_equal(arrays.observations, np.concatenate([states, states[-1:]]))
    np.testing.assert_array_equal(arrays.rewards, [*rewards[:11], 0, *rewards[12:], 0])
    np.testing.assert_allclose(arrays.actions[:11], doors["actions"][:11], atol=1.1e-5)
    np.testing.assert_allclose(arrays.actions[12:20], doors["actions"][12:], atol=1.1e-5)
    assert np.flatnonzero(arrays.masks == 0).tolist() == [19]
    assert (manifest.source, manifest.dataset, manifest.episodes, manifest.transitions) == (
        "d4rl",
        "door-cloned-v1",
        2,
        19,
    )
    assert (manifest.score, manifest.return_range, manifest.horizon) == ("return", list(DOOR.return_range or ()), 200)
    size = Path("files", DOOR.file).stat().st_size
    assert manifest.files[DOOR.file]["bytes"] == size
    assert manifest.successes is None  # the terminal state is a failure, and successes are not marked


def test_a_file_is_the_published_one_if_its_sha256_is(doors: Fields) -> None:
    write(DOOR, doors)
    path = Path("files", DOOR.file)
    found = describe(path)["sha256"]
    for known, verified in (
        ({DOOR.dataset: found}, True),
        ({DOOR.dataset: "0" * 64}, False),
        ({DOOR.dataset: ""}, False),
        ({"door-expert-v1": found}, False),
        ({}, False),
    ):
        manifest = made(DOOR, known)[1]
        assert (manifest.verified, manifest.files[DOOR.file]["verified"]) == (verified, verified), known


def test_a_door_is_evaluated_with_the_reward_of_d4rl(doors: Fields) -> None:
    write(DOOR, doors)
    env = make_env(made(DOOR)[1])
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation, doors["observations"][0])
    for row in range(11):
        observation, reward, *_ = env.step(doors["actions"][row])
        assert reward == pytest.approx(float(doors["rewards"][row]), abs=1e-6)
        np.testing.assert_allclose(observation, doors["observations"][row + 1], atol=1e-6)
    env.close()


@pytest.mark.parametrize("change", [{"terminals": np.zeros(20, bool)}, {"timeouts": np.isin(np.arange(20), (11, 19))}])
def test_a_last_step_of_which_the_next_state_would_be_needed_is_left_out(change: Fields, doors: Fields) -> None:
    write(DOOR, doors | change)
    arrays, _ = made(DOOR)
    assert np.flatnonzero(arrays.ends).tolist() == [11, 19]
    assert arrays.masks.all()


def test_states_in_bytes_are_numbers_and_no_images(doors: Fields) -> None:
    states = (doors["observations"] * 10).astype(np.uint8)
    write(DOOR, doors | {"observations": states})
    np.testing.assert_array_equal(made(DOOR)[0].observations[:20], states.astype(np.float32))


def test_walks_go_on_at_the_goal(ants: Fields) -> None:
    write(ANT, ants)
    arrays, manifest = made(ANT)
    assert np.flatnonzero(arrays.ends).tolist() == [29, 59]
    np.testing.assert_array_equal(arrays.observations, ants["observations"])
    going = ~arrays.ends
    reached = ants["rewards"] == 1
    assert 0 < reached[:29].sum() < 29
    np.testing.assert_array_equal(arrays.rewards[going], (reached - 1.0)[going])
    np.testing.assert_array_equal(arrays.masks[going], ~reached[going])
    assert (manifest.horizon, manifest.success_timing) == (1000, "post")
    assert manifest.successes == reached[:29].sum() + reached[30:59].sum()


def test_what_follows_the_first_success_can_be_left_out(ants: Fields) -> None:
    write(ANT, ants)
    arrays, _ = made(ANT.model_copy(update={"cut_at_success": True}))
    first = int(np.argmax(ants["rewards"]))
    assert arrays.ends[first + 1]
    assert (arrays.rewards[first], arrays.masks[first]) == (0, 0)
    assert arrays.masks[:first].all()
    np.testing.assert_array_equal(arrays.observations[: first + 2], ants["observations"][: first + 2])


def test_a_jump_ends_an_episode_whatever_the_timeouts_say(ants: Fields) -> None:
    states = ants["observations"].copy()
    states[45:, :2] -= [0, 4]  # a cell further down
    write(ANT, ants | {"observations": states})
    arrays, _ = made(ANT)
    assert np.flatnonzero(arrays.ends).tolist() == [29, 44, 59]


def test_the_maze_of_evaluation_lies_where_that_of_d4rl_does(ants: Fields) -> None:
    write(ANT, ants)
    env = make_env(made(ANT)[1])
    maze: Any = env.unwrapped
    model = maze.ant_env.model
    walls = [model.geom(name).pos[:2] for name in names(model) if name.startswith("block")]
    start = maze.maze.unique_reset_locations[0]
    expected = {(4 * (j - 1), 4 * (i - 1)) for i, row in enumerate(MEDIUM) for j, cell in enumerate(row) if cell == "1"}
    assert {tuple(np.rint(wall - start).astype(int)) for wall in walls} == expected
    goals, starts = [], []
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        assert np.abs(observation[:2]).max() <= 0.1
        starts.append(observation)
        goals.append(maze.goal - start)
    posture, velocity = np.split(np.std(starts, axis=0)[3:], [12])  # without position and height
    assert (posture > 0.03).all() and (posture < 0.09).all()  # uniform within 0.1: 0.058
    assert (velocity > 0.05).all() and (velocity < 0.17).all()
    assert 20 <= np.min(goals) < np.max(goals) <= 21.5
    assert (maze.ant_env.dt, model.actuator_gear[:, 0].tolist()) == (0.1, [30.0] * 8)
    for away, reached in ((0.55, False), (0.48, True)):
        observation, _ = env.reset(seed=1)
        following, *_ = env.step(np.zeros(8, np.float32))
        env.reset(seed=1)
        maze.goal = start + following[:2] + [away, 0]
        _, reward, terminated, _, info = env.step(np.zeros(8, np.float32))
        assert (reward, terminated, info["success"]) == (float(reached), reached, reached)
    env.close()


def test_the_goal_does_not_depend_on_the_posture_of_the_start(ants: Fields) -> None:
    """Both are drawn from a seed; D4RL draws them from different generators."""
    env = make(d4rl.d4rl_spec(ANT))
    drawn = []
    for seed in range(100):
        observation, _ = env.reset(seed=seed)
        drawn.append([*observation["desired_goal"], *observation["observation"]])
    env.close()
    related = np.corrcoef(np.array(drawn).T)[:2, 2:]
    assert np.abs(related).max() < 0.5


def names(model: Any) -> list[str]:
    """Names of a model's geoms."""
    return [model.geom(index).name for index in range(model.ngeom)]


def test_the_ant_moves_as_in_the_file(ants: Fields) -> None:
    env = make(d4rl.d4rl_spec(ANT))
    observation, _ = env.reset(seed=0, options={"reset_cell": np.array((1, 6))})
    for row in range(29):
        state = np.concatenate([observation["achieved_goal"], observation["observation"]])
        np.testing.assert_allclose(state, ants["observations"][row], atol=1e-5)
        observation, *_ = env.step(ants["actions"][row])
    env.close()


def nan(values: Any) -> Any:
    """The array with a NaN in row 3."""
    values = values.copy()
    values[3] = np.nan
    return values


@pytest.mark.parametrize(
    ("data", "change", "message"),
    [
        (
            DOOR,
            {"timeouts": None},
            "door-cloned-v1.hdf5: lacks the field 'timeouts', found: actions, infos, observations, ",
        ),
        (DOOR, {"observations": nan}, "'observations' holds NaN or infinity, first in row 3"),
        (DOOR, {"actions": nan}, "'actions' holds NaN or infinity, first in row 3"),
        (DOOR, {"actions": lambda x: 4 * x}, "% of the numbers in 'actions' lie outside -1 to 1, the most extreme is"),
        (DOOR, {"timeouts": lambda x: x * 0.5}, "'timeouts' holds 0.5, allowed: 0 and 1"),
        (ANT, {"terminals": lambda x: x - 1}, "'terminals' holds -1, allowed: 0 and 1"),
        (DOOR, {"rewards": nan}, "'rewards' holds NaN or infinity, first in row 3"),
        (DOOR, {"rewards": lambda x: x[:, None]}, "'rewards' has shape (20, 1), allowed: 1 dimensions of 20 rows"),
        (DOOR, {"actions": lambda x: x[:-1]}, "'actions' has shape (19, 28), allowed: 2 dimensions of 20 rows"),
        (
            DOOR,
            {"observations": lambda x: x[:0]},
            "'observations' has shape (0, 39), allowed: 2 dimensions of some rows",
        ),
        (
            DOOR,
            {"observations": lambda x: x[:, :-1]},
            "observations have shape (38,), but (39,) in AdroitHandDoor-v1: a different",
        ),
        (
            DOOR.model_copy(update={"environment": "AdroitHandRelocate-v1"}),
            {},
            "actions have shape (28,), but (30,) in AdroitHandRel",
        ),
        (
            DOOR.model_copy(update={"file": "pen-human-v1.hdf5"}),
            {},
            "folder: files/pen-human-v1.hdf5 does not exist; D4RL's files",
        ),
        (
            DOOR.model_copy(update={"maze": ANT.maze}),
            {},
            "maze: given for AdroitHandDoor-v1, which is not a maze, allowed: null",
        ),
        (DOOR, {"terminals": lambda x: x * 0.5}, "'terminals' holds 0.5, allowed: 0 and 1"),
        (DOOR, {"timeouts": lambda x: x | True}, "door-cloned-v1.hdf5: holds no episode of two or more states"),
        (ANT, {"rewards": lambda x: x * 0.3}, "reward: sparse, but a reward is 0.3, allowed: 0 and 1"),
        (ANT.model_copy(update={"maze": None}), {}, "maze: null, but AntMaze_Medium-v4 is a maze, allowed: {start"),
        (
            ANT.model_copy(update={"environment": "AntMaze_UMaze-v4", "maze": Maze(start=(1, 1), goal=(3, 1))}),
            {},
            "100% of the positions lie outside AntMaze_UMaze-v4 with start [1, 1]: the file comes from a different maze",
        ),
        (
            ANT.model_copy(update={"environment": "AntMaze_Tiny-v4"}),
            {},
            "environment: 'AntMaze_Tiny-v4' does not exist in gymnasium",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_one_line(
    data: D4rlData, change: Fields, message: str, request: pytest.FixtureRequest, project: Path
) -> None:
    source = ANT if data.reward == "sparse" else DOOR
    fields = request.getfixturevalue("ants" if data.reward == "sparse" else "doors")
    changed = {name: change.get(name, lambda x: x) for name in fields}
    write(source, {name: by(fields[name]) for name, by in changed.items() if by is not None})
    with refused(message):
        made(data)
    assert sorted(path.name for path in project.iterdir()) == ["files"]
    assert [path.name for path in (project / "files").iterdir()] == [source.file]


@pytest.mark.parametrize("content", [b"<html>no such page</html>", None])
def test_what_is_no_whole_hdf5_file_is_one_line(content: bytes | None, doors: Fields) -> None:
    write(DOOR, doors)
    path = Path("files", DOOR.file)
    path.write_bytes(content or path.read_bytes()[:3000])
    with pytest.raises(FdError, match=r"door-cloned-v1\.hdf5: truncated or not an HDF5 file \([^\n]*\)$"):
        made(DOOR)


def test_a_file_that_changed_since_its_first_use_is_refused(doors: Fields) -> None:
    write(DOOR, doors)
    made(DOOR)
    write(DOOR, doors | {"rewards": doors["rewards"] + 1})
    with pytest.raises(FdError, match=r"door-cloned-v1\.hdf5: SHA-256 is [0-9a-f]+, at its first use it was"):
        made(DOOR)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("folder", ""),
        ("folder", "files\n"),
        ("file", "../door.hdf5"),
        ("file", "door.npz"),
        ("dataset", "../door-v1"),
        ("return_range", None),
    ],
)
def test_settings_that_make_no_sense_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        D4rlData(**(DOOR.model_dump() | {key: value}))


@pytest.mark.parametrize("folder", ["files", "./files", "../files", "a/b.c/", "/data/d4rl", "~/.d4rl/datasets"])
def test_folders_in_the_project_in_the_home_and_elsewhere_are_allowed(folder: str) -> None:
    assert D4rlData(**(DOOR.model_dump() | {"folder": folder})).folder == folder

"""Minari's AntMaze and Adroit sets: written through Minari from the environments, converted and evaluated."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium
import h5py
import minari as suite
import numpy as np
import pytest
from edits import refused
from minari.data_collector import EpisodeBuffer
from minari.storage import get_dataset_path
from pydantic import ValidationError
from robots import Walk, goal_reached_once, walk

from fd.datasets import minari
from fd.datasets.prepare import PrepareJob, prepare
from fd.errors import FdError
from fd.settings.data_settings import Download, Maze, MinariData
from fd.simulation.environments import make, make_env, register
from fd.simulation.episodes import Episode
from fd.simulation.evaluation import episode_score
from fd.storage.transitions import Manifest, Transitions, load_transitions, read_manifest

UMAZE = [[1, 1, 1, 1, 1], [1, "g", 0, 0, 1], [1, 1, 1, 0, 1], [1, "r", 0, 0, 1], [1, 1, 1, 1, 1]]
FLIPPED = [[1, 1, 1, 1, 1], [1, 0, 0, "r", 1], [1, 0, 1, 1, 1], [1, 0, 0, "g", 1], [1, 1, 1, 1, 1]]
ANT = MinariData(
    source="minari",
    dataset="D4RL/antmaze/umaze-v1",
    environment="AntMaze_UMaze-v4",
    observation=("achieved_goal", "observation"),
    reward="sparse",
    cut_at_success=False,
    maze=None,
    horizon=700,
    score="success",
    return_range=None,
    differs="recorded anew",
)
HAMMER = ANT.model_copy(
    update={
        "dataset": "D4RL/hammer/human-v2",
        "environment": "AdroitHandHammer-v1",
        "observation": (),
        "reward": "dense",
        "horizon": 200,
        "score": "return",
        "return_range": (-274.856578, 12794.134825156867),
    }
)
# Environment, width of observations and actions, steps of its recorded and of its evaluation episodes.
ADROIT = [
    ("Pen", 45, 24, 200, 100),
    ("Door", 39, 28, 300, 200),
    ("Hammer", 46, 26, 625, 200),
    ("Relocate", 39, 30, 530, 200),
]


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of Minari sets; a download is an error of the test."""
    register()

    def refuse(dataset: str, **_: Any) -> None:
        raise ConnectionError(f"{dataset}: no route to host")

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setattr(suite, "download_dataset", refuse)
    return tmp_path / "minari"


def spec_of(name: str, steps: int, **kwargs: Any) -> Any:
    """The spec of an environment as Minari's recorders change it."""
    spec = deepcopy(gymnasium.spec(name))
    spec.kwargs |= kwargs
    spec.max_episode_steps = steps
    return spec


def write(dataset: str, spec: Any, walks: list[Walk], *, eval_env: Any = None, **facts: Any) -> None:
    """Write a set through Minari."""
    env = make(spec)
    buffers = [
        EpisodeBuffer(
            observations=episode.observations,
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=np.zeros(len(episode.rewards), bool),
            truncations=np.arange(1, len(episode.rewards) + 1) == len(episode.rewards),
        )
        for episode in walks
    ]
    authorship = dict.fromkeys(("algorithm_name", "author", "author_email", "code_permalink", "description"), "test")
    suite.create_dataset_from_buffers(
        dataset, buffers, env=env, eval_env=eval_env or spec, data_format="hdf5", **authorship, **facts
    )
    env.close()


def made(data: MinariData, folder: Path) -> tuple[Transitions, Manifest]:
    """What the stage makes of a set."""
    prepare(
        data, folder / "data", PrepareJob("test", Download(folder="~", mirrors=(), timeout=1.0), 1, folder / "scratch")
    )
    return load_transitions(folder / "data"), read_manifest(folder / "data")


def states(episode: Walk) -> Any:
    """D4RL's 29 numbers: position, then the rest of the ant's state."""
    return np.concatenate([episode.observations["achieved_goal"], episode.observations["observation"]], axis=1)


@pytest.fixture
def umaze() -> tuple[list[Walk], int]:
    """Two walks in the umaze, written as Minari's set is, and the step at which the first reaches its goal."""
    spec = spec_of("AntMaze_UMaze-v4", 700, maze_map=UMAZE, continuing_task=True, reset_target=False)
    env = make(spec)
    goal, step = goal_reached_once(walk(env, 0, 60).observations["achieved_goal"])
    walks = [walk(env, 0, 60, goal=goal), walk(env, 1, 30)]
    env.close()
    write(ANT.dataset, spec, walks, eval_env=spec_of("AntMaze_UMaze-v4", 700, maze_map=FLIPPED, continuing_task=True))
    return walks, step


def test_antmaze_becomes_what_d4rl_has(umaze: tuple[list[Walk], int], tmp_path: Path) -> None:
    walks, first = umaze
    arrays, manifest = made(ANT, tmp_path)
    assert arrays.observations.shape == (61 + 31, 29)
    np.testing.assert_array_equal(
        arrays.observations, np.concatenate([states(episode) for episode in walks]).astype(np.float32)
    )
    assert np.flatnonzero(arrays.ends).tolist() == [60, 91]
    reached = walks[0].rewards == 1
    assert np.argmax(reached) == first - 1 > 0
    np.testing.assert_array_equal(arrays.rewards[:60], reached - 1.0)
    np.testing.assert_array_equal(arrays.masks[:60], ~reached)
    assert (arrays.rewards[61:91] == -1).all()
    assert arrays.masks[61:91].all()
    assert (manifest.score, manifest.horizon, manifest.success_timing) == ("success", 700, "post")
    assert (manifest.return_range, manifest.differs) == (None, "recorded anew")
    assert manifest.successes == reached.sum()


def test_what_follows_the_first_success_can_be_left_out(umaze: tuple[list[Walk], int], tmp_path: Path) -> None:
    walks, first = umaze
    arrays, _ = made(ANT.model_copy(update={"cut_at_success": True}), tmp_path)
    assert np.flatnonzero(arrays.ends).tolist() == [first, first + 31]
    assert (arrays.rewards[: first - 1] == -1).all()
    assert (arrays.rewards[first - 1], arrays.masks[first - 1]) == (0, 0)
    np.testing.assert_array_equal(arrays.observations[: first + 1], states(walks[0])[: first + 1].astype(np.float32))
    np.testing.assert_array_equal(arrays.observations[first + 1 :], states(walks[1]).astype(np.float32))


@pytest.mark.usefixtures("umaze")
def test_evaluation_is_in_the_maze_of_the_data_and_stops_at_the_first_success(tmp_path: Path) -> None:
    assert suite.load_dataset(ANT.dataset).recover_environment(eval_env=True).spec.kwargs["maze_map"] == FLIPPED
    _, manifest = made(ANT, tmp_path)
    assert manifest.environment["spec"]["kwargs"]["maze_map"] == UMAZE
    assert manifest.environment["spec"]["id"] == "AntMaze_UMaze-v4"
    env = make_env(manifest)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (29,)
    assert np.abs(observation[:2] - [-4, -4]).max() <= 1.1  # the start cell, with the environment's noise
    *_, terminated, truncated, info = env.step(np.zeros(8, np.float32))
    assert (terminated, truncated, info["success"]) == (False, False, False)
    env.unwrapped.goal = observation[:2].astype(float)
    *_, terminated, _, info = env.step(np.zeros(8, np.float32))
    assert (terminated, info["success"]) == (True, True)
    env.reset(seed=0)
    lengths = [env.step(np.zeros(8, np.float32))[3] for _ in range(700)]
    assert lengths.index(True) == 699
    env.close()


def test_rewards_are_those_of_the_one_goal_when_the_data_have_many(tmp_path: Path) -> None:
    spec = spec_of("AntMaze_Large-v4", 1000, continuing_task=True, reset_target=False)
    env = make(spec)
    walks = [walk(env, seed, 25, reset_cell=(7, 9), goal_cell=(1, 1)) for seed in range(8)]
    env.close()
    assert sum(episode.rewards.sum() for episode in walks) == 0
    data = ANT.model_copy(
        update={"dataset": "D4RL/antmaze/large-play-v1", "environment": "AntMaze_Large-v4", "horizon": 1000}
    )
    write(data.dataset, spec, walks)
    with pytest.raises(
        FdError, match=r"maze: null, but D4RL/antmaze/large-play-v1 has no single goal, .* allowed: \{start"
    ):
        made(data, tmp_path)
    arrays, manifest = made(data.model_copy(update={"maze": Maze(start=(1, 1), goal=(7, 9))}), tmp_path)
    goal = np.array([9.5 * 4 - 24, 18 - 7.5 * 4])  # of 12 x 9 cells of 4 m, the middle at the origin, rows downwards
    going = np.flatnonzero(~arrays.ends)
    reached = np.linalg.norm(arrays.observations[going + 1, :2] - goal, axis=1) <= 0.5
    assert 0 < reached.sum() < len(going)
    np.testing.assert_array_equal(arrays.rewards[going], reached - 1.0)
    np.testing.assert_array_equal(arrays.masks[going], ~reached)
    env = make_env(manifest)
    for seed in range(2):
        observation, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(env.unwrapped.goal, goal)
        assert np.abs(observation[:2] - [1.5 * 4 - 24, 18 - 1.5 * 4]).max() <= 0.1
        assert np.abs(observation[15:]).max() > 0.05  # moving, as at the starts of D4RL
        following = env.step(np.zeros(8, np.float32))[0][:2]
        env.reset(seed=seed)
        env.unwrapped.goal = following + np.array([0.48, 0.0])
        _, reward, terminated, _, info = env.step(np.zeros(8, np.float32))
        assert (reward, terminated, info["success"]) == (1, True, True)
    env.close()


def palm_to_object(env: Any, name: str) -> float:
    """Distance in metres between palm and door handle or object, from the simulator's state."""
    data = env.unwrapped.data
    thing = data.site("S_handle").xpos if name == "Door" else data.body("Object").xpos
    return float(np.linalg.norm(data.site("S_grasp").xpos - thing))


@pytest.mark.parametrize(("name", "obs_dim", "act_dim", "recorded", "horizon"), ADROIT)
def test_adroit_is_evaluated_as_in_d4rl(
    name: str, obs_dim: int, act_dim: int, recorded: int, horizon: int, tmp_path: Path
) -> None:
    spec = spec_of(f"AdroitHand{name}-v1", recorded)
    env = make(spec)
    walks = [walk(env, 0, recorded)]
    env.close()
    data = HAMMER.model_copy(
        update={"dataset": f"D4RL/{name.lower()}/human-v2", "environment": spec.id, "horizon": horizon}
    )
    write(data.dataset, spec, walks, ref_min_score=0.0, ref_max_score=1.0)
    arrays, manifest = made(data, tmp_path)
    assert (arrays.observations.shape, arrays.actions.shape) == ((recorded + 1, obs_dim), (recorded + 1, act_dim))
    np.testing.assert_array_equal(arrays.rewards[:-1], walks[0].rewards.astype(np.float32))
    assert arrays.masks.all() and manifest.successes is None  # nothing marks a success
    low, high = -274.856578, 12794.134825156867
    assert (manifest.score, manifest.return_range, manifest.horizon) == ("return", [low, high], horizon)
    assert episode_score(Episode(0, 0, 0, low + (high - low) / 4, False, 1), manifest) == pytest.approx(25)
    env = make_env(manifest)
    env.reset(seed=0)
    steps = [env.step(np.clip(action, -1, 1)) for action in walks[0].actions[:horizon]]
    ended = [terminated or truncated for _, _, terminated, truncated, _ in steps]
    assert ended.index(True) == (horizon - 1 if name != "Pen" else np.argmax(heights(walks[0]) < 0.075))
    env.close()


def heights(episode: Walk) -> Any:
    """Height of the pen after each step: the third number of its position, which follows 24 angles."""
    return episode.observations[1:, 26]


@pytest.mark.parametrize("name", ["Door", "Hammer", "Relocate"])
def test_the_sign_of_the_way_to_the_object_is_that_of_d4rl(name: str) -> None:
    spec = minari.as_d4rl(gymnasium.spec(f"AdroitHand{name}-v1"))
    fixed, plain = make(spec), make(f"AdroitHand{name}-v1")
    for env in (fixed, plain):
        env.reset(seed=3)
    for action in np.random.default_rng(0).uniform(-1, 1, (5, *plain.action_space.shape)):
        reward, wrong = fixed.step(action)[1], plain.step(action)[1]
        distance = palm_to_object(fixed, name)
        assert distance > 0.01
        assert reward == pytest.approx(wrong - 0.2 * distance, abs=1e-12)
        if name == "Relocate":  # the ball lies on the table, so that the way to it is all there is
            assert reward == pytest.approx(-0.1 * distance, abs=1e-12)
        if name == "Door":
            data = fixed.unwrapped.data
            hinge = float(data.joint("door_hinge").qpos[0])
            closed = -0.1 * distance - 0.1 * (hinge - 1.57) ** 2 - 1e-5 * float((data.qvel**2).sum())
            assert reward == pytest.approx(closed, abs=1e-12)
        if name == "Hammer":
            assert reward == pytest.approx(hammer_reward(fixed.unwrapped.data), abs=1e-12)
    fixed.close()
    plain.close()


def hammer_reward(data: Any) -> float:
    """D4RL's reward of a hammer that lies on the table."""
    palm, head, nail, goal = (data.site(name).xpos for name in ("S_grasp", "tool", "S_target", "nail_goal"))
    hammer = data.body("Object").xpos
    ways = [(0.1, palm - hammer), (1, head - nail), (10, nail - goal), (0.01, data.qvel)]
    return -sum(weight * float(np.linalg.norm(way)) for weight, way in ways)


@pytest.mark.usefixtures("umaze")
def test_an_interrupted_download_goes_on_and_shows_nothing_before_it_is_whole(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = (root / ANT.dataset).rename(tmp_path / "published") / "data"

    def interrupted(dataset: str, **_: Any) -> None:
        folder = get_dataset_path(dataset) / "data"
        folder.mkdir(parents=True, exist_ok=True)
        for source in sorted(published.iterdir(), reverse=True):
            if not (folder / source.name).exists():
                (folder / source.name).write_bytes(source.read_bytes())
                break
        if len(list(folder.iterdir())) < 2:
            raise ConnectionError("reset by peer")

    monkeypatch.setattr(suite, "download_dataset", interrupted)
    set_refused(ANT, "cannot be downloaded (ConnectionError: reset by peer)", tmp_path)
    assert not (root / ANT.dataset).exists()
    assert made(ANT, tmp_path)[1].episodes == 2
    assert {path.name for path in (root / ANT.dataset / "data").iterdir()} == {"main_data.hdf5", "metadata.json"}
    assert [path.suffix for path in (root / ".part").iterdir()] == [".lock"]


@pytest.mark.usefixtures("umaze")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"environment": "AntMaze_Large-v4"},
            "environment: 'AntMaze_Large-v4', but D4RL/antmaze/umaze-v1 was made with 'AntMaze_UM",
        ),
        ({"dataset": "D4RL/antmaze/large-play-v1"}, "dataset: 'D4RL/antmaze/large-play-v1' is not in "),
        (
            {"observation": ("achieved_goal", "speed")},
            "D4RL/antmaze/umaze-v1: observation: 'speed' does not exist, allowed: ",
        ),
        (
            {"maze": Maze(start=(3, 1), goal=(2, 1))},
            "goal: [2, 1] is not a free cell of AntMaze_UMaze-v4, allowed: [1, 1], [1, 2], ",
        ),
        ({"maze": Maze(start=(1, 1), goal=(1, 1))}, "goal: [1, 1] cannot be reached from start [1, 1]"),
        ({"score": "return"}, "has no reference returns, so `return_range` is needed"),
    ],
)
def test_a_set_that_does_not_fit_its_task_is_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    set_refused(ANT.model_copy(update=change), message, tmp_path)


def set_refused(data: MinariData, message: str, folder: Path) -> None:
    """Check that a set is refused in one line, and that nothing is left of it."""
    with refused(message):
        made(data, folder)
    assert not (folder / "data").exists()
    assert not (folder / "scratch").exists()


def test_a_set_of_another_version_of_its_environment_is_refused(tmp_path: Path) -> None:
    spec = spec_of("AntMaze_UMaze-v5", 700, maze_map=UMAZE)
    env = make(spec)
    write(ANT.dataset, spec, [walk(env, 0, 3)])
    env.close()
    set_refused(
        ANT, "environment: 'AntMaze_UMaze-v4', but D4RL/antmaze/umaze-v1 was made with 'AntMaze_UMaze-v5'", tmp_path
    )


@pytest.mark.usefixtures("umaze")
@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "dataset_id",
            "D4RL/antmaze/umaze-v0",
            "umaze-v1 holds 'D4RL/antmaze/umaze-v0', allowed: 'D4RL/antmaze/umaze-v1'",
        ),
        ("minari_version", "9.9.9", "does not support the dataset generated by Minari 9.9.9"),
        (
            "requirements",
            ["gymnasium-robotics==1.2.0"],
            "was made with gymnasium-robotics==1.2.0, installed is gymnasium-robotics 1.",
        ),
        (
            "requirements",
            ["numpy<1", "Gymnasium_Robotics<1.0"],
            "was made with Gymnasium_Robotics<1.0, installed is gymnasium-robotics 1.",
        ),
        ("env_spec", None, "names no environment, which evaluation needs"),
    ],
)
def test_a_set_of_another_kind_is_one_line(key: str, value: Any, message: str, root: Path, tmp_path: Path) -> None:
    path = root / ANT.dataset / "data" / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    set_refused(ANT, message, tmp_path)


@pytest.mark.usefixtures("umaze")
@pytest.mark.parametrize("missing", ["metadata.json", "main_data.hdf5"])
def test_a_set_without_one_of_its_files_is_incomplete(missing: str, root: Path, tmp_path: Path) -> None:
    (root / ANT.dataset / "data" / missing).unlink()
    advice = f"so the set is incomplete; remove {root / ANT.dataset} to download it again"
    set_refused(ANT, f"{missing}: no such file, {advice}", tmp_path)


@pytest.mark.usefixtures("umaze")
def test_a_set_may_ask_for_what_is_not_needed_here(root: Path, tmp_path: Path) -> None:
    path = root / ANT.dataset / "data" / "metadata.json"
    wanted = ["mujoco<3", "gymnasium.robotics>=1.0", "gymnasium-robotics<1.0; python_version < '3'"]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"requirements": wanted}))
    assert made(ANT, tmp_path)[1].dataset == ANT.dataset


@pytest.mark.parametrize(
    ("rewards", "observation", "message"),
    [
        ([0.0, 0.5, 1.0], 0.0, "reward: sparse, but a reward is 0.5, allowed: 0 and 1"),
        ([0.0, 0.0, 1.0], np.nan, "episode 0: 'observations/observation' holds NaN or infinity, first in row 2"),
    ],
)
def test_values_that_cannot_be_trained_on_are_one_line(
    rewards: list[float], observation: float, message: str, tmp_path: Path
) -> None:
    spec = spec_of("AntMaze_UMaze-v4", 700, maze_map=UMAZE)
    env = make(spec)
    episode = walk(env, 0, 3)
    env.close()
    episode.observations["observation"][2, 5] += observation
    write(ANT.dataset, spec, [Walk(episode.observations, episode.actions, np.array(rewards))])
    set_refused(ANT, message, tmp_path)


def nan(values: Any) -> Any:
    """The array with a NaN in row 3."""
    values[3] = np.nan
    return values


@pytest.mark.usefixtures("umaze")
@pytest.mark.parametrize(
    ("field", "edit", "change", "message"),
    [
        ("terminations", lambda x: x * 0.5 + 0.5, {"reward": "dense"}, "'terminations' holds 0.5, allowed: 0 and 1"),
        ("terminations", lambda x: x[:3], {}, "'terminations' has shape (3,) in an episode of 60 steps"),
        ("observations/achieved_goal", nan, {}, "'observations/achieved_goal' holds NaN or infinity, first in row 3"),
        (
            "observations/achieved_goal",
            lambda x: np.tile(x, 2),
            {},
            "'observations/achieved_goal' has shape (61, 4), allowed: (61, 2)",
        ),
        (
            "observations/achieved_goal",
            None,
            {},
            "maze: given, but 'observations' lacks 'achieved_goal', allowed: null",
        ),
    ],
)
def test_a_field_is_called_what_the_file_calls_it(
    field: str, edit: Any, change: dict[str, Any], message: str, root: Path, tmp_path: Path
) -> None:
    """Positions from which rewards are computed, though they are no part of the states."""
    with h5py.File(root / ANT.dataset / "data" / "main_data.hdf5", "a") as file:
        values = file["episode_0"][field][()]
        del file["episode_0"][field]
        if edit is not None:
            file["episode_0"][field] = edit(values)
    data = ANT.model_copy(update={"observation": ("observation",), "maze": Maze(start=(3, 1), goal=(1, 1))} | change)
    set_refused(data, f"{ANT.dataset}: episode 0: {message}", tmp_path)


@pytest.mark.usefixtures("umaze")
def test_returns_that_are_no_range_are_shown(root: Path, tmp_path: Path) -> None:
    path = root / ANT.dataset / "data" / "metadata.json"
    facts = {"ref_min_score": 3.0, "ref_max_score": 1.0}
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    words = "ref_min_score is 3.0 and ref_max_score 1.0, so `return_range` is needed"
    set_refused(ANT.model_copy(update={"score": "return"}), words, tmp_path)


@pytest.mark.usefixtures("umaze")
@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            OSError(28, "No space left on device"),
            "cannot be written (No space left on device); MINARI_DATASETS_PATH names",
        ),
        (
            OSError(37, "No locks available"),
            "cannot be written (No locks available); MINARI_DATASETS_PATH names another",
        ),
        (
            OSError(113, "No route to host"),
            "cannot be downloaded (OSError: [Errno 113] No route to host); without a network",
        ),
    ],
)
def test_a_download_that_the_folder_stops_is_not_blamed_on_the_network(
    error: OSError, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(dataset: str, **_: Any) -> None:
        raise error

    monkeypatch.setattr(suite, "download_dataset", stopped)
    set_refused(ANT.model_copy(update={"dataset": "D4RL/antmaze/large-play-v1"}), words, tmp_path)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        (1.0, "umaze-v1: 75 % of the numbers in 'actions' lie outside -1 to 1, the most extreme is -4; allowed: "),
        (4.0, "umaze-v1: action space Box(-4.0, 4.0, (8,), float32) is not supported, allowed: a box from -1 to 1"),
    ],
)
def test_actions_of_another_unit_are_one_line(box: float, message: str, tmp_path: Path) -> None:
    spec = spec_of("AntMaze_UMaze-v4", 700, maze_map=UMAZE)
    env = make(spec)
    episode = walk(env, 0, 2)
    env.close()
    actions = np.array([[0.5] * 8, [-4.0] * 4 + [3.0] * 4], np.float32)
    actions[0, :4] = 2.0
    space = gymnasium.spaces.Box(-box, box, (8,), np.float32)
    write(ANT.dataset, spec, [Walk(episode.observations, actions, episode.rewards)], action_space=space)
    set_refused(ANT, message, tmp_path)


def test_a_set_of_another_task_has_other_widths(tmp_path: Path) -> None:
    env = make("AdroitHandDoor-v1")
    spaces = {"observation_space": env.observation_space, "action_space": env.action_space}
    write(HAMMER.dataset, spec_of("AdroitHandHammer-v1", 625), [walk(env, 0, 3)], **spaces)
    env.close()
    set_refused(HAMMER, "observations have shape (39,), but (46,) in AdroitHandHammer-v1: a different task", tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dataset": "../D4RL/antmaze/umaze-v1"}, "dataset"),
        ({"dataset": "D4RL/../umaze-v1"}, "dataset"),
        ({"environment": "AntMaze_UMaze-v5"}, "environment"),
        ({"reward": "dense", "cut_at_success": True}, "cut_at_success: true, but dense rewards mark no success"),
        ({"return_range": (0.0, 1.0)}, "return_range: [0.0, 1.0], but score is 'success' (allowed: null)"),
        ({"score": "return", "return_range": (1.0, 1.0)}, "allowed: [low, high] with low < high"),
        ({"score": "return", "return_range": (0.0, float("nan"))}, "allowed: [low, high] with low < high"),
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        MinariData(**(ANT.model_dump() | change))
    assert message in str(error.value)

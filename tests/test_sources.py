"""Collection in processes, the collectors, and the conversion of both formats."""

import http.server
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from counting import run
from edits import contents, refused

from fd.datasets import generate, minari, ogbench, play, waypoint
from fd.datasets.fetch import describe
from fd.datasets.prepare import PrepareJob, prepare
from fd.errors import FdError
from fd.settings.data_settings import Data, Download, Maze, MinariData, OgbenchData, OracleData, WaypointData
from fd.simulation import workers
from fd.simulation.environments import make, quiet
from fd.storage.transitions import load_transitions, read_manifest

ROOT = Path(__file__).parent.parent
NO_DOWNLOAD = Download(folder="~/sets", mirrors=(), timeout=1.0)
NAVIGATE = OracleData(
    source="generate",
    collector="navigate",
    dataset="pointmaze-medium-navigate-singletask-task1-v0",
    steps=1000,
    episodes=3,
    validation_episodes=1,
    seed=0,
)
PLAY = NAVIGATE.model_copy(
    update={"collector": "play", "dataset": "cube-single-play-singletask-task1-v0", "steps": 200, "episodes": 1}
)
WAYPOINT = WaypointData(
    source="generate",
    collector="waypoint",
    dataset="fd/pointmaze/umaze-waypoint-v0",
    environment="PointMaze_UMaze-v3",
    start=(3, 1),
    goal=(1, 1),
    horizon=200,
    episodes=5,
    action_noise=0.5,
    noise_across=1.0,
    seed=0,
    observation=("observation",),
    reward="sparse",
)


def made(data: Data, folder: Path, workers: int = 2) -> Path:
    """The data folder of a set."""
    prepare(data, folder / "data", PrepareJob("test", NO_DOWNLOAD, workers, folder / "scratch"))
    return folder / "data"


@pytest.fixture(scope="module")
def navigated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A regenerated OGBench set."""
    return made(NAVIGATE, tmp_path_factory.mktemp("navigate"))


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Minari set of walks."""
    return made(WAYPOINT, tmp_path_factory.mktemp("waypoint"))


def test_episodes_come_in_order(tmp_path: Path) -> None:
    assert run(tmp_path, [5, 3, 1, 4, 2]) == [5, 3, 1, 4, 2]
    assert multiprocessing.active_children() == []


def test_a_stopped_collection_goes_on(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        run(tmp_path, [1, 2, 66], workers=1)
    assert multiprocessing.active_children() == []
    assert sorted(path.name for path in (tmp_path / "episodes").iterdir()) == ["000000.npz", "000001.npz"]
    (tmp_path / "episodes" / ".000002.npz").write_bytes(b"half")
    assert run(tmp_path, [1, 2, 3], workers=1) == [1, 2, 3]
    assert {path.name: len(path.read_text().splitlines()) for path in (tmp_path / "traces").iterdir()} == {
        "1": 1, "2": 1, "3": 1, "66": 1,
    }  # fmt: skip


def test_a_dead_process_is_one_line_and_no_other_is_left(tmp_path: Path) -> None:
    with pytest.raises(FdError, match=r"^test: episode 0 of seed \[0, 77\]: its process died with exit code 3$"):
        run(tmp_path, [77, 88])
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("data", [NAVIGATE, WAYPOINT], ids=["navigate", "waypoint"])
def test_a_generated_set_is_the_same_bytes(data: Data, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert contents(made(data, first, workers=1)) == contents(made(data, second, workers=2))
    assert not (first / "scratch").exists()


def test_another_seed_is_another_set(navigated: Path, tmp_path: Path) -> None:
    other = made(NAVIGATE.model_copy(update={"seed": 1}), tmp_path)
    assert not np.array_equal(load_transitions(navigated).observations, load_transitions(other).observations)


def test_regenerated_set_is_what_ogbench_itself_reads(navigated: Path) -> None:
    import ogbench as suite

    env, expected, validation = suite.make_env_and_datasets(
        NAVIGATE.dataset, dataset_path=str(navigated / "regenerated" / "pointmaze-medium-navigate-v0.npz")
    )
    env.close()
    arrays = load_transitions(navigated)
    going = ~arrays.ends
    assert len(validation["rewards"]) == 1000
    assert (arrays.ends.sum(), going.sum()) == (3, 3000)
    np.testing.assert_array_equal(arrays.observations[going], expected["observations"])
    np.testing.assert_array_equal(arrays.observations[np.flatnonzero(going) + 1], expected["next_observations"])
    np.testing.assert_allclose(arrays.actions[going], expected["actions"], atol=1.1e-5)
    np.testing.assert_array_equal(arrays.rewards[going], expected["rewards"])
    np.testing.assert_array_equal(arrays.masks[going], expected["masks"])
    assert (arrays.masks == 0).sum() == read_manifest(navigated).successes


def test_manifests_tell_what_evaluation_needs(navigated: Path, walked: Path) -> None:
    maze, walks = read_manifest(navigated), read_manifest(walked)
    assert maze.environment == {"suite": "ogbench", "name": "pointmaze-medium-singletask-task1-v0"}
    assert (maze.horizon, maze.success_timing, maze.validation_episodes) == (1000, "pre", 1)
    assert walks.environment["spec"]["kwargs"]["maze_map"][3][1] == "r"
    assert walks.environment["spec"]["kwargs"]["maze_map"][1][1] == "g"
    assert walks.environment["spec"]["kwargs"]["continuing_task"] is False
    assert (walks.horizon, walks.success_timing, walks.collector) == (200, "post", "waypoint")
    assert walks.versions["mujoco"]


def test_play_set_holds_what_any_process_collects(tmp_path: Path) -> None:
    folder = made(PLAY, tmp_path)
    arrays, manifest = load_transitions(folder), read_manifest(folder)
    assert (manifest.episodes, manifest.transitions, manifest.obs_shape, manifest.act_dim) == (1, 200, [28], 5)
    assert manifest.horizon == 200
    assert set(np.unique(arrays.rewards)) <= {-1, 0}
    code = f"""
import numpy as np
from fd.datasets.play import PlayCollector
episode = PlayCollector("cube-single-v0", {PLAY.steps})(np.random.SeedSequence([{PLAY.seed}, 1, 0]))
np.savez("episode.npz", **episode)
"""
    # With the matrix kernels of a worker, which this process need not have on a processor with AVX-512.
    environment = os.environ | workers._ENVIRONMENT | {"PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
    with (
        np.load(folder / "regenerated" / "cube-single-play-v0-val.npz") as file,
        np.load(tmp_path / "episode.npz") as validation,
    ):
        assert set(file.files) == set(validation.files)
        assert all(np.array_equal(file[name], validation[name]) for name in file.files)


@pytest.mark.parametrize("environment", ["cube-double-v0", "scene-v0", "puzzle-3x3-v0"])
def test_play_episodes_have_the_published_fields(environment: str) -> None:
    collector = play.PlayCollector(environment, 39)
    episode = collector(np.random.SeedSequence([0]))
    collector(np.random.SeedSequence([1]))
    again = collector(np.random.SeedSequence([0]))
    assert all(np.array_equal(episode[name], again[name]) for name in episode)
    assert ("button_states" in episode) == (environment != "cube-double-v0")
    assert {len(values) for values in episode.values()} == {40}
    assert episode["terminals"].tolist() == [False] * 39 + [True]
    assert {episode[name].dtype for name in ("observations", "actions", "qpos", "qvel")} == {np.dtype(np.float32)}
    assert np.abs(episode["actions"]).max() <= 1


ENVIRONMENTS = {"cube-single": 2, "cube-double": 2, "scene": 2, "puzzle-3x3": 4, "puzzle-4x4": 4}  # their default tasks


def written(environment: str, steps: int, folder: Path) -> Path:
    """The file of one episode of play data."""
    episode = play.PlayCollector(f"{environment}-v0", steps)(np.random.SeedSequence([0]))
    np.savez(folder / "episode.npz", allow_pickle=False, **episode)
    ogbench.write_ogbench(folder / f"{environment}.npz", [folder / "episode.npz"])
    return folder / f"{environment}.npz"


@pytest.mark.parametrize("environment", list(ENVIRONMENTS))
def test_every_manipulation_task_is_relabelled_as_its_simulator_rewards(environment: str, tmp_path: Path) -> None:
    path = written(environment, 60, tmp_path)
    with np.load(path) as file:
        states = [file[name] for name in ("qpos", "qvel", "button_states") if name in file.files]
    simulator: Any = make(f"{environment}-singletask-v0").unwrapped
    assert simulator._reward_task_id == ENVIRONMENTS[environment]
    for task in range(1, 6):
        rewards = ogbench.convert_ogbench(
            path, ogbench.parse_name(f"{environment}-play-singletask-task{task}-v0")
        ).rewards
        simulator._reward_task_id = task
        with quiet():
            simulator.reset(seed=0)
        for row in range(0, 60, 12):
            simulator.set_state(*(values[row] for values in states))
            assert rewards[row] == simulator.compute_reward()
    simulator.close()


def test_writing_a_set_holds_one_episode_in_memory(tmp_path: Path) -> None:
    episode = {"observations": np.zeros((50, 64, 64, 3), np.uint8), "terminals": np.arange(50) == 49}
    np.savez(tmp_path / "episode.npz", allow_pickle=False, **episode)
    tracemalloc.start()
    ogbench.write_ogbench(tmp_path / "set.npz", [tmp_path / "episode.npz"] * 40)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * episode["observations"].nbytes
    with np.load(tmp_path / "set.npz") as file:
        assert file["observations"].shape == (2000, 64, 64, 3)
        assert np.flatnonzero(file["terminals"]).tolist() == list(range(49, 2000, 50))


@pytest.mark.parametrize("environment", ["cube-single", "scene", "puzzle-4x4"])
def test_visual_sets_are_the_states_seen(environment: str, tmp_path: Path) -> None:
    seen, states = written(f"visual-{environment}", 3, tmp_path), written(environment, 3, tmp_path)
    with np.load(seen) as images, np.load(states) as vectors:
        assert set(images.files) == set(vectors.files)
        for name in set(images.files) - {"observations"}:
            np.testing.assert_array_equal(images[name], vectors[name])
        arrays = ogbench.convert_ogbench(seen, ogbench.parse_name(f"visual-{environment}-play-singletask-task1-v0"))
        assert (arrays.observations.shape, arrays.observations.dtype) == ((4, 64, 64, 3), np.uint8)
        np.testing.assert_array_equal(arrays.observations, images["observations"])
    assert len({image.tobytes() for image in arrays.observations}) == 4
    expected = ogbench.convert_ogbench(states, ogbench.parse_name(f"{environment}-play-singletask-task1-v0"))
    assert arrays.rewards.tobytes() == expected.rewards.tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qpos": np.zeros((2, 28), np.float32)}, "'qpos' has rows of shape (28,), allowed: (21,)"),  # of two cubes
        ({"observations": np.zeros((2, 28), np.float32)}, "has rows of shape (28,), allowed: (64, 64, 3)"),
        ({"observations": np.zeros((2, 64, 64, 3), np.float32)}, "'observations' is float32, allowed: uint8"),
    ],
)
def test_images_of_another_set_are_one_line(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    arrays = {"observations": np.zeros((2, 64, 64, 3), np.uint8), "actions": np.zeros((2, 5), np.float32)}
    arrays |= {"terminals": np.array([False, True])}
    arrays |= {"qpos": np.zeros((2, 21), np.float32), "qvel": np.zeros((2, 20), np.float32)}
    np.savez(tmp_path / "set.npz", **(arrays | changes))
    with refused(message):
        ogbench.convert_ogbench(tmp_path / "set.npz", ogbench.parse_name("visual-cube-single-play-singletask-v0"))


def test_a_visual_set_is_generated_like_any_other(tmp_path: Path) -> None:
    data = PLAY.model_copy(update={"dataset": "visual-cube-single-play-singletask-task1-v0", "steps": 2})
    folder = made(data, tmp_path, workers=1)
    manifest = read_manifest(folder)
    assert (manifest.obs_shape, manifest.transitions, manifest.horizon) == ([64, 64, 3], 2, 200)
    assert load_transitions(folder).observations.dtype == np.uint8
    with np.load(folder / "regenerated" / "visual-cube-single-play-v0-val.npz") as file:
        assert file["observations"].shape == (3, 64, 64, 3)


@pytest.mark.parametrize(
    ("y", "z", "visible"),
    [(0.0, 0.02, True), (0.29, 0.02, False), (-0.3, 0.02, False), (-0.3, 0.07, True), (-0.3, 0.09, False)],
)
def test_a_cube_out_of_sight_is_noticed(y: float, z: float, visible: bool) -> None:
    qpos = np.zeros((3, 21))
    qpos[1, 15:17] = y, z
    assert play._cube_visible(qpos) is visible


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (NAVIGATE.model_copy(update={"dataset": "pointmaze-medium-v0"}), "is not an OGBench single-task set"),
        (NAVIGATE.model_copy(update={"dataset": "antmaze-large-navigate-singletask-v0"}), "allowed: pointmaze-medium-"),
        (NAVIGATE.model_copy(update={"dataset": "pointmaze-tiny-navigate-singletask-v0"}), "ogbench does not have"),
        (NAVIGATE.model_copy(update={"dataset": PLAY.dataset}), "`collector: navigate`, allowed: pointmaze-medium-"),
        (PLAY.model_copy(update={"dataset": "scene-noisy-singletask-v0"}), "`collector: play`, allowed: cube-single-"),
        (WAYPOINT.model_copy(update={"environment": "PointMaze_Tiny-v3"}), "'PointMaze_Tiny-v3' does not exist"),
        (
            WAYPOINT.model_copy(update={"start": (2, 1)}),
            "start: [2, 1] is not a free cell of PointMaze_UMaze-v3, allowed:",
        ),
        (WAYPOINT.model_copy(update={"goal": (9, 9)}), "goal: [9, 9] is not a free cell"),
        (WAYPOINT.model_copy(update={"goal": (3, 1)}), "goal: [3, 1] cannot be reached from"),
        (WAYPOINT.model_copy(update={"observation": ("speed",)}), "'speed' does not exist, allowed: achieved_goal"),
        (WAYPOINT.model_copy(update={"observation": ()}), "[] given for a dict observation, allowed: achieved_goal"),
    ],
)
def test_a_set_that_cannot_be_generated_is_one_line(data: Data, message: str, tmp_path: Path) -> None:
    with refused(message):
        made(data, tmp_path)
    assert not (tmp_path / "data").exists()


def test_distances_count_moves_around_walls() -> None:
    found = waypoint.distances(waypoint.maze_spec("PointMaze_UMaze-v3", 9).kwargs["maze_map"], (1, 1))
    assert found[3, 1] == 6
    assert found[1, 1] == 0
    assert (2, 1) not in found


def test_specs_leave_the_registry_as_it_is() -> None:
    waypoint.waypoint_spec("PointMaze_UMaze-v3", 9, start=(3, 1), goal=(1, 1))
    spec = gymnasium.spec("PointMaze_UMaze-v3")
    assert spec.max_episode_steps == 300
    assert "g" not in spec.kwargs["maze_map"][1]


def test_rewards_are_those_of_the_state_after_the_step(walked: Path) -> None:
    arrays = load_transitions(walked)
    goal = np.array([-1.0, 1.0])
    going = np.flatnonzero(~arrays.ends)
    reached = np.linalg.norm(arrays.observations[going + 1, :2] - goal, axis=1) <= 0.45
    assert 0 < reached.sum() < len(going)
    np.testing.assert_array_equal(arrays.rewards[going], reached - 1.0)
    np.testing.assert_array_equal(arrays.masks[going], ~reached)
    assert arrays.ends.sum() == WAYPOINT.episodes
    assert arrays.ends[200]


def changed(**changes: Callable[[Any], Any]) -> Callable[[Path, Path], None]:
    """Copy a file with changed arrays; None drops one."""

    def write(source: Path, target: Path) -> None:
        with np.load(source) as file:
            arrays = {name: changes.get(name, lambda x: x)(file[name]) for name in file.files}
        np.savez(target, **{name: values for name, values in arrays.items() if values is not None})

    return write


def nan(values: Any) -> Any:
    """The array with a NaN in row 7."""
    values = values.copy()
    values[7] = np.nan
    return values


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda source, target: target.write_bytes(source.read_bytes()[:5000]), "truncated or not an npz file"),
        (lambda source, target: target.write_text("<html>"), "truncated or not an npz file"),
        (changed(qpos=lambda x: None), "lacks the field 'qpos', found: observations, actions"),
        (changed(qpos=nan), "'qpos' holds NaN or infinity, first in row 7"),
        (changed(observations=nan), "'observations' holds NaN or infinity, first in row 7"),
        (changed(observations=lambda x: x[:, :1]), "'observations' has rows of shape (1,), allowed: (2,)"),
        (changed(actions=lambda x: x[:-1]), "'actions' has 3002 rows, 'observations' has 3003"),
        (changed(actions=lambda x: 4 * x), "% of the numbers in 'actions' lie outside -1 to 1, the most extreme is"),
        (
            changed(terminals=lambda x: x & False),
            "the last row of 'terminals' is not 1, so the last episode is cut off",
        ),
        (changed(terminals=lambda x: x | True), "no transition, every row of 'terminals' ends an episode"),
        (changed(terminals=lambda x: x * 0.5), "'terminals' holds 0.5, allowed: 0 and 1"),
        (changed(terminals=lambda x: x[0]), "'terminals' has shape (), allowed: one row or more"),
        (changed(observations=lambda x: x[0, 0]), "'observations' has shape (), allowed: one row or more"),
        (
            changed(**{name: lambda x: x[:0] for name in ("observations", "actions", "terminals", "qpos", "qvel")}),
            "'observations' has shape (0, 2), allowed: one row or more",
        ),
    ],
)
def test_damaged_ogbench_file_is_one_line(
    damage: Callable[[Path, Path], None], message: str, navigated: Path, tmp_path: Path
) -> None:
    target = tmp_path / "set.npz"
    damage(navigated / "regenerated" / "pointmaze-medium-navigate-v0.npz", target)
    with refused(str(target), message):
        ogbench.convert_ogbench(target, ogbench.parse_name(NAVIGATE.dataset))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, where both suites keep their sets."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MINARI_DATASETS_PATH", raising=False)
    return tmp_path / "home"


class Host(http.server.SimpleHTTPRequestHandler):
    """Serves the files of a folder, and tells nothing."""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def host(navigated: Path) -> Iterator[str]:
    """URL of a host on this machine that has a published set."""
    handler = partial(Host, directory=navigated / "regenerated")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


PUBLISHED = OgbenchData(source="ogbench", dataset=NAVIGATE.dataset)
FILE = "pointmaze-medium-navigate-v0.npz"


def fetched(folder: Path, *mirrors: str) -> Path:
    """The data folder of the published set."""
    job = PrepareJob("test", Download(folder="~/sets", mirrors=mirrors, timeout=5.0), 1, folder / "scratch")
    prepare(PUBLISHED, folder / "data", job)
    return folder / "data"


def test_a_published_set_is_fetched_once_and_recorded(home: Path, host: str, navigated: Path, tmp_path: Path) -> None:
    folder = fetched(tmp_path, f"{host}/none", host)
    assert {path.name for path in (home / "sets").glob("[!.]*")} == {FILE, f"{FILE}.json"}
    assert load_transitions(folder).observations.tobytes() == load_transitions(navigated).observations.tobytes()
    manifest = read_manifest(folder)
    assert (manifest.source, manifest.collector, manifest.seed) == ("ogbench", None, None)
    assert manifest.files == {FILE: describe(navigated / "regenerated" / FILE)}
    assert fetched(tmp_path) == folder  # the file that is there is used, and needs no host
    with (home / "sets" / FILE).open("ab") as file:
        file.write(b"more")
    with pytest.raises(FdError, match=r"SHA-256 is .* at its first use it was"):
        fetched(tmp_path)
    assert read_manifest(folder) == manifest


def test_a_file_in_the_folder_of_ogbench_needs_no_host(home: Path, navigated: Path, tmp_path: Path) -> None:
    own = home / ".ogbench" / "data"
    own.mkdir(parents=True)
    shutil.copy(navigated / "regenerated" / FILE, own)
    assert load_transitions(fetched(tmp_path)).rewards.tobytes() == load_transitions(navigated).rewards.tobytes()
    assert not (home / "sets").exists()


def test_no_host_is_one_line_with_a_hint(home: Path, host: str, tmp_path: Path) -> None:
    with pytest.raises(FdError) as error:
        fetched(tmp_path, f"{host}/none", "http://127.0.0.1:9")
    message = str(error.value)
    assert message.startswith(f"dataset: '{PUBLISHED.dataset}': {home / 'sets' / FILE}: no such file, and no host has")
    assert "File not found" in message
    assert "Connection refused" in message
    assert message.endswith("`source: generate` with `collector: navigate` makes a set of this task without a network")
    assert "\n" not in message
    assert list((home / "sets").glob("[!.]*")) == []
    assert not (tmp_path / "data").exists()
    assert not (tmp_path / "scratch").exists()


def test_no_hint_at_generation_where_there_is_none() -> None:
    assert "cannot make it" in generate.hint(ogbench.parse_name("antmaze-large-navigate-singletask-v0"))


@pytest.fixture
def local(walked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minari's local folder holds the walks, and there is no network."""
    import minari as suite

    def refuse(dataset: str, **_: Any) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(walked / "minari"))
    monkeypatch.setattr(suite, "download_dataset", refuse)


LOCAL = MinariData(
    source="minari",
    dataset=WAYPOINT.dataset,
    environment=WAYPOINT.environment,
    observation=("observation",),
    reward="sparse",
    cut_at_success=False,
    maze=Maze(start=WAYPOINT.start, goal=WAYPOINT.goal),
    horizon=WAYPOINT.horizon,
    score="success",
    return_range=None,
    differs=None,
)


@pytest.mark.usefixtures("local")
def test_a_local_minari_set_needs_no_network(walked: Path, tmp_path: Path) -> None:
    folder = made(LOCAL, tmp_path)
    assert load_transitions(folder).rewards.tobytes() == load_transitions(walked).rewards.tobytes()
    manifest = read_manifest(folder)
    assert manifest.environment == read_manifest(walked).environment
    assert set(manifest.files) == {"main_data.hdf5", "metadata.json"}


@pytest.mark.usefixtures("local")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"dataset": "D4RL/pointmaze/umaze-v2"},
            "cannot be downloaded (ConnectionError: no route to host); without a network, generate PointMaze",
        ),
        ({"observation": ("observation", "speed")}, "observation: 'speed' does not exist, allowed:"),
        ({"score": "return"}, "has no reference returns"),
    ],
)
def test_unusable_minari_set_is_one_line(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with refused(message):
        made(LOCAL.model_copy(update=change), tmp_path)
    assert not (tmp_path / "data").exists()


@pytest.mark.usefixtures("local")
def test_a_broken_minari_file_is_one_line(walked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "sets" / WAYPOINT.dataset / "data"
    path.mkdir(parents=True)
    for source in (walked / "minari" / WAYPOINT.dataset / "data").iterdir():
        (path / source.name).write_bytes(source.read_bytes()[: 3000 if source.suffix == ".hdf5" else None])
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "sets"))
    with pytest.raises(FdError, match=r"umaze-waypoint-v0/data/main_data.hdf5: truncated or not an HDF5 file"):
        made(LOCAL, tmp_path)


@pytest.mark.usefixtures("local")
def test_dense_rewards_are_kept_and_bootstrapped() -> None:
    dataset = minari.find_minari(LOCAL)
    sparse = minari.convert_minari(dataset, LOCAL)
    change = {"observation": ("observation", "desired_goal"), "reward": "dense", "maze": None}
    dense = minari.convert_minari(dataset, LOCAL.model_copy(update=change))
    assert dense.observations.shape[1] == 6
    assert dense.masks.min() == 1
    going = ~dense.ends
    np.testing.assert_array_equal(dense.rewards[going], sparse.rewards[going] + 1)


def test_flat_observations_need_no_keys() -> None:
    rows = np.zeros((3, 2))
    assert minari.flat("set", rows, ()) is rows
    with pytest.raises(FdError, match=r"set: observation: \['x'\] given for a flat observation, allowed: \[\]"):
        minari.flat("set", rows, ("x",))

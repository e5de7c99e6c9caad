"""Pusher data: reproducible, wide in the null space of the arm's tip and narrow elsewhere, in an environment that works."""

from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from edits import contents, refused

from fd.datasets import push
from fd.datasets.prepare import PrepareJob, prepare
from fd.settings.data_settings import DATA, Download, MinariData, PushData
from fd.settings.messages import validated
from fd.simulation.environments import make, make_env
from fd.storage.transitions import load_transitions, read_manifest

VALUES: dict[str, Any] = {
    "source": "generate", "collector": "push", "dataset": "fd/pusher/null-space-v0", "horizon": 60, "episodes": 3,
    "noise_tip": 0.05, "noise_null": 0.3, "seed": 0, "return_range": [-149.0, -33.0],
}  # fmt: skip
PUSH = PushData.model_validate(VALUES | {"return_range": (-149.0, -33.0)})


def made(data: Any, folder: Path, workers: int = 2) -> Path:
    """The data folder of a set."""
    download = Download(folder="~/sets", mirrors=(), timeout=1.0)
    prepare(data, folder / "data", PrepareJob("test", download, workers, folder / "scratch"))
    return folder / "data"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(PUSH, tmp_path_factory.mktemp("push"))


def test_a_set_is_the_same_bytes_whatever_the_number_of_processes(pushed: Path, tmp_path: Path) -> None:
    assert contents(pushed) == contents(made(PUSH, tmp_path, workers=1))


def test_an_episode_depends_on_its_seed_alone() -> None:
    collect = push.PushCollector(20, 0.05, 0.3)
    first = collect(np.random.SeedSequence([0, 1]))
    other = collect(np.random.SeedSequence([0, 2]))
    again = collect(np.random.SeedSequence([0, 1]))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["observations"][0], other["observations"][0])


def test_the_arrays_are_what_the_environment_of_the_manifest_gives(pushed: Path) -> None:
    arrays, manifest = load_transitions(pushed), read_manifest(pushed)
    assert (manifest.transitions, manifest.obs_shape, manifest.act_dim, manifest.horizon) == (180, [23], 7, 60)
    assert (manifest.score, manifest.return_range, manifest.successes) == ("return", [-149.0, -33.0], 0)
    wrappers = manifest.environment["spec"]["additional_wrappers"]
    assert [wrapper["entry_point"] for wrapper in wrappers] == [
        "gymnasium.wrappers:RescaleAction",
        "fd.wrappers:FirmObject",
    ]
    env = make_env(manifest)
    random = np.random.default_rng(np.random.SeedSequence([0, 0]))
    random.uniform(size=2)  # the gains
    observation, _ = env.reset(seed=int(random.integers(2**31)))
    for row, action in enumerate(push.PushCollector(60, 0.05, 0.3)(np.random.SeedSequence([0, 0]))["actions"]):
        np.testing.assert_array_equal(observation, arrays.observations[row])
        np.testing.assert_allclose(action, arrays.actions[row], rtol=0, atol=1.1e-5)
        observation, reward, terminated, truncated, _ = env.step(action)
        assert (np.float32(reward), terminated, truncated) == (arrays.rewards[row], False, row == 59)
    env.close()


def test_the_set_in_its_minari_file_is_read_like_a_published_one(
    pushed: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(pushed / "minari"))
    local = MinariData(
        source="minari", dataset=PUSH.dataset, environment=push.ENVIRONMENT, observation=(), reward="dense",
        cut_at_success=False, maze=None, horizon=60, score="return", return_range=PUSH.return_range, differs=None,
    )  # fmt: skip
    folder = made(local, tmp_path)
    assert load_transitions(folder).actions.tobytes() == load_transitions(pushed).actions.tobytes()
    assert read_manifest(folder).environment == read_manifest(pushed).environment


def test_actions_are_wide_in_the_null_space_of_the_tip_and_narrow_elsewhere() -> None:
    """At states on the way, of actions as they are, with the noise as it is in suites/geometry.yaml."""
    collector, random = push.PushCollector(100, 0.05, 0.3), np.random.default_rng(0)
    observation, _ = collector.env.reset(seed=1)
    ratios = []
    for step in range(100):
        act = partial(collector.act, observation, 3.5, 0.47)
        if step % 12 == 6:
            actions = np.array([act(random.standard_normal((2, 7))) for _ in range(500)], np.float64)
            spectrum = np.sqrt(np.linalg.eigvalsh(np.cov(actions.T)))
            assert spectrum[0] > 0.03 and spectrum[2] < 0.15 and spectrum[3] > 0.25 and spectrum[6] < 0.6, spectrum
            ratios.append(spectrum[3:].mean() / spectrum[:3].mean())
            moving = collector.projections()[2]
            null = np.array(
                [act(np.outer([0, 1], random.standard_normal(7))) - act(np.zeros((2, 7))) for _ in range(9)]
            )
            assert np.linalg.norm(null @ moving.T) < 0.2 * np.linalg.norm(null)  # clipping mixes them
        observation, *_ = collector.env.step(act(random.standard_normal((2, 7))))
    assert np.median(ratios) > 5


def test_the_object_is_pushed_and_not_passed_through(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its wrapper, the object does not get nearer to the goal, as gymnasium's issues 950 and 1576 say."""

    def left() -> float:
        """Distance of the object from the goal, in metres, after an episode without noise: a mean."""
        collect = push.PushCollector(100, 0.0, 0.0)
        ends = [collect(np.random.SeedSequence([0, seed]))["observations"][-1] for seed in range(6)]
        return float(np.mean([np.linalg.norm(end[17:19] - end[20:22]) for end in ends]))

    assert left() < 0.08
    plain = push.push_spec(100)
    plain.additional_wrappers = plain.additional_wrappers[:1]
    monkeypatch.setattr(push, "push_spec", lambda horizon: plain)
    assert left() > 0.16


def test_an_action_of_one_is_the_largest_torque() -> None:
    ours, plain = make(push.push_spec(100)), make(push.ENVIRONMENT)
    for env, action in ((ours, np.ones(7, np.float32)), (plain, np.full(7, 2, np.float32))):
        env.reset(seed=0)
        env.step(action)
    np.testing.assert_array_equal(ours.unwrapped.data.ctrl, plain.unwrapped.data.ctrl)  # type: ignore[attr-defined]
    assert gymnasium.spec(push.ENVIRONMENT).additional_wrappers == ()  # the registry stays as it is


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_tip": -0.1}, "data.noise_tip: -0.1, allowed: "),
        ({"noise_null": float("nan")}, "data.noise_null: nan, allowed: "),
        ({"noise_null": "wide"}, "data.noise_null: 'wide', allowed: a number"),
        ({"horizon": 0}, "data.horizon: 0, allowed: "),
        ({"return_range": [-33.0, -149.0]}, "data.return_range: [-33.0, -149.0], allowed: [low, high] with low < high"),
        ({"return_range": None}, "data.return_range: None, allowed: a list"),
        ({"environment": "Pusher-v4"}, "data: unknown key 'environment', allowed: source, collector, dataset, horizon"),
        ({"collector": "pull"}, "data.collector: 'pull', allowed: 'play', 'navigate', 'waypoint', 'push'"),
    ],
)
def test_settings_that_make_no_sense_are_one_line(change: dict[str, Any], message: str) -> None:
    with refused(start=message):
        validated(DATA, VALUES | change, "data")

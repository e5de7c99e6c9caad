"""Minari sets: finding or downloading them, their evaluation environment, their conversion to flat rows."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fd.environments import register, temporary_files_removed, unit_box
from fd.errors import FdError
from fd.transitions import Transitions, assemble, check


def find(dataset: str) -> Any:
    """Return a set from Minari's local folder, or download it there first.

    Raises:
        FdError: it is neither there nor to be had from Minari's remote, or its files cannot be read.
    """
    register()
    import minari
    from minari.storage import get_dataset_path

    try:
        if not (get_dataset_path(dataset) / "data").exists():
            minari.download_dataset(dataset)
        return minari.load_dataset(dataset, download=False)
    except Exception as error:  # each remote raises exceptions of its own client
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
        raise FdError(
            f"dataset: '{dataset}' cannot be read from {get_dataset_path()} or downloaded ({reason});"
            " `source: generate` with `collector: waypoint` makes a PointMaze set without a network"
        ) from error


def evaluation_spec(dataset: Any) -> dict[str, Any]:
    """Return the spec of a set's evaluation environment, as a JSON object.

    Raises:
        FdError: the set names no environment, or one without a limit of steps.
    """
    register()
    name = dataset.spec.dataset_id
    if "eval_env_spec" in dataset.storage.metadata:
        with temporary_files_removed():
            env = dataset.recover_environment(eval_env=True)
        spec = env.spec
        env.close()
    else:
        spec = dataset.env_spec
    if spec is None:
        raise FdError(f"{name}: names no environment, so nothing can be evaluated on it")
    if spec.max_episode_steps is None:
        raise FdError(f"{name}: its environment {spec.id} has no limit of steps")
    written: dict[str, Any] = json.loads(spec.to_json())
    return written


def return_range(dataset: Any) -> list[float]:
    """Return the set's reference returns, that of a random and that of an expert policy.

    Raises:
        FdError: the set has none.
    """
    metadata = dataset.storage.metadata
    if "ref_min_score" not in metadata or "ref_max_score" not in metadata:
        raise FdError(f"{dataset.spec.dataset_id}: has no reference returns, so `score: return` is not allowed")
    return [float(metadata["ref_min_score"]), float(metadata["ref_max_score"])]


@contextmanager
def root_at(folder: Path) -> Iterator[None]:
    """Minari's sets are those under `folder` inside."""
    name = "MINARI_DATASETS_PATH"
    before = os.environ.get(name)
    os.environ[name] = str(folder.resolve())  # Minari measures a set's size wrongly below a relative path
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def convert(dataset: Any, *, observation: tuple[str, ...], reward: str) -> Transitions:
    """Flatten the episodes of a Minari set.

    Args:
        dataset: a minari.MinariDataset.
        observation: keys of a dict observation, concatenated in this order; empty when it is flat.
        reward: "sparse" takes one off every reward and ends the bootstrap where it was 1; "dense" keeps them.

    Raises:
        FdError: a file cannot be read, the observation is not as `observation` says, the actions are no box from -1
            to 1, or a value is NaN.
    """
    columns: dict[str, list[NDArray[Any]]] = {field.name: [] for field in fields(Transitions)}
    unit_box(dataset.spec.dataset_id, dataset.spec.action_space)
    for episode in _episodes(dataset):
        steps = len(episode.rewards)
        states = flat(dataset.spec.dataset_id, episode.observations, observation)
        terminal = episode.rewards == 1 if reward == "sparse" else episode.terminations
        columns["observations"].append(states)
        columns["actions"].append(_with_end(episode.actions))
        columns["rewards"].append(_with_end(episode.rewards - 1 if reward == "sparse" else episode.rewards))
        columns["masks"].append(_with_end(1 - np.asarray(terminal, np.float32)))
        columns["ends"].append(np.arange(steps + 1) == steps)
    if not columns["ends"]:
        raise FdError(f"{dataset.spec.dataset_id}: holds no episode")
    rows = {key: np.concatenate(values) for key, values in columns.items()}
    arrays = assemble(
        rows["observations"], rows["actions"], rewards=rows["rewards"], masks=rows["masks"], ends=rows["ends"]
    )
    check(Path(dataset.storage.data_path), arrays)
    return arrays


def _episodes(dataset: Any) -> Iterator[Any]:
    """The episodes; a file that cannot be read is an FdError."""
    try:
        yield from dataset.iterate_episodes()
    except (OSError, KeyError, ValueError) as error:
        raise FdError(f"{dataset.storage.data_path}: cannot be read ({' '.join(str(error).split())})") from None


def flat(place: str, observations: Any, keys: tuple[str, ...]) -> NDArray[Any]:
    """Concatenate the named parts of a dict observation, or return a flat one.

    Raises:
        FdError: names the place and the key that is missing, or the keys there are.
    """
    if not isinstance(observations, dict):
        if keys:
            raise FdError(f"{place}: observation: {list(keys)} given for a flat observation, allowed: []")
        return np.asarray(observations)
    missing = [key for key in keys if key not in observations]
    if missing or not keys:
        wrong = f"'{missing[0]}' does not exist" if missing else "[] given for a dict observation"
        raise FdError(f"{place}: observation: {wrong}, allowed: {', '.join(observations)}")
    return np.concatenate([np.asarray(observations[key]) for key in keys], axis=-1)


def _with_end(values: NDArray[Any]) -> NDArray[Any]:
    """The values of T transitions and an empty one for the last state."""
    return np.concatenate([values, np.zeros_like(values[:1])])

"""OGBench sets: names, files, download, and their conversion by ogbench's own relabelling."""

import re
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from fd.datasets.collection import read_shard
from fd.datasets.fetch import fetch
from fd.datasets.rows import check_flags, check_numbers
from fd.errors import FdError
from fd.settings.data_settings import Download
from fd.simulation.environments import make, quiet, register, renders, unit_box
from fd.storage.files import expanded, naming
from fd.storage.transitions import Transitions, assemble, check_transitions, read_npz

_NAME = re.compile(r"(?P<env>[a-z0-9-]+?)-(?P<kind>[a-z]+)-singletask(?P<task>-task[1-5])?-v0")


@dataclass(frozen=True)
class Name:
    """The parts of the name of a single-task set.

    Attributes:
        full: e.g. cube-single-play-singletask-task1-v0.
        environment: environment without a task, e.g. cube-single-v0.
        task: environment with the task, e.g. cube-single-singletask-task1-v0.
        kind: how the set was collected, e.g. play.
        file: name of its files without an ending, e.g. cube-single-play-v0.
    """

    full: str
    environment: str
    task: str
    kind: str
    file: str


def parse_name(name: str) -> Name:
    """Split the name of a single-task set.

    Raises:
        FdError: the name does not match the pattern, or ogbench has no such environment.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        allowed = "<environment>-<kind>-singletask[-taskN]-v0"
        raise FdError(f"dataset: '{name}' is not an OGBench single-task set, allowed: {allowed}")
    env, kind, task = match["env"], match["kind"], match["task"] or ""
    parts = Name(name, f"{env}-v0", f"{env}-singletask{task}-v0", kind, f"{env}-{kind}-v0")
    register()
    if parts.task not in gymnasium.registry:
        raise FdError(f"dataset: '{name}' names an environment that ogbench does not have: '{parts.task}'")
    return parts


def task_spec(name: Name) -> EnvSpec:
    """Return the spec of a task's environment."""
    register()
    return gymnasium.spec(name.task)


def find_ogbench(name: Name, download: Download, *, label: str, hint: str) -> Path:
    """Return the path of the published training file; fetch it if neither the download folder nor ogbench's has it.

    Args:
        name: the set.
        download: the folder, the base URLs, tried in order, and the timeout in seconds.
        label: name of the work in progress lines.
        hint: last part of the message if no host has the file.

    Raises:
        FdError: no host has the file.
    """
    register()
    from ogbench.utils import DEFAULT_DATASET_DIR

    folders = [expanded(download.folder, "download.folder")]
    with suppress(FdError):  # without a home folder, ogbench has none
        folders.append(expanded(DEFAULT_DATASET_DIR, "ogbench"))
    for folder in folders:
        if (path := folder / f"{name.file}.npz").exists():
            return path
    try:
        return fetch(f"{name.file}.npz", download, label=label)
    except FdError as error:
        raise FdError(f"dataset: '{name.full}': {error}; {hint}") from None


def write_ogbench(path: Path, episodes: list[Path]) -> None:
    """Write episodes as one file in OGBench's format: flat arrays of all rows in time order.

    Memory holds one episode at a time.

    Args:
        path: the file to write.
        episodes: files of the episodes.
    """
    first, rows = (
        read_shard(episodes[0]),
        sum(len(read_shard(episode, "terminals")["terminals"]) for episode in episodes),
    )
    with naming(path), zipfile.ZipFile(path, "w") as archive:
        for key, values in first.items():
            member = zipfile.ZipInfo(f"{key}.npy")
            # Images compress to a fraction, states hardly.
            member.compress_type = zipfile.ZIP_DEFLATED if values.dtype == np.uint8 else zipfile.ZIP_STORED
            layout = {"descr": np.lib.format.dtype_to_descr(values.dtype), "fortran_order": False}
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array_header_1_0(file, layout | {"shape": (rows, *values.shape[1:])})
                for episode in episodes:
                    file.write(np.ascontiguousarray(read_shard(episode, key)[key]).data)


def convert_ogbench(path: Path, name: Name) -> Transitions:
    """Read the training file of a set and relabel it for the single task with ogbench itself.

    The rewards of a set of images are computed from its states, too, so nothing is rendered.

    Raises:
        FdError: the file cannot be read, is not an npz file, lacks a field, or holds unusable values.
    """
    task = task_spec(name)
    from ogbench.relabel_utils import relabel_dataset

    images = (task.kwargs["height"], task.kwargs["width"], 3) if renders(task) else None
    env = make(name.task, **({"ob_type": "states"} if images else {}))
    try:
        rows = _read_file(path, env, images)
        with quiet():
            relabel_dataset(name.task, env, rows)
    finally:
        env.close()
    arrays = assemble(
        str(path),
        rows["observations"],
        rows["actions"],
        rewards=rows["rewards"],
        masks=rows["masks"],
        ends=rows["terminals"].astype(np.bool_),
    )
    check_transitions(path, arrays)
    return arrays


def _read_file(path: Path, env: gymnasium.Env[Any, Any], images: tuple[int, ...] | None) -> dict[str, NDArray[Any]]:
    """The raw arrays, checked against each other and the environment, so that ogbench does not fail on them later.

    Args:
        path: the file to read.
        env: environment of the task, with states as observations.
        images: shape of the observations if they are images, else None.
    """
    with quiet():
        env.reset()
        box = unit_box(str(path), env.action_space)
        widths = {"observations": images or env.observation_space.shape, "actions": box.shape}
    inner: Any = env.unwrapped
    # Only some of the environments have buttons, and only those have the field.
    widths |= {"qpos": inner.data.qpos.shape, "qvel": inner.data.qvel.shape, "terminals": ()}
    buttons = getattr(inner, "_target_button_states", None)
    if buttons is not None:
        widths["button_states"] = buttons.shape
    arrays = read_npz(path, list(widths))
    rows = len(arrays["observations"]) if arrays["observations"].ndim else 0
    for key, values in arrays.items():
        if not values.ndim or not rows:
            raise FdError(f"{path}: '{key}' has shape {values.shape}, allowed: one row or more")
        if len(values) != rows:
            raise FdError(f"{path}: '{key}' has {len(values)} rows, 'observations' has {rows}")
        if values.shape[1:] != widths[key]:
            raise FdError(f"{path}: '{key}' has rows of shape {values.shape[1:]}, allowed: {widths[key]}")
        check_numbers(str(path), key, values)
    check_flags(str(path), "terminals", arrays["terminals"])
    kind = arrays["observations"].dtype
    if (kind == np.uint8) != (images is not None):
        raise FdError(f"{path}: 'observations' is {kind}, allowed: {'uint8' if images else 'floats'}")
    check_flags(str(path), "terminals", arrays["terminals"])
    if not arrays["terminals"][-1]:
        raise FdError(f"{path}: the last row of 'terminals' is not 1, so the last episode is cut off")
    if arrays["terminals"].all():
        raise FdError(f"{path}: no transition, every row of 'terminals' ends an episode")
    return arrays

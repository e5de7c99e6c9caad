"""OGBench sets: names, files, download, and their conversion by ogbench's own relabelling."""

import os
import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from fd.environments import make, quiet, register
from fd.errors import FdError
from fd.params import Download
from fd.progress import Progress
from fd.sources.shards import Episode
from fd.transitions import Transitions, assemble, check, read_npz

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


def parse(name: str) -> Name:
    """Split the name of a single-task set.

    Raises:
        FdError: the name has another form, or ogbench has no such environment.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        allowed = "<environment>-<kind>-singletask[-taskN]-v0"
        raise FdError(f"dataset: '{name}' is no OGBench single-task set, allowed: {allowed}")
    env, kind, task = match["env"], match["kind"], match["task"] or ""
    parts = Name(name, f"{env}-v0", f"{env}-singletask{task}-v0", kind, f"{env}-{kind}-v0")
    register()
    if parts.task not in gymnasium.registry:
        raise FdError(f"dataset: '{name}' names an environment that ogbench does not have: '{parts.task}'")
    return parts


def find(name: Name, download: Download, *, label: str, hint: str) -> Path:
    """Return the published training file from ogbench's own folder, fetched there first if it is missing.

    Args:
        name: the set.
        download: base URLs, tried in order, and the timeout in seconds.
        label: what the progress is called.
        hint: ends the message when no host answers.

    Raises:
        FdError: no host has the file.
    """
    register()
    from ogbench.utils import DEFAULT_DATASET_DIR

    path = Path(DEFAULT_DATASET_DIR).expanduser() / f"{name.file}.npz"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    for mirror in download.mirrors:
        url = f"{mirror.rstrip('/')}/{path.name}"
        try:
            _fetch(url, path, timeout=download.timeout, label=label)
            return path
        except (urllib.error.URLError, TimeoutError, ConnectionError, IncompleteError) as error:
            reasons.append(f"{url}: {getattr(error, 'reason', None) or error}")
    tried = "; ".join(reasons) or "download.mirrors is empty"
    raise FdError(f"dataset: '{name.full}' is not at {path} and no host has it ({tried}); {hint}")


class IncompleteError(Exception):
    """A host closed the connection before the end of a file."""


def _fetch(url: str, path: Path, *, timeout: float, label: str) -> None:
    """Fetch a file; its name appears once it is complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with urllib.request.urlopen(url, timeout=timeout) as response, temporary.open("wb") as file:
            total = int(response.headers.get("Content-Length") or 0)
            with Progress(total, label, unit="bytes") as progress:
                while chunk := response.read(1 << 20):
                    progress.advance(file.write(chunk))
            if file.tell() < total:
                raise IncompleteError(f"ended after {file.tell()} of {total} bytes")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write(path: Path, episodes: list[Episode]) -> None:
    """Write episodes as one file in OGBench's format: flat arrays of all rows in time order."""
    with path.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            **{key: np.concatenate([e[key] for e in episodes]) for key in episodes[0]},
        )


def convert(path: Path, name: Name) -> Transitions:
    """Read the training file of a set and relabel it for the single task with ogbench itself.

    Raises:
        FdError: the file is missing, truncated or not an npz file, lacks a field, or holds unusable values.
    """
    register()
    import ogbench
    from ogbench.relabel_utils import relabel_dataset

    env = make(name.task)
    try:
        _check_file(path, env)
        rows: dict[str, Any] = ogbench.load_dataset(path, compact_dataset=True, add_info=True)
        with quiet():
            relabel_dataset(name.task, env, rows)
    finally:
        env.close()
    arrays = assemble(
        rows["observations"],
        rows["actions"],
        rewards=rows["rewards"],
        masks=rows["masks"],
        ends=rows["valids"] == 0,
    )
    check(path, arrays)
    return arrays


def _check_file(path: Path, env: gymnasium.Env[Any, Any]) -> None:
    """Check the raw arrays against each other and the environment, before ogbench stumbles over them."""
    with quiet():
        env.reset()
        widths = {"observations": env.observation_space.shape, "actions": env.action_space.shape}
    inner: Any = env.unwrapped
    # Only some of the environments have buttons, and only those have the field.
    widths |= {"qpos": inner.data.qpos.shape, "qvel": inner.data.qvel.shape, "terminals": ()}
    buttons = getattr(inner, "_target_button_states", None)
    if buttons is not None:
        widths["button_states"] = buttons.shape
    arrays = read_npz(path, list(widths))
    rows = len(arrays["observations"])
    for key, values in arrays.items():
        if len(values) != rows:
            raise FdError(f"{path}: '{key}' has {len(values)} rows, 'observations' has {rows}")
        if values.shape[1:] != widths[key]:
            raise FdError(f"{path}: '{key}' has rows of shape {values.shape[1:]}, allowed: {widths[key]}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = np.argwhere(~np.isfinite(values))[0][0]
            raise FdError(f"{path}: '{key}' holds NaN or infinity, first in row {row}")

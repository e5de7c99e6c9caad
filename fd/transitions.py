"""The arrays that every data source ends in, their manifest, and the folder that holds both.

Rows are in time order, one for each state: the state after row i is row i + 1. A row that ends an episode is a
state in which nothing is done: its action and reward are zero.
"""

import hashlib
import json
import os
import zipfile
import zlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import numpy as np
from numpy.typing import NDArray

from fd.errors import FdError
from fd.files import write_text

ARRAYS = "transitions.npz"
MANIFEST = "manifest.json"
# Actions are kept off the bounds, as in arXiv 2502.02538.
ACTION_BOUND = 1.0 - 1e-5

Floats = NDArray[np.float32]
Observations = NDArray[np.float32] | NDArray[np.uint8]


@dataclass(frozen=True)
class Transitions:
    """Transitions of whole episodes, R rows in time order.

    Attributes:
        observations: vectors [R, O], or images [R, H, W, C] in bytes.
        actions: [R, A], in (-1, 1).
        rewards: [R].
        masks: [R], 0 where the transition reached a success, so that nothing is bootstrapped; else 1.
        ends: [R], whether the row is the last state of its episode; no transition starts there.
    """

    observations: Observations
    actions: Floats
    rewards: Floats
    masks: Floats
    ends: NDArray[np.bool_]


@dataclass(frozen=True)
class Manifest:
    """What a data folder holds, where it comes from and how its task is evaluated.

    Attributes:
        source: "ogbench", "minari", "d4rl" or "generate".
        dataset: name of the set as its publisher writes it.
        collector: how a generated set was collected.
        environment: {"suite": "ogbench", "name"}, or
            {"suite": "minari", "spec" (a JSON object), "observation" (keys)}.
        horizon: steps after which an evaluation episode is cut.
        score: "success" (share of episodes with a success) or "return" (normalised by return_range).
        success_timing: "pre" when reward and success are those of the state before the step, "post" after it.
        files: size in bytes and SHA-256 of downloaded files, by name.
        obs_shape: of an observation, [O] or [H, W, C].
        successes: rows whose mask is 0.
        sha256: digest of each array's bytes, by name.
        differs: in what the set is known to differ from the one whose scores are published; None when it is that.
    """

    source: str
    dataset: str
    collector: str | None
    environment: dict[str, Any]
    horizon: int
    score: str
    return_range: list[float] | None
    success_timing: str
    versions: dict[str, str]
    seed: int | None
    episodes: int
    validation_episodes: int
    files: dict[str, dict[str, Any]]
    transitions: int
    obs_shape: list[int]
    act_dim: int
    successes: int
    reward_sum: float
    sha256: dict[str, str]
    differs: str | None = None


def measured(arrays: Transitions) -> dict[str, Any]:
    """Return the fields of a manifest that follow from the arrays."""
    return {
        "episodes": int(arrays.ends.sum()),
        "transitions": int((~arrays.ends).sum()),
        "obs_shape": list(arrays.observations.shape[1:]),
        "act_dim": arrays.actions.shape[1],
        "successes": int((arrays.masks == 0).sum()),
        "reward_sum": float(arrays.rewards.sum(dtype=np.float64)),
        "sha256": {field.name: _digest(getattr(arrays, field.name)) for field in fields(arrays)},
    }


def assemble(
    observations: NDArray[Any],
    actions: NDArray[Any],
    *,
    rewards: NDArray[Any],
    masks: NDArray[Any],
    ends: NDArray[np.bool_],
) -> Transitions:
    """Build transitions from arrays of R rows: float32 (images stay bytes), actions off their bounds, end rows emptied."""
    going = ~ends
    clipped = np.clip(np.asarray(actions, np.float32), -ACTION_BOUND, ACTION_BOUND)
    return Transitions(
        observations=np.ascontiguousarray(observations, None if observations.dtype == np.uint8 else np.float32),
        actions=np.ascontiguousarray(clipped * going[:, None], np.float32),
        rewards=np.ascontiguousarray(rewards * going, np.float32),
        masks=np.where(going, masks, 1.0).astype(np.float32),
        ends=np.ascontiguousarray(ends),
    )


def save(folder: Path, arrays: Transitions, manifest: Manifest) -> None:
    """Write the arrays and the manifest into an existing folder; each gets its name once it is complete."""
    temporary = folder / f".{ARRAYS}"
    with temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{field.name: getattr(arrays, field.name) for field in fields(arrays)})
    os.replace(temporary, folder / ARRAYS)
    write_text(folder / MANIFEST, json.dumps(asdict(manifest), indent=2) + "\n")


def load(folder: Path) -> Transitions:
    """Read the arrays of a data folder, checked against each other and against the manifest.

    Raises:
        FdError: names the file and what is wrong with it.
    """
    manifest = read_manifest(folder)
    path = folder / ARRAYS
    found = _read_arrays(path)
    check(path, found)
    counts = {"obs_shape": list(found.observations.shape[1:]), "act_dim": found.actions.shape[1]}
    counts |= {"transitions": int((~found.ends).sum()), "episodes": int(found.ends.sum())}
    for name, count in counts.items():
        if count != getattr(manifest, name):
            raise FdError(f"{path}: {name} is {count}, {MANIFEST} says {getattr(manifest, name)}")
    for name, digest in manifest.sha256.items():
        actual = _digest(getattr(found, name))
        if actual != digest:
            raise FdError(f"{path}: SHA-256 of '{name}' is {actual[:12]}…, {MANIFEST} says {digest[:12]}…")
    return found


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a data folder.

    Raises:
        FdError: it is missing, is not JSON, or lacks a field or holds one of another type.
    """
    path = folder / MANIFEST
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FdError(f"{path}: no such file; run the stage download for this task") from None
    except ValueError as error:
        raise FdError(f"{path}: not a JSON file ({error})") from None
    if not isinstance(values, dict):
        raise FdError(f"{path}: a JSON object is needed, found {type(values).__name__}")
    for field in fields(Manifest):
        if field.name not in values:
            raise FdError(f"{path}: lacks the field '{field.name}'")
        if not isinstance(values[field.name], _classes(field.type)):
            raise FdError(f"{path}: field '{field.name}' holds {values[field.name]!r}, allowed: {field.type}")
    unknown = sorted(values.keys() - {field.name for field in fields(Manifest)})
    if unknown:
        raise FdError(f"{path}: unknown field '{unknown[0]}'")
    return Manifest(**values)


def check(path: Path, arrays: Transitions) -> None:
    """Check types, shapes, finiteness and the episode ends of arrays read from `path`.

    Raises:
        FdError: names the path, the array and what is wrong with it.
    """
    rows = len(arrays.observations)
    for field in fields(arrays):
        values = getattr(arrays, field.name)
        images = field.name == "observations" and values.dtype == np.uint8
        dtype, dimensions = (np.uint8, 4) if images else _LAYOUT[field.name]
        if values.dtype != dtype:
            raise FdError(f"{path}: '{field.name}' is {values.dtype}, allowed: {dtype.__name__}")
        if values.ndim != dimensions:
            raise FdError(f"{path}: '{field.name}' has {values.ndim} dimensions, allowed: {dimensions}")
        if len(values) != rows:
            raise FdError(f"{path}: '{field.name}' has {len(values)} rows, 'observations' has {rows}")
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0][0])
            raise FdError(f"{path}: '{field.name}' holds NaN or infinity, first in row {row}")
    if rows == 0 or not arrays.ends[-1]:
        raise FdError(f"{path}: the last row of 'ends' is not True, so the last episode is cut off")
    if arrays.ends.all():
        raise FdError(f"{path}: no transition, every row is the end of an episode")
    if np.abs(arrays.actions).max() > 1:
        raise FdError(f"{path}: 'actions' reach {np.abs(arrays.actions).max():.4g}, allowed: -1 to 1")
    if not np.isin(arrays.masks, (0, 1)).all():
        raise FdError(f"{path}: 'masks' holds values other than 0 and 1")


_LAYOUT: dict[str, tuple[Any, int]] = {
    "observations": (np.float32, 2),
    "actions": (np.float32, 2),
    "rewards": (np.float32, 1),
    "masks": (np.float32, 1),
    "ends": (np.bool_, 1),
}


def read_npz(path: Path, names: list[str]) -> dict[str, NDArray[Any]]:
    """Read the named arrays of an npz file.

    Raises:
        FdError: the file is missing, truncated or no npz file, or lacks a field.
    """
    try:
        with path.open("rb") as stream:
            # A single array would be read, too; what is no zip archive ends in BadZipFile here.
            zipfile.ZipFile(stream).close()
        with np.load(path, allow_pickle=False) as file:
            missing = [name for name in names if name not in file.files]
            if missing:
                there = ", ".join(file.files) or "none"
                raise FdError(f"{path}: lacks the field '{missing[0]}', found: {there}")
            return {name: file[name] for name in names}
    except FileNotFoundError:
        raise FdError(f"{path}: no such file; run the stage download for this task") from None
    except FdError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise FdError(f"{path}: truncated or not an npz file ({error})") from None


def _read_arrays(path: Path) -> Transitions:
    """The arrays of the file as they are."""
    return Transitions(**read_npz(path, [field.name for field in fields(Transitions)]))


def _digest(values: NDArray[Any]) -> str:
    """SHA-256 of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


def _classes(annotation: Any) -> tuple[type, ...]:
    """Classes whose instances a field's annotation admits."""
    if isinstance(annotation, UnionType):
        return tuple(cls for part in get_args(annotation) for cls in _classes(part))
    if annotation is float:
        return (float, int)
    return (get_origin(annotation) or annotation,)

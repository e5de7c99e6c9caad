"""The arrays to which every data source is converted, their manifest, and the folder that holds both.

Rows are in time order, one for each state: the state after row i is row i + 1. A row that ends an episode is a
state without a transition: its action and reward are zero.
"""

import hashlib
import math
import zipfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import numpy as np
import numpy.lib.format as npy
from numpy.typing import NDArray

from fd.errors import FdError, one_line
from fd.runtime.limits import check_room
from fd.storage.files import damaged, digest, read_record, replacing, unreadable, write_record

ARRAYS = "transitions.npz"
MANIFEST = "manifest.json"
UNFOLDED = 100  # most bytes of arrays per byte of a compressed file
# Actions are kept off the bounds, as in arXiv 2502.02538.
ACTION_BOUND = 1.0 - 1e-5
ROUNDING = 1e-3  # that an action may lie beyond its bounds: a unit in the last place of half precision

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
    """Content and origin of a data folder, and how its task is evaluated.

    Attributes:
        source: "ogbench", "minari", "d4rl" or "generate".
        dataset: name of the set as its publisher writes it.
        collector: how a generated set was collected.
        environment: {"suite": "ogbench", "name"}, or
            {"suite": "minari", "spec" (a JSON object), "observation" (keys)}.
        horizon: steps after which an evaluation episode is cut.
        score: "success" (share of episodes with a success) or "return" (normalised by return_range).
        success_timing: "pre" when reward and success are those of the state before the step, "post" after it.
        files: size in bytes and SHA-256 of downloaded files, by name; for D4RL's, `verified` says whether the SHA-256 is
            known to be that of the published file.
        obs_shape: of an observation, [O] or [H, W, C].
        successes: rows whose mask is 0; None if the data do not mark success, so that such a row may be a failure.
        sha256: digest of each array's bytes, by name.
        differs: known differences from the set of the published scores; None if it is that set.
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
    successes: int | None
    reward_sum: float
    sha256: dict[str, str]
    differs: str | None = None

    @property
    def verified(self) -> bool:
        """False for a D4RL file of which nobody knows that it is the published one."""
        return self.source != "d4rl" or all(file.get("verified") is True for file in self.files.values())


def with_measures(arrays: Transitions) -> dict[str, Any]:
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
    place: str,
    observations: NDArray[Any],
    actions: NDArray[Any],
    *,
    rewards: NDArray[Any],
    masks: NDArray[Any],
    ends: NDArray[np.bool_],
) -> Transitions:
    """Build transitions from arrays of R rows: float32 (images stay bytes), actions kept off their bounds, end rows cleared.

    Raises:
        FdError: actions lie outside [-1, 1]; names the place, their share and the most extreme one.
    """
    going = ~ends
    _check_bounds(place, actions[going])
    clipped = np.clip(np.asarray(actions, np.float32), -ACTION_BOUND, ACTION_BOUND)
    return Transitions(
        observations=np.ascontiguousarray(observations, None if observations.dtype == np.uint8 else np.float32),
        actions=np.ascontiguousarray(clipped * going[:, None], np.float32),
        rewards=np.ascontiguousarray(rewards * going, np.float32),
        masks=np.where(going, masks, 1.0).astype(np.float32),
        ends=np.ascontiguousarray(ends),
    )


def _check_bounds(place: str, actions: NDArray[Any]) -> None:
    """Raise an FdError if actions lie outside [-1, 1] by more than rounding; clipping would make other actions of them."""
    beyond = (actions > 1 + ROUNDING) | (actions < -1 - ROUNDING)
    if beyond.any():
        extreme = max(float(actions.max()), float(actions.min()), key=abs)
        raise FdError(
            f"{place}: {100 * beyond.mean():.3g} % of the numbers in 'actions' lie outside -1 to 1, the most extreme is"
            f" {extreme:.4g}; allowed: actions in the units of the environment, whose box is -1 to 1"
        )


def save_transitions(folder: Path, arrays: Transitions, manifest: Manifest) -> None:
    """Write the arrays and the manifest into an existing folder, each whole or not at all.

    Besides its fields, the manifest file has a seal and, under the name "arrays", the SHA-256 of the file of the arrays.
    """
    with replacing(folder / ARRAYS) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{field.name: getattr(arrays, field.name) for field in fields(arrays)})
    write_record(folder / MANIFEST, asdict(manifest) | {"arrays": digest(folder / ARRAYS)})


def load_transitions(folder: Path) -> Transitions:
    """Read the arrays of a data folder, checked against the manifest.

    Raises:
        FdError: names the file and what is wrong with it.
    """
    manifest, needed = _manifest(folder)
    path = folder / ARRAYS
    if not path.is_file():
        raise FdError(f"{path}: no such file; run the stage download for this task")
    if (found := digest(path)) != needed:
        raise damaged(path, found, says=(MANIFEST, needed))
    arrays = Transitions(**read_npz(path, [field.name for field in fields(Transitions)]))
    check_transitions(path, arrays)
    counts = {"obs_shape": list(arrays.observations.shape[1:]), "act_dim": arrays.actions.shape[1]}
    counts |= {"transitions": int((~arrays.ends).sum()), "episodes": int(arrays.ends.sum())}
    for name, count in counts.items():
        if count != getattr(manifest, name):
            raise FdError(f"{path}: {name} is {count}, {MANIFEST} says {getattr(manifest, name)}")
    return arrays


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a data folder.

    Raises:
        FdError: it is missing, was changed or damaged, lacks a field, or has a field of the wrong type.
    """
    return _manifest(folder)[0]


def _manifest(folder: Path) -> tuple[Manifest, str]:
    """The manifest, and the SHA-256 of the file of the arrays."""
    path = folder / MANIFEST
    values = read_record(path, "run the stage download for this task")
    known = {field.name: field.type for field in fields(Manifest)}
    for name, kind in (known | {"arrays": str}).items():
        if name not in values:
            raise FdError(f"{path}: lacks the field '{name}'; run the stage download again")
        if not isinstance(values[name], _classes(kind)):
            raise FdError(f"{path}: field '{name}' holds {one_line(repr(values[name]))}, allowed: {kind}")
    arrays = values.pop("arrays")
    if unknown := sorted(values.keys() - known):
        raise FdError(f"{path}: unknown field '{unknown[0]}'")
    return Manifest(**values), arrays


def check_transitions(path: Path, arrays: Transitions) -> None:
    """Check types, shapes, finiteness and the episode ends of arrays read from `path`.

    Raises:
        FdError: names the path, the array and what is wrong with it.
    """
    rows = len(arrays.observations) if arrays.observations.ndim else 0
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


def read_npz(path: Path, names: Sequence[str] = ()) -> dict[str, NDArray[Any]]:
    """Read the named arrays of an npz file, or all; a false size in the file allocates no memory.

    Raises:
        FdError: the file cannot be read, is truncated or not an npz file, lacks a field, holds objects, would unpack to more than
            UNFOLDED times its size, or does not fit into memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            names = names or list(members)
            if missing := [name for name in names if name not in members]:
                raise FdError(
                    f"{path}: lacks the field '{missing[0]}', found: {one_line(', '.join(members) or 'none')}"
                )
            size, limit = sum(members[name].file_size for name in names), UNFOLDED * path.stat().st_size + 2**26
            if size > limit:
                raise FdError(f"{path}: unpacks to {size} bytes, allowed: {UNFOLDED} times its size")
            check_room(size, what=f"{path}: its arrays", allowed="more memory, a smaller set")
            return {name: _array(path, archive, members[name]) for name in names}
    except FdError:
        raise
    except (NotImplementedError, RuntimeError) as error:  # encrypted, or packed by a method that this Python lacks
        raise FdError(f"{path}: cannot be read: {one_line(error)}") from None
    except Exception as error:  # noqa: BLE001  zipfile, its decoders and numpy raise errors of many types
        raise unreadable(path, error, f"truncated or not an npz file ({one_line(error)})") from None


def _array(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    """An array of an npz file; its header is checked against the size of its data before memory is allocated."""
    with archive.open(info) as stream:
        if (version := npy.read_magic(stream)) != (1, 0):
            raise FdError(f"{path}: {info.filename} has npy version {version}, allowed: (1, 0)")
        shape, _, dtype = npy.read_array_header_1_0(stream)
        if dtype.hasobject:
            raise FdError(f"{path}: {info.filename} holds objects, which are never unpickled, allowed: numbers")
        if math.prod(shape) * dtype.itemsize != info.file_size - stream.tell():
            raise ValueError(f"{info.filename}: its shape {shape} does not match its data")
    with archive.open(info) as stream:
        values: NDArray[Any] = npy.read_array(stream, allow_pickle=False)
        return values


def _digest(values: NDArray[Any]) -> str:
    """SHA-256 of an array's bytes in C order."""
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


def _classes(annotation: Any) -> tuple[type, ...]:
    """Classes that a field's annotation allows."""
    if isinstance(annotation, UnionType):
        return tuple(cls for part in get_args(annotation) for cls in _classes(part))
    if annotation is float:
        return (float, int)
    return (get_origin(annotation) or annotation,)

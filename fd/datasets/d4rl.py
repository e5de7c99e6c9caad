"""Plain HDF5 files of D4RL: Adroit (hand_dapg_v1) and AntMaze (ant_maze_v2), one row per step.

A file has no row for the state after the last step of an episode. If that step ended in failure (`terminals` without
`timeouts`), its mask is 0 and its next state is not used, so the step is kept with its own state as the next one;
otherwise the step is left out, as in D4RL's own reader. The next state of a step always belongs to the same episode.

AntMaze: the reward of row i is that of the state in row i + 1, for a goal that was drawn once. A walk continues at the
goal, so `terminals` ends the bootstrap there, but not the episode. `timeouts` end episodes, and so does a jump of the
position: in earlier versions of the files, timeouts and jumps did not coincide (D4RL issue 77). The rows of D4RL's
mazes run along y, upwards.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from numpy.typing import NDArray

from fd.datasets.hdf5_check import check_hdf5, opened
from fd.datasets.mazes import between, registered
from fd.datasets.rows import Rows, check_flags, check_numbers
from fd.errors import FdError
from fd.runtime.limits import check_room
from fd.settings.data_settings import D4rlData
from fd.storage.files import expanded
from fd.storage.transitions import Transitions
from fd.wrappers import as_d4rl

FIELDS = {"observations": 2, "actions": 2, "rewards": 1, "terminals": 1, "timeouts": 1}  # dimensions
JUMP = 2.0  # metres; no ant moves that far in a step of 0.1 s
CELL = 4.0  # metres, width of a maze's cell
OUTSIDE = 0.01  # share of positions that may lie outside the free cells; within a leg's length of a wall, some do


def find_d4rl(data: D4rlData) -> Path:
    """Return the path of the file.

    Raises:
        FdError: the file does not exist, or the home folder, in which it lies, is not known.
    """
    path = expanded(data.folder, "folder") / data.file
    if not path.is_file():
        raise FdError(f"folder: {path} does not exist; D4RL's files are not downloaded, put the file there")
    return path


def d4rl_spec(data: D4rlData) -> EnvSpec:
    """Return the spec of the evaluation environment: one of gymnasium-robotics, changed to match D4RL's.

    Raises:
        FdError: the environment does not exist, or `maze` does not fit it.
    """
    spec = registered(data.environment)
    if data.maze is not None:
        spec = between(spec, start=data.maze.start, goal=data.maze.goal)
        spec.kwargs["maze_map"] = spec.kwargs["maze_map"][::-1]
        spec.additional_wrappers = (WrapperSpec("AntMazeAsD4rl", "fd.wrappers:AntMazeAsD4rl", {}),)
    elif "maze_map" in spec.kwargs:
        raise FdError(f"maze: null, but {data.environment} is a maze, allowed: {{start: …, goal: …}}")
    else:
        spec = as_d4rl(spec)
    spec.max_episode_steps = data.horizon
    return spec


def convert_d4rl(path: Path, data: D4rlData) -> Transitions:
    """Flatten the episodes of a file.

    Raises:
        FdError: the file cannot be read, lacks a field or has one of the wrong shape, or holds positions outside the
            maze, actions outside [-1, 1], a flag or sparse reward other than 0 and 1, or NaN.
    """
    columns = _read(path)
    ends = columns["timeouts"] | (columns["terminals"] if data.reward == "dense" else False)
    if data.maze is not None:
        _check_positions(path, columns["observations"][:, :2], data)
        moves = np.linalg.norm(np.diff(columns["observations"][:, :2], axis=0), axis=1)
        ends[:-1] |= moves > JUMP
    rows = Rows(data, str(path))
    for start, stop in _spans(ends):
        states, *steps = (columns[name][start:stop] for name in ("observations", "actions", "rewards", "terminals"))
        if data.reward == "dense" and columns["terminals"][stop - 1] and not columns["timeouts"][stop - 1]:
            rows.add(np.concatenate([states, states[-1:]]), *steps)
        elif stop - start > 1:
            rows.add(states, *(values[:-1] for values in steps))
    return rows.transitions(path)


def _spans(ends: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """First row of every episode and the row after its last; the end of the file ends an episode, too."""
    stops = [int(row) + 1 for row in np.flatnonzero(ends)]
    if not ends[-1]:
        stops.append(len(ends))
    return zip([0, *stops[:-1]], stops, strict=True)


def _check_positions(path: Path, positions: NDArray[Any], data: D4rlData) -> None:
    """Raise an FdError if many positions lie outside the free cells: the file then comes from a different maze."""
    assert data.maze is not None
    maze_map = np.array([[cell == 1 for cell in row] for row in d4rl_spec(data).kwargs["maze_map"][::-1]])
    cells = np.rint(positions[:, ::-1] / CELL + np.array(data.maze.start)).astype(int)
    inside = ((cells >= 0) & (cells < maze_map.shape)).all(axis=1)
    free = inside.copy()
    free[inside] = ~maze_map[tuple(cells[inside].T)]
    if (~free).mean() > OUTSIDE:
        raise FdError(
            f"{path}: {(~free).mean():.0%} of the positions lie outside {data.environment} with start"
            f" {list(data.maze.start)}: the file comes from a different maze"
        )


def _read(path: Path) -> dict[str, NDArray[Any]]:
    """The fields of the file, the flags as booleans."""
    import h5py

    check_hdf5(path)
    with opened(path) as file:
        missing = [name for name in FIELDS if not isinstance(file.get(name), h5py.Dataset)]
        if missing:
            raise FdError(f"{path}: lacks the field '{missing[0]}', found: {', '.join([*file][:20]) or 'none'}")
        if nothing := [name for name in FIELDS if file[name].shape is None]:
            raise FdError(f"{path}: '{nothing[0]}' holds nothing, allowed: numbers")
        size = sum(file[name].nbytes for name in FIELDS)
        check_room(size, what=f"{path}: its arrays", allowed="more memory, a smaller set")
        columns = {name: np.asarray(file[name]) for name in FIELDS}
    rows = len(columns["observations"]) if columns["observations"].size and columns["observations"].ndim else 0
    for name, dimensions in FIELDS.items():
        shape = columns[name].shape
        if len(shape) != dimensions or shape[0] != rows or not rows:
            raise FdError(
                f"{path}: '{name}' has shape {shape}, allowed: {dimensions} dimensions of {rows or 'some'} rows"
            )
        check_numbers(str(path), name, columns[name])
    for name in ("terminals", "timeouts"):
        check_flags(str(path), name, columns[name])
        columns[name] = columns[name].astype(bool)
    return columns

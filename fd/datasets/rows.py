"""Converts recorded episodes to transitions, whatever file format they come from."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fd.errors import FdError
from fd.settings.data_settings import RobotData
from fd.storage.transitions import Transitions, assemble, check_transitions


class Rows:
    """Collects episodes as flat rows."""

    def __init__(self, data: RobotData, place: str) -> None:
        """Start without episodes; messages name the place."""
        self._data, self._place = data, place
        self._episodes: list[dict[str, NDArray[Any]]] = []

    def add(
        self, states: NDArray[Any], actions: NDArray[Any], rewards: NDArray[Any], terminals: NDArray[Any], /
    ) -> None:
        """Add an episode of T + 1 states and T steps.

        Raises:
            FdError: lengths or widths do not match, values are not numbers, or a terminal or a sparse reward is neither 0 nor 1.
        """
        arrays = {"observations": states, "actions": actions, "rewards": rewards, "terminals": terminals}
        for name, values in arrays.items():
            check_numbers(self._place, name, values)
            rows = len(actions) + (name == "observations")
            like = self._episodes[0][name].shape[1:] if self._episodes and name in self._episodes[0] else None
            dimensions = 2 if name in ("observations", "actions") else 1
            if values.ndim != dimensions or len(values) != rows or like not in (None, values.shape[1:]) or rows == 0:
                raise FdError(
                    f"{self._place}: '{name}' has shape {values.shape} in an episode of {len(actions)} steps"
                    + (f", other episodes have rows of shape {like}" if like else "")
                )
        check_flags(self._place, "terminals", terminals)
        if self._data.reward == "sparse":
            wrong = rewards[(rewards != 0) & (rewards != 1)]
            if wrong.size:
                raise FdError(f"{self._place}: reward: sparse, but a reward is {wrong[0]:.4g}, allowed: 0 and 1")
            terminals, rewards = rewards == 1, np.asarray(rewards, np.float32) - 1
        steps = len(actions)
        if self._data.cut_at_success and terminals.any():
            steps = int(np.argmax(terminals)) + 1
        self._episodes.append(
            {
                "observations": states[: steps + 1],
                "actions": _with_end(actions[:steps]),
                "rewards": _with_end(rewards[:steps]),
                "masks": _with_end(1 - np.asarray(terminals[:steps], np.float32)),
                "ends": np.arange(steps + 1) == steps,
            }
        )

    def transitions(self, path: Path) -> Transitions:
        """Return the rows of all episodes, checked; messages name the path.

        Raises:
            FdError: there is no episode, a value is NaN, or actions lie outside [-1, 1].
        """
        if not self._episodes:
            raise FdError(f"{self._place}: holds no episode")
        rows = {key: np.concatenate([episode[key] for episode in self._episodes]) for key in self._episodes[0]}
        observations, actions = rows.pop("observations"), rows.pop("actions")
        arrays = assemble(
            self._place, observations, actions, rewards=rows["rewards"], masks=rows["masks"], ends=rows["ends"]
        )
        check_transitions(path, arrays)
        return arrays


def check_numbers(place: str, name: str, values: NDArray[Any]) -> None:
    """Raise an FdError unless all values are numbers that a float32 can hold."""
    if values.dtype.kind not in "fiub":
        raise FdError(f"{place}: '{name}' is {values.dtype}, allowed: numbers")
    wrong = ~(np.abs(values) <= np.finfo(np.float32).max) if values.dtype.kind == "f" else np.zeros(1, bool)
    if wrong.any():
        raise FdError(f"{place}: '{name}' holds NaN or infinity, first in row {int(np.argwhere(wrong)[0][0])}")


def check_flags(place: str, name: str, values: NDArray[Any]) -> None:
    """Raise an FdError unless all values are 0 or 1, as numbers or truth values; a cast to truth values would hide others."""
    wrong = values[(values != 0) & (values != 1)]
    if wrong.size:
        raise FdError(f"{place}: '{name}' holds {wrong[0]:.4g}, allowed: 0 and 1")


def _with_end(values: NDArray[Any]) -> NDArray[Any]:
    """Append a zero for the last state to the values of T transitions."""
    return np.concatenate([values, np.zeros_like(values[:1])])

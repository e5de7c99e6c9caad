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

    def __init__(self, data: RobotData, place: str, terminals: str = "terminals") -> None:
        """Start without episodes.

        Args:
            data: settings of the set.
            place: name of the set in messages.
            terminals: the format's name of the flags that end an episode in failure.
        """
        self._data, self._place, self._terminals = data, place, terminals
        self._episodes: list[dict[str, NDArray[Any]]] = []

    def add(
        self,
        states: NDArray[Any],
        actions: NDArray[Any],
        rewards: NDArray[Any],
        terminals: NDArray[Any],
        /,
        *,
        place: str = "",
    ) -> None:
        """Add an episode of T + 1 states and T steps; messages name `place`, by default that of the set.

        Raises:
            FdError: lengths or widths do not match, values are not numbers, or flags or sparse rewards are not 0 and 1.
        """
        place = place or self._place
        arrays = {"observations": states, "actions": actions, "rewards": rewards, self._terminals: terminals}
        steps = len(actions) if actions.ndim else 0
        for name, values in arrays.items():
            check_numbers(place, name, values)
            rows = steps + (name == "observations")
            like = self._episodes[0][name].shape[1:] if self._episodes and name in self._episodes[0] else None
            dimensions = 2 if name in ("observations", "actions") else 1
            if values.ndim != dimensions or len(values) != rows or like not in (None, values.shape[1:]) or rows == 0:
                raise FdError(
                    f"{place}: '{name}' has shape {values.shape} in an episode of {steps} steps"
                    + (f", other episodes have rows of shape {like}" if like else "")
                )
        check_flags(place, self._terminals, terminals)
        if self._data.reward == "sparse":
            wrong = rewards[(rewards != 0) & (rewards != 1)]
            if wrong.size:
                raise FdError(f"{place}: reward: sparse, but a reward is {wrong[0]:.4g}, allowed: 0 and 1")
            terminals, rewards = rewards == 1, np.asarray(rewards, np.float32) - 1
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
            raise FdError(f"{self._place}: holds no episode of two or more states")
        rows = {key: np.concatenate([episode[key] for episode in self._episodes]) for key in self._episodes[0]}
        observations, actions = np.asarray(rows.pop("observations"), np.float32), rows.pop("actions")
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
    """Raise an FdError unless all values are 0 or 1, or truth values."""
    wrong = values[(values != 0) & (values != 1)]
    if wrong.size:
        raise FdError(f"{place}: '{name}' holds {wrong[0]:.4g}, allowed: 0 and 1")


def _with_end(values: NDArray[Any]) -> NDArray[Any]:
    """Append a zero for the last state to the values of T transitions."""
    return np.concatenate([values, np.zeros_like(values[:1])])

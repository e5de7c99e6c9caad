"""Transitions that the seeds collect online, in one replay with those of the data; every save writes the new ones to a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fd.runtime.memory import check_room
from fd.simulation.lockstep import StepOutcome
from fd.storage.tensors import read_tensors, write_tensors
from fd.training.replay import Replay

ROWS = ("obs", "act", "reward", "mask", "going", "first")  # fields of a replay with one entry per row

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Label:
    """Reward and mask of a transition, and whether it ends its episode."""

    reward: float
    mask: float
    end: bool


def labelled(outcome: StepOutcome, convention: str) -> Label:
    """The label of a simulator's step, by the convention of the task's data.

    Args:
        outcome: of the step.
        convention: `own` (OGBench): the single-task simulators pay the reward with which the sets are relabelled, the number of goals
            reached minus the number of all goals; with success_timing `pre`, both take reward and success from the state before the
            step. `sparse` (Minari): the reward minus 1. With `own` and `sparse`, success ends bootstrapping and the episode. `dense`:
            the unchanged reward; only termination ends bootstrapping. Minari's Adroit sets hold the rewards of their own simulation,
            which may differ from the rewards of the simulator here, which are D4RL's (see fd.datasets.minari).
    """
    over = outcome.terminated if convention == "dense" else outcome.success
    reward = outcome.reward - 1 if convention == "sparse" else outcome.reward
    return Label(reward, 1.0 - over, over or outcome.terminated or outcome.truncated)


class Experience:
    """One replay: first the transitions of a dataset, which all seeds share, then those that each seed has collected.

    The rows of seed s start at R + s * M, in time order, with a row for the last state of every episode.

    Attributes:
        replay: of R + S * M rows.
        steps: transitions that each seed has collected.
        episodes: number of each seed's current episode, [S].
    """

    def __init__(self, data: Replay, *, seeds: int, steps: int, balanced: bool) -> None:
        """Allocate memory for the transitions.

        Args:
            data: the dataset.
            seeds: their number, S.
            steps: most transitions that a seed can collect.
            balanced: whether half of a batch comes from its seed's own transitions; else all transitions are equally likely.

        Raises:
            FdError: the device has less memory than they take.
        """
        self._room = 2 * steps + 1  # at most two rows per step: it may end an episode, and the next one begins
        self._offline, self._balanced = len(data.starts), balanced
        shared, device = len(data.obs), data.act.device
        size = sum(getattr(data, name).nbytes for name in ROWS) // shared * (shared + seeds * self._room)
        what = f"the {shared} rows of the data and the transitions of {steps} online steps of {seeds} seeds"
        check_room(size, device, what=what, allowed="fewer seeds, fewer steps in online.tasks")
        grown = {}
        for name in ROWS:
            values = getattr(data, name)
            grown[name] = values.new_zeros(shared + seeds * self._room, *values.shape[1:])
            grown[name][:shared] = values
        self.replay = replace(data, **grown)
        self._own = {name: values[shared:].view(seeds, self._room, *values.shape[1:]) for name, values in grown.items()}
        self._starts = data.starts.new_zeros(seeds, self._offline + steps)
        self._starts[:, : self._offline] = data.starts
        self._count = torch.zeros((), dtype=torch.int64, device=device)  # `steps` on the device, for updates
        self.steps = 0
        self.episodes = np.zeros(seeds, np.int64)
        self._base: Indices = shared + self._room * np.arange(seeds)
        self._head, self._first = np.zeros(seeds, np.int64), np.zeros(seeds, np.int64)  # of the current episode
        self._saved = 0, 0  # the first row and the first step not yet saved

    def choose(self, numbers: Tensor) -> Tensor:
        """Rows [S, B] of the transitions that random numbers [S, B], each at least 0, select."""
        if not self._balanced:
            return self._starts.gather(1, numbers % (self._offline + self._count))
        half = numbers.shape[1] // 2
        offline, online = numbers % self._offline, self._offline + numbers % self._count.clamp_min(1)
        online = torch.where(self._count > 0, online, offline)
        return self._starts.gather(1, torch.cat([offline[:, half:], online[:, :half]], dim=1))

    def states(self) -> Tensor:
        """The current state of each seed, [S, 1, O]."""
        return self.replay.states(self._rows(self._head)).unsqueeze(1)

    def shown(self) -> list[NDArray[np.generic]]:
        """The last observation of each seed's simulator, [O]."""
        return [own[head].cpu().numpy() for own, head in zip(self._own["obs"], self._head, strict=True)]

    def unfinished(self) -> list[NDArray[np.float32]]:
        """Actions of each seed's current episode, [T, A]."""
        spans = zip(self._own["act"], self._first, self._head, strict=True)
        return [own[first:head].cpu().numpy() for own, first, head in spans]

    def begin(self, states: Mapping[int, NDArray[np.generic]]) -> None:
        """Store the first states of the current episodes, by the index of a seed."""
        for index, state in states.items():
            self._own["obs"][index, self._head[index]] = torch.from_numpy(np.asarray(state))
            self._own["first"][index, self._head[index]] = int(self._base[index] + self._first[index])

    def append(self, act: NDArray[np.float32], obs: NDArray[np.generic], labels: Sequence[Label]) -> None:
        """Store a step of every seed: its action [S, A], the resulting state [S, O], its label."""
        replay, rows = self.replay, self._rows(self._head)
        replay.act[rows] = self._tensor(act)
        replay.reward[rows] = self._tensor(np.array([label.reward for label in labels], np.float32))
        replay.mask[rows] = self._tensor(np.array([label.mask for label in labels], np.float32))
        replay.going[rows] = 1.0
        replay.obs[rows + 1] = self._tensor(obs)
        replay.first[rows + 1] = self._rows(self._first)
        self._starts[:, self._offline + self.steps] = rows
        self._count += 1
        self.steps += 1
        ended = np.array([label.end for label in labels])
        self._head += 1 + ended
        self._first = np.where(ended, self._head, self._first)
        self.episodes += ended

    def save(self, folder: Path, at: int) -> None:
        """Writes the transitions not yet saved, and the position of each seed, after the training step `at`."""
        row, step = self._saved
        tensors = {name: own[:, row : self._head.max() + 1] for name, own in self._own.items()}
        tensors["starts"] = self._starts[:, self._offline + step : self._offline + self.steps]
        tensors["places"] = torch.from_numpy(np.stack([self._head, self._first, self.episodes]))
        write_tensors(folder / f"experience_{at:09d}.safetensors", tensors, {"row": row, "step": step})
        self._saved = int(self._head.min()), self.steps

    def restore(self, folder: Path, at: int) -> None:
        """Reads the transitions and positions saved up to the training step `at`."""
        for path in sorted(folder.glob("experience_*.safetensors")):
            if int(path.stem.split("_")[1]) > at:
                break
            tensors, record = read_tensors(path, self.replay.act.device)
            row, step = record["row"], record["step"]
            for name, own in self._own.items():
                own[:, row : row + tensors[name].shape[1]] = tensors[name]
            self.steps = step + tensors["starts"].shape[1]
            self._starts[:, self._offline + step : self._offline + self.steps] = tensors["starts"]
            self._head, self._first, self.episodes = tensors["places"].cpu().numpy().copy()
            self._saved = int(self._head.min()), self.steps
        self._count.fill_(self.steps)

    def _rows(self, own: Indices) -> Tensor:
        """Rows of the replay, [S], from each seed's own row numbers."""
        return self._tensor(self._base + own)

    def _tensor(self, values: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(values).to(self.replay.act.device)

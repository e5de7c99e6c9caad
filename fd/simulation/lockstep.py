"""Simulators that step together, one for each training seed, spread over worker processes.

A simulator depends on nothing but its orders, so results do not depend on how the simulators are spread. This module
does not import torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from fd.simulation.episodes import Floats, MakeEnv, build_environment
from fd.simulation.workers import Workers, beat, enter


@dataclass(frozen=True)
class Order:
    """Order to a simulator: start a seed's episode, or continue the current one (None), and take actions, [T, A]."""

    seed: int | None
    actions: Floats


@dataclass(frozen=True)
class StepOutcome:
    """State of a simulator after an order; `reward` and the flags are those of the last step, if there was one."""

    obs: NDArray[Any]
    reward: float = 0.0
    success: bool = False
    terminated: bool = False
    truncated: bool = False


class Lockstep(Workers):
    """One simulator for each seed in worker processes."""

    def __init__(
        self, make_env: MakeEnv, *, name: str, seeds: Sequence[int], shapes: tuple[tuple[int, ...], ...], workers: int,
        timeout: float,
    ) -> None:  # fmt: skip
        """Start the workers and build the simulators.

        Args:
            make_env: see `fd.simulation.rollout.Rollout`.
            name: name of the environment in errors.
            seeds: training seeds; the index of a seed identifies its simulator.
            shapes: of an observation and of an action.
            workers: number of processes; at most one per seed is started.
            timeout: seconds within which a worker must make some progress: build a simulator, reset it, take a step.

        Raises:
            FdError: an environment cannot be built or has other shapes, or its process dies or hangs.
        """
        split = np.array_split(np.arange(len(seeds)), min(workers, len(seeds)))
        self._shares = [{int(index): seeds[int(index)] for index in indices} for indices in split]
        super().__init__(name, _Simulators, [(make_env, name, own, shapes) for own in self._shares], timeout=timeout)

    def send(self, orders: Mapping[int, Order]) -> None:
        """Send orders, by the index of a seed; receive their outcomes before you send the next ones."""
        for worker, own in zip(self._workers, self._shares, strict=True):
            share = {index: order for index, order in orders.items() if index in own}
            if share:
                self.ask(worker, share)

    def receive(self) -> dict[int, StepOutcome]:
        """Return the outcomes of the last orders, by the index of a seed, in ascending order.

        Raises:
            FdError: a simulator raises or hangs, or its process dies.
        """
        outcomes: dict[int, StepOutcome] = {}
        for _, answer in self.answers():
            outcomes |= answer
        return dict(sorted(outcomes.items()))


class _Simulators:
    """The simulators of a worker, by the index of their seed."""

    def __init__(
        self, make_env: MakeEnv, name: str, seeds: Mapping[int, int], shapes: tuple[tuple[int, ...], ...]
    ) -> None:
        self._seeds, self._envs = seeds, {index: build_environment(make_env, name, shapes) for index in seeds}

    def __call__(self, orders: Mapping[int, Order]) -> Iterator[dict[int, StepOutcome]]:
        """Carry out the orders; yield all outcomes at once."""
        outcomes = {}
        for index, order in orders.items():
            enter(f"the simulator of seed {self._seeds[index]}")
            outcomes[index] = _carry_out(self._envs[index], order)
        yield outcomes


def _carry_out(env: gymnasium.Env[Any, Any], order: Order) -> StepOutcome:
    """Start an episode, if asked, and take the actions one after the other."""
    if order.seed is not None:
        outcome = StepOutcome(env.reset(seed=order.seed)[0])
    for action in order.actions:
        beat()
        obs, reward, terminated, truncated, info = env.step(action)
        outcome = StepOutcome(obs, float(reward), bool(info["success"]), terminated, truncated)
    return outcome

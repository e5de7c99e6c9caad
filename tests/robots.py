"""Short walks in the environments of gymnasium-robotics, of which the tests make small sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Walk:
    """An episode of random actions: T + 1 observations, T of the rest."""

    observations: Any
    actions: NDArray[np.float32]
    rewards: NDArray[np.float64]


def walk(env: gymnasium.Env[Any, Any], seed: int, steps: int, *, goal: Any = None, **options: Any) -> Walk:
    """Walk at random; `goal` moves that of a maze after the reset, without a word to the walker."""
    observation, _ = env.reset(seed=seed, options={key: np.array(cell) for key, cell in options.items()} or None)
    if goal is not None:
        env.unwrapped.goal = np.array(goal)
    random, observations, rewards = np.random.default_rng(seed), [observation], []
    actions = random.uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)
    for action in actions:
        observation, reward, *_ = env.step(action)
        observations.append(observation)
        rewards.append(float(reward))
    stacked = observations
    if isinstance(observation, dict):
        stacked = {key: np.array([row[key] for row in observations]) for key in observation}
    return Walk(stacked if isinstance(stacked, dict) else np.array(stacked), actions, np.array(rewards))


def goal_reached_once(positions: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """A goal that a walk gets to within 0.45 m of first when it is farthest from its start; and when that is."""
    away = positions - positions[0]
    step = int(np.argmax(np.linalg.norm(away, axis=1)))
    return positions[step] + 0.449 * away[step] / np.linalg.norm(away[step]), step

"""A Minari set of Pusher-v5, collected by a controller that is precise in where the arm's tip goes and free elsewhere.

The arm has seven joints and ends in a fork, the tip. The controller brings the fork around the object and pushes the
object to the goal. Three of the seven dimensions of the torques accelerate the tip. The other four, the null space, move
the arm around its tip: there a weak spring holds a posture, and the noise is several times as wide. So the behaviour is
anisotropic by construction, in directions that change with the posture.

The controller is imperfect on purpose, so that a policy can improve on it: its gains differ from episode to episode, its
actions are noisy, and the environment's reward charges every torque.
"""

from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from fd.datasets.collection import Episode
from fd.datasets.mazes import registered
from fd.datasets.minari import write_minari
from fd.simulation.environments import make
from fd.simulation.workers import beat
from fd.wrappers import pushable

Floats = NDArray[np.float64]

ENVIRONMENT = "Pusher-v5"
JOINTS = 7
# Ranges of the gains, drawn log-uniformly: the tip shall go at position gain * way, but no faster than the speed.
POSITION_GAIN = (2.0, 6.0)  # 1/s
SPEED = (0.3, 0.75)  # m/s; a third of it while pushing
VELOCITY_GAIN = 6.0  # 1/s; acceleration per difference in velocity
HEIGHT = -0.27  # m, at which the tip pushes
BEHIND = 0.09  # m from the tip to the object that it approaches
INSIDE = (-0.02, 0.14)  # m from the tip forward, where an object is inside the fork
HALF_WIDTH = 0.09  # m from the tip to either side, where an object is inside the fork
LOW = -0.2  # m, the height below which the fork holds the object
POSTURE = np.array([0.0, 0.6, -1.2, -1.8, 1.2, -0.4, 0.0])  # rad; the elbow to the side, the fork level
STIFFNESS = np.array([0.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0])  # N m/rad, towards the posture
DAMPING = 0.3  # N m s/rad, in the null space
REGULAR = 0.02  # 1/kg, added to the tip's mobility, which is singular in the stretched arm


class PushCollector:
    """Collects episodes of pushing."""

    def __init__(self, horizon: int, noise_tip: float, noise_null: float) -> None:
        """Make the environment.

        Args:
            horizon: steps of an episode.
            noise_tip: standard deviation of the noise that accelerates the tip, in units of the action.
            noise_null: the same of the noise in the null space. Both are drawn for each torque and then projected.
        """
        self.env = make(push_spec(horizon))
        unwrapped: Any = self.env.unwrapped
        self._model, self._data = unwrapped.model, unwrapped.data
        self._unit = float(unwrapped.action_space.high[0])  # N m that an action of 1 stands for
        self._noise_tip, self._noise_null = noise_tip, noise_null

    def __call__(self, seed: np.random.SeedSequence) -> Episode:
        """Collect one episode: observations [T + 1, 23], actions [T, 7] and rewards [T]."""
        random = np.random.default_rng(seed)
        gain, speed = (float(np.exp(random.uniform(*np.log(bounds)))) for bounds in (POSITION_GAIN, SPEED))
        observation, _ = self.env.reset(seed=int(random.integers(2**31)))
        observations, actions, rewards = [observation], [], []
        truncated = False
        while not truncated:
            actions.append(self.act(observation, gain, speed, random.standard_normal((2, JOINTS))))
            beat()
            observation, reward, _, truncated, _ = self.env.step(actions[-1])
            observations.append(observation)
            rewards.append(float(reward))
        return {"observations": np.array(observations), "actions": np.array(actions), "rewards": np.array(rewards)}

    def act(self, observation: Floats, gain: float, speed: float, noise: Floats) -> NDArray[np.float32]:
        """One action [7] in the environment's present state, from standard normal noise [2, 7]: of the tip, null."""
        noise = self._unit * noise
        angles, velocities, tip, thing, goal = np.split(observation, [7, 14, 17, 20])
        jacobian, lift, moving = self.projections()
        way, share = self._way(tip, thing, goal)
        velocity = gain * way
        velocity *= min(1.0, share * speed / max(float(np.linalg.norm(velocity)), 1e-9))
        friction = self._model.dof_damping[:JOINTS] * velocities
        null = STIFFNESS * (POSTURE - angles) - DAMPING * velocities + self._noise_null * noise[1]
        acceleration = VELOCITY_GAIN * (velocity - jacobian @ velocities)
        torques = lift @ acceleration + moving @ (friction + self._noise_tip * noise[0] - null) + null
        return np.clip(torques / self._unit, -1, 1).astype(np.float32)

    def _way(self, tip: Floats, thing: Floats, goal: Floats) -> tuple[Floats, float]:
        """Way [3] in m that the tip shall go, and the share of the speed at which."""
        forward = self._data.body("tips_arm").xmat.reshape(3, 3)[:2, 0]
        forward = forward / max(float(np.linalg.norm(forward)), 1e-9)
        offset = (thing - tip)[:2]
        ahead, aside = offset @ forward, offset @ np.array([-forward[1], forward[0]])
        held = INSIDE[0] < ahead < INSIDE[1] and abs(aside) < HALF_WIDTH and tip[2] < LOW
        level = (goal - thing)[:2] if held else offset - BEHIND * forward
        return np.append(level, HEIGHT - tip[2]), 1 / 3 if held else 1.0

    def projections(self) -> tuple[Floats, Floats, Floats]:
        """How torques move the tip in the present posture (Khatib 1987, operational space).

        Returns:
            The Jacobian [3, 7] of the tip's position; the least torques [7, 3] per acceleration of the tip; the
            projection [7, 7] on the part of torques that accelerates the tip. What it leaves over does not.
        """
        import mujoco

        full = np.zeros((3, self._model.nv))
        mujoco.mj_jacBody(self._model, self._data, full, None, self._model.body("tips_arm").id)
        mobile = np.zeros_like(full)  # the Jacobian times the inverse of the inertia matrix
        mujoco.mj_solveM(self._model, self._data, mobile, full)
        jacobian, mobile = full[:, :JOINTS], mobile[:, :JOINTS]
        lift = jacobian.T @ np.linalg.inv(mobile @ jacobian.T + REGULAR * np.eye(3))
        return jacobian, lift, lift @ mobile


def push_spec(horizon: int) -> EnvSpec:
    """Spec of the pusher with actions from -1 to 1 and episodes of `horizon` steps."""
    spec = pushable(registered(ENVIRONMENT))
    spec.max_episode_steps = horizon
    return spec


def write_pushes(root: Path, dataset: str, episodes: list[Episode], spec: EnvSpec) -> None:
    """Write episodes as a Minari set.

    Args:
        root: folder of Minari sets.
        dataset: id of the set.
        episodes: as the collector returns them.
        spec: of the environment in which they were collected, which is that of evaluation.
    """
    from minari.data_collector import EpisodeBuffer

    buffers = [
        EpisodeBuffer(
            observations=episode["observations"],
            actions=episode["actions"],
            rewards=episode["rewards"],
            terminations=np.zeros(len(episode["actions"]), np.bool_),
            truncations=np.arange(1, len(episode["actions"]) + 1) == len(episode["actions"]),
        )
        for episode in episodes
    ]
    about = ("noisy pushing controller", "push", "An arm pushes an object to a goal, free in the null space of its tip")
    write_minari(root, dataset, buffers, about=about, collect=spec, evaluate=spec)

"""Wrappers that the specs of evaluation environments name, in data manifests and in Minari's files.

Data store the names of this module and its classes as `fd.wrappers:<class>`, so the names never change.

D4RL's published returns and return ranges come from its own simulators. gymnasium-robotics 1.4.2 scores episodes
differently; a wrapper restores D4RL's scoring. The spec in the manifest of a set names the wrapper of its scores.
"""

from copy import deepcopy
from typing import Any, cast

import gymnasium
import numpy as np
from gymnasium.envs.registration import EnvSpec, WrapperSpec
from gymnasium.utils import RecordConstructorArgs

Step = tuple[Any, float, bool, bool, dict[str, Any]]

RESCALE = "gymnasium.wrappers:RescaleAction"

# Door, hammer, relocate: the reward adds a tenth of the distance from palm to object; D4RL subtracts it. Staying away
# thus pays (their pull request 220; v2 of the environments, in gymnasium-robotics 1.4.3, is correct).
# Pen: an episode continues after the pen was dropped, at -5 per step; D4RL's episode ends there.
_ADROIT: dict[str, dict[str, Any]] = {
    "AdroitHandDoor-v1": {"reach": ["site", "S_handle"], "dropped_below": None},
    "AdroitHandHammer-v1": {"reach": ["body", "Object"], "dropped_below": None},
    "AdroitHandRelocate-v1": {"reach": ["body", "Object"], "dropped_below": None},
    "AdroitHandPen-v1": {"reach": None, "dropped_below": 0.075},
}


def as_d4rl(spec: EnvSpec) -> EnvSpec:
    """Return the spec with the wrapper that its environment needs to be scored as in D4RL, if it needs one."""
    spec = deepcopy(spec)
    if spec.id in _ADROIT:
        spec.additional_wrappers = (WrapperSpec("AdroitAsD4rl", "fd.wrappers:AdroitAsD4rl", _ADROIT[spec.id]),)
    return spec


def pushable(spec: EnvSpec) -> EnvSpec:
    """Return the spec with the wrappers that the pusher needs: actions from -1 to 1, an object that can be pushed."""
    spec = deepcopy(spec)
    if spec.id == "Pusher-v5":
        spec.additional_wrappers = (
            WrapperSpec("RescaleAction", RESCALE, {"min_action": -1.0, "max_action": 1.0}),
            WrapperSpec("FirmObject", "fd.wrappers:FirmObject", {}),
        )
    return spec


class FixedGoal(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """A maze with one goal cell and its goal in the cell's centre; the data are relabelled to this goal.

    Without this wrapper, each reset moves the goal by up to a quarter of a cell, which the agent cannot see.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Wrap an environment; its spec records that there are no other arguments."""
        RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode and move the goal back to the centre of its cell."""
        observation, info = self.env.reset(seed=seed, options=options)
        unwrapped = cast(Any, self.env.unwrapped)
        (goal,) = unwrapped.maze.unique_goal_locations
        unwrapped.goal = goal.copy()
        unwrapped.update_target_site_pos()
        return observation | {"desired_goal": goal.copy()}, info


class AdroitAsD4rl(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """An Adroit environment with D4RL's reward and D4RL's end of an episode."""

    def __init__(self, env: gymnasium.Env[Any, Any], *, reach: list[str] | None, dropped_below: float | None) -> None:
        """Wrap an environment.

        Args:
            env: environment of gymnasium-robotics with its dense reward.
            reach: kind ("body" or "site") and name of the object that the palm should reach; the reward subtracts 0.1
                times its distance in metres instead of adding it. None: the reward needs no correction.
            dropped_below: height in metres below which the object counts as dropped, which ends the episode.
        """
        RecordConstructorArgs.__init__(self, reach=reach, dropped_below=dropped_below)
        super().__init__(env)
        self._reach, self._dropped_below = reach, dropped_below

    def step(self, action: Any) -> Step:
        """Take one step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        data = cast(Any, self.env.unwrapped).data
        reward = float(reward)
        if self._reach is not None:
            kind, name = self._reach
            reward -= 0.2 * float(np.linalg.norm(data.site("S_grasp").xpos - getattr(data, kind)(name).xpos))
        if self._dropped_below is not None:
            terminated = terminated or bool(data.body("Object").xpos[2] < self._dropped_below)
        return observation, reward, terminated, truncated, info


class AntMazeProtocol(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """A maze of gymnasium-robotics with the starts of D4RL's AntMaze and its distance at which a goal is reached.

    At a start of D4RL (`reset_model` in d4rl/locomotion/ant.py), each number of the ant's position and posture is up to
    0.1 off, and its velocities are normal with a standard deviation of 0.1. A goal is reached within 0.5 m (`step` in
    goal_reaching_env.py), which ends the episode. gymnasium-robotics 1.4.2 starts up to 1 m off, in one posture and at
    rest, and its goals are reached within 0.45 m.
    """

    START_NOISE = 0.1  # metres, radians, and their velocities per second
    GOAL_RADIUS = 0.5  # metres

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Wrap a maze with one start cell; its spec records that there are no other arguments."""
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self._maze = cast(Any, env.unwrapped)
        self._maze.position_noise_range = 0.0
        self._maze.ant_env._reset_noise_scale = self.START_NOISE  # AntMazeEnv passes 0 and takes no value for it

    def step(self, action: Any) -> Step:
        """Take one step."""
        observation, _, _, truncated, info = self.env.step(action)
        away = float(np.linalg.norm(observation["achieved_goal"] - self._maze.goal))
        info["success"] = reached = away <= self.GOAL_RADIUS
        return observation, float(reached), reached, truncated, info


class AntMazeAsD4rl(AntMazeProtocol):
    """The same with the coordinates, goals and ant of D4RL's mazes.

    D4RL's positions are relative to the centre of the start cell, and its ant has a fifth of the torque, steps twice as
    long and different contacts. What still differs is the version of mujoco.
    """

    TIMESTEP = 0.02  # seconds
    GEAR = 30.0
    SOLIMP = (0.8, 0.8, 0.01)  # of all contacts

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Wrap a maze with one start and one goal cell; its spec records that there are no other arguments."""
        super().__init__(env)
        model = self._maze.ant_env.model
        model.opt.timestep = self.TIMESTEP
        model.actuator_gear[:, 0] = self.GEAR
        model.geom_solimp[:, :3] = self.SOLIMP
        (self._start,), (self._goal,) = self._maze.maze.unique_reset_locations, self._maze.maze.unique_goal_locations

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode; its goal lies up to 1.5 m from the centre of the goal cell, on each axis."""
        observation, info = self.env.reset(seed=seed, options=options)
        # A seed starts the maze's numbers and the ant's alike; those of a new generator do not repeat the ant's.
        random = np.random.default_rng(self._maze.np_random.integers(2**63))
        self._maze.goal = self._goal + random.uniform(0, 1, 2) + random.uniform(0, 0.5, 2)
        self._maze.update_target_site_pos()
        return self._placed(observation), info

    def step(self, action: Any) -> Step:
        """Take one step."""
        observation, reward, terminated, truncated, info = super().step(action)
        return self._placed(observation), reward, terminated, truncated, info

    def _placed(self, observation: dict[str, Any]) -> dict[str, Any]:
        """The observation in D4RL's coordinates."""
        places = {"achieved_goal": observation["achieved_goal"], "desired_goal": self._maze.goal}
        return observation | {key: place - self._start for key, place in places.items()}


class FirmObject(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """A Pusher whose arm pushes the object instead of passing through it.

    MuJoCo makes a contact as stiff as its bodies are inert. It leaves out the armature of joints (measured with 4.0.0;
    gymnasium's issues 950 and 1576 report it since 3.0). The object has 0.04 kg of armature and 8 mg of mass, so its
    contacts are 5,000 times too soft. This wrapper counts both.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Wrap an environment; its spec records that there are no other arguments."""
        RecordConstructorArgs.__init__(self)
        super().__init__(env)
        model = cast(Any, env.unwrapped).model
        inertia = model.body("object").mass + model.joint("obj_slidex").armature  # kg, one number
        model.body("object").invweight0[0] = 1 / inertia[0]


KNOWN = frozenset(
    f"{cls.__module__}:{cls.__name__}" for cls in (FixedGoal, AdroitAsD4rl, AntMazeProtocol, AntMazeAsD4rl, FirmObject)
) | {RESCALE}  # as specs name them

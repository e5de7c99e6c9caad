"""Play data of OGBench's manipulation environments, from the scripted oracles that ogbench ships.

Procedure and constants are those of the published sets (arXiv 2410.20092).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fd.datasets.collection import Episode, compact
from fd.simulation.environments import make
from fd.simulation.workers import beat

BUTTONS = ("qpos", "qvel", "button_states")
NOISE = 0.1
NOISE_SMOOTHING = 0.5


@dataclass(frozen=True)
class Play:
    """How to collect play data of an environment.

    Attributes:
        stacking: range from which an episode's probability of stacking is drawn.
        states: names of the stored simulator states, as in the published files.
        always_closed: whether the gripper stays closed between presses of buttons.
        cube_stays_visible: whether an episode is collected again if the cube gets out of sight.
    """

    stacking: tuple[float, float]
    states: tuple[str, ...] = ("qpos", "qvel")
    always_closed: bool = False
    cube_stays_visible: bool = False


ENVIRONMENTS = {
    "cube-single-v0": Play((0.0, 0.0)),
    "cube-double-v0": Play((0.0, 0.25)),
    "scene-v0": Play((0.5, 0.5), states=BUTTONS, cube_stays_visible=True),
    "puzzle-3x3-v0": Play((0.5, 0.5), states=BUTTONS, always_closed=True),
    "puzzle-4x4-v0": Play((0.5, 0.5), states=BUTTONS, always_closed=True),
}
# The visual sets were collected in the same way, with images as observations.
ENVIRONMENTS |= {f"visual-{name}": facts for name, facts in ENVIRONMENTS.items()}


class PlayCollector:
    """Collects play episodes of one environment."""

    def __init__(self, environment: str, steps: int) -> None:
        """Make the environment and its oracles.

        Args:
            environment: a key of ENVIRONMENTS.
            steps: transitions of an episode.
        """
        self._facts = ENVIRONMENTS[environment]
        limit = steps + 1
        self._env: Any = make(environment, terminate_at_goal=False, mode="data_collection", max_episode_steps=limit)
        # Imported after the environment is made: see fd.simulation.environments.register.
        from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
        from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
        from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
        from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

        noise = {"env": self._env, "noise": NOISE, "noise_smoothing": NOISE_SMOOTHING}
        self._oracles = {
            "cube": CubePlanOracle(**noise),
            "button": ButtonPlanOracle(gripper_always_closed=self._facts.always_closed, **noise),
            "drawer": DrawerPlanOracle(**noise),
            "window": WindowPlanOracle(**noise),
        }

    def __call__(self, seed: np.random.SeedSequence) -> Episode:
        """Collect one episode, with one row more than transitions; repeat it until its states are usable."""
        while True:
            (child,) = seed.spawn(1)
            global_seed, reset_seed = (int(word) for word in child.generate_state(2))
            # The oracles draw from numpy's global generator, the environment from its own.
            np.random.seed(global_seed)
            episode = self._roll(reset_seed)
            if not self._facts.cube_stays_visible or _cube_visible(episode["qpos"]):
                return episode

    def _roll(self, reset_seed: int) -> Episode:
        """Collect one episode as OGBench stores it: each row holds the state before a step."""
        observation, info = self._env.reset(seed=reset_seed)
        stacking = np.random.uniform(*self._facts.stacking)
        oracle = self._oracles[info["privileged/target_task"]]
        oracle.reset(observation, info)
        names = ("observations", "actions", "terminals", *self._facts.states)
        rows: dict[str, list[Any]] = {name: [] for name in names}
        done = False
        while not done:
            action = np.clip(oracle.select_action(observation, info), -1, 1)
            beat()
            following, _, terminated, truncated, info = self._env.step(action)
            done = terminated or truncated
            if oracle.done:
                target_observation, target_info = self._env.unwrapped.set_new_target(p_stack=stacking)
                oracle = self._oracles[target_info["privileged/target_task"]]
                oracle.reset(target_observation, target_info)
            rows["observations"].append(observation)
            rows["actions"].append(action)
            rows["terminals"].append(done)
            for name in self._facts.states:
                rows[name].append(info[f"prev_{name}"])
            observation = following
        return {name: compact(values) for name, values in rows.items()}


def _cube_visible(qpos: NDArray[Any]) -> bool:
    """Whether the cube stays within a camera's view or lies in the drawer."""
    y, z = qpos[:, 15], qpos[:, 16]
    in_drawer = (z >= 0.06) & (z <= 0.08)
    return not bool(np.any(y >= 0.29) or np.any((y <= -0.3) & ~in_drawer))

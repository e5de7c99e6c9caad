"""A hand-made data set of two episodes, and a manifest that fits it."""

import numpy as np

from fd.storage.transitions import Manifest, Transitions, assemble, with_measures


def two_episodes() -> Transitions:
    """Three and two transitions, the last of which reaches a success."""
    ends = np.array([0, 0, 0, 1, 0, 0, 1], np.bool_)
    random = np.random.default_rng(0)
    return assemble(
        "two episodes",
        random.standard_normal((7, 3)),
        random.uniform(-1, 1, (7, 2)),
        rewards=np.array([-1, -1, -1, -1, -1, 0, 0.0]),
        masks=np.array([1, 1, 1, 1, 1, 0, 0.0]),
        ends=ends,
    )


def manifest_of(arrays: Transitions) -> Manifest:
    """A manifest that fits the arrays."""
    return Manifest(
        source="generate",
        dataset="pointmaze-medium-navigate-singletask-v0",
        collector="navigate",
        environment={"suite": "ogbench", "name": "pointmaze-medium-singletask-v0"},
        horizon=1000,
        score="success",
        return_range=None,
        success_timing="pre",
        versions={"numpy": np.__version__},
        seed=0,
        validation_episodes=1,
        files={},
        **with_measures(arrays),
    )

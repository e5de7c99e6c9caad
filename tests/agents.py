"""Agents of the methods in tests/tiny.yaml, and batches and random numbers for their updates."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from fd.method.agent import Agent
from fd.method.batch import Batch, FlowSamples, Noise
from fd.method.spec import Spec
from fd.networks.adam import Optimiser
from fd.settings.refine_settings import spec_of as spec_of_settings
from fd.settings.settings_file import read_settings
from fd.storage.transitions import Transitions
from fd.training.policy_training import noise_shapes
from fd.training.random_streams import generator
from fd.training.replay import Replay

PARAMS = read_settings(Path(__file__).parent / "tiny.yaml")
METHODS = PARAMS.methods
TRAINED = tuple(name for name in METHODS if name != "bc")
SHAPE = {"obs_shape": (5,), "act_dim": 3}
SIZE = 8


def spec_of(method: str, **changes: object) -> Spec:
    return Spec.of(asdict(spec_of_settings(PARAMS, "umaze", method, obs_shape=(5,), act_dim=3)), changes)


def agent_of(method: str, *seeds: int, **changes: object) -> Agent:
    return Agent(spec_of(method, **changes), [generator(seed, "weights", 0) for seed in seeds])


def drawn(spec: Spec, at: int, *seeds: int) -> tuple[Batch, Noise]:
    """Batch and noise of update `at`, seed by seed."""
    streams = [generator(seed, "refine", at) for seed in seeds]

    def of(make: Callable[..., Tensor], *shape: int) -> Tensor:
        return torch.stack([make(*shape, generator=stream) for stream in streams])

    o, a, rows = (SIZE, *spec.obs_shape), (SIZE, spec.act_dim), (SIZE,)
    batch = Batch(
        of(torch.randn, *o), 2 * of(torch.rand, *a) - 1, of(torch.randn, *rows),
        (of(torch.rand, *rows) > 0.2).float(), of(torch.randn, *o),
        2 * of(torch.rand, *a) - 1, (of(torch.rand, *rows) > 0.2).float(),
    )  # fmt: skip
    numbers = {}
    for name, shape in noise_shapes(spec, SIZE, banked=False).items():
        numbers[name] = of(torch.rand if name.endswith("_t") else torch.randn, *shape)
    if "probes" in numbers:
        numbers["probes"] = numbers["probes"].sign()
    if "fisher_t" in numbers:
        numbers["fisher_t"] = 0.7 + 0.2 * numbers["fisher_t"]
    return batch, Noise(**numbers)


def gradients(adam: Optimiser, part: str = "") -> list[Tensor]:
    """The gradient of each parameter, or of those of one part, after a step: [members, numbers]."""
    found = []
    for name, (matrix, parameters, _) in adam.joined.items():
        if name.startswith(part):
            assert matrix.grad is not None
            found += [matrix.grad[:, p.storage_offset() :][:, : p[0].numel()] for p in parameters]
    return found


def replay_of(rows: int, episode: int, *, obs: Tensor | None = None, device: torch.device | None = None) -> Replay:
    """Random transitions in episodes of that many rows, or of these states."""
    g = torch.Generator().manual_seed(0)
    states = torch.randn(rows, 5, generator=g) if obs is None else obs
    act, reward = 2 * torch.rand(rows, 3, generator=g) - 1, torch.randn(rows, generator=g)
    ends = torch.arange(rows) % episode == episode - 1
    arrays = (states, act, reward, torch.ones(rows), ends)
    return Replay.of(Transitions(*(array.numpy() for array in arrays)), device or torch.device("cpu"))


def base_of(agent: Agent, batch: Batch, noise: Noise) -> FlowSamples | None:
    """What the flow says of a batch, where the method asks."""
    return agent.base(batch, noise) if agent.spec.based else None

"""Refinement of a policy: base actions from the bank or from the flow, then one update of every seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from fd.agent import Agent, Base, Noise, update
from fd.bank import Bank
from fd.checkpoint import Checkpoint
from fd.loop import BLOCK, Draws, Schedule, run
from fd.optim import optimiser
from fd.replay import Replay

Sampler = Callable[[int], tuple[Tensor, Base | None, Noise | None]]


def refine(
    agent: Agent, replay: Replay, bank: Bank | None, schedule: Schedule, *, seeds: Sequence[int],
    checkpoint: Checkpoint, label: str,
) -> None:  # fmt: skip
    """Refines the policy of every seed; base actions come from the bank, or fresh from the flow where it is None."""
    adam = optimiser(agent.trained(), agent.spec.learning_rate)
    sample = _from_flow(agent, replay, schedule, seeds) if bank is None else _from_bank(bank, replay, schedule, seeds)

    def one(index: int) -> dict[str, Tensor]:
        rows, base, noise = sample(index)
        batch = replay.batch(rows)
        if base is None:
            assert noise is not None
            base = agent.base(batch, noise)
        return update(agent, adam, batch, base, noise)

    run(one, agent, adam, schedule, seeds=seeds, checkpoint=checkpoint, label=label)


def _from_bank(bank: Bank, replay: Replay, schedule: Schedule, seeds: Sequence[int]) -> Sampler:
    size, samples, device = schedule.batch_size, bank.actions.shape[2], replay.act.device

    def draw(stream: torch.Generator) -> list[Tensor]:
        index = torch.randint(len(replay.starts), (BLOCK, size), generator=stream, device=device)
        return [index, torch.randint(samples, (BLOCK, 2, size), generator=stream, device=device)]

    draws = Draws(seeds, "refine", device, draw)

    def sample(index: int) -> tuple[Tensor, Base | None, Noise | None]:
        chosen, picks = draws.at(index)
        rows = replay.starts[chosen]
        return rows, bank.gather(rows, picks[:, 0], picks[:, 1]), None

    return sample


def _from_flow(agent: Agent, replay: Replay, schedule: Schedule, seeds: Sequence[int]) -> Sampler:
    size, device, spec = schedule.batch_size, replay.act.device, agent.spec
    names = [field.name for field in fields(Noise)]
    act, time = (size, spec.act_dim), (size, 1)
    fisher = (size, spec.fisher_samples)
    shapes = dict(
        zip(names, (act, act, (*fisher, spec.act_dim), (*fisher, spec.act_dim), (*fisher, 1), act, time), strict=True)
    )
    if spec.behaviour == "frozen":
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("flow")}
    if spec.metric == "identity":
        shapes = {name: shape for name, shape in shapes.items() if not name.startswith("fisher")}

    def draw(stream: torch.Generator) -> list[Tensor]:
        index = torch.randint(len(replay.starts), (BLOCK, size), generator=stream, device=device)
        numbers = [index]
        for name, shape in shapes.items():
            make = torch.rand if name.endswith("_t") else torch.randn
            numbers.append(make(BLOCK, *shape, generator=stream, device=device))
        return numbers

    draws = Draws(seeds, "refine", device, draw)
    low, high = spec.t_eps

    def sample(index: int) -> tuple[Tensor, Base | None, Noise | None]:
        chosen, *numbers = draws.at(index)
        noise = dict(zip(shapes, numbers, strict=True))
        if "fisher_t" in noise:
            noise["fisher_t"] = low + (high - low) * noise["fisher_t"]
        return replay.starts[chosen], None, Noise(**noise)

    return sample

"""Pretraining of the behaviour flow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fd.checkpoint import Checkpoint
from fd.flow import matching_loss
from fd.loop import BLOCK, Draws, Schedule, run
from fd.nets import StackedMLP
from fd.optim import optimiser, step
from fd.replay import Replay


def pretrain(
    flow: StackedMLP, replay: Replay, schedule: Schedule, *, seeds: Sequence[int], learning_rate: float,
    checkpoint: Checkpoint, label: str, execution: str,
) -> None:  # fmt: skip
    """Trains the behaviour flow of every seed by flow matching; `checkpoint` holds its log and last state."""
    parameters = list(flow.parameters())
    adam = optimiser(parameters, learning_rate)
    size, width, device = schedule.batch_size, replay.act.shape[1], replay.act.device

    def draw(stream: torch.Generator) -> list[Tensor]:
        index = torch.randint(len(replay.starts), (BLOCK, size), generator=stream, device=device)
        x0 = torch.randn(BLOCK, size, width, generator=stream, device=device)
        return [index, x0, torch.rand(BLOCK, size, 1, generator=stream, device=device)]

    def one(phase: int, numbers: list[Tensor]) -> dict[str, Tensor]:
        chosen, x0, t = numbers
        rows = replay.starts[chosen]
        loss = matching_loss(flow, replay.obs[rows], replay.act[rows], x0=x0, t=t)
        return {"flow_loss": loss.detach(), "grad_norm": step(adam, loss, parameters, clip=0)}

    draws = Draws(seeds, "pretrain", device, draw)
    run(one, draws, flow, adam, schedule, seeds=seeds, checkpoint=checkpoint, label=label, execution=execution)

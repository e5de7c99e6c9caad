"""Pretraining of the behaviour flow."""

from __future__ import annotations

import torch
from torch import Tensor

from fd.method.flow import matching_loss
from fd.networks.adam import Optimiser
from fd.networks.mlp import StackedMLP
from fd.training.augmentation import cropped, draw_crops
from fd.training.loop import BLOCK, Draws, Run, train
from fd.training.replay import Replay

KEPT = 10  # flows of the training that are kept, the last one among them


def kept_steps(steps: int, log_every: int) -> list[int]:
    """The rows of the log, evenly spaced and at most KEPT, after which the flow is kept; the last is the end of the training."""
    rows = steps // log_every
    return sorted({log_every * -(-rows * part // KEPT) for part in range(1, KEPT + 1)})


def kept_name(step: int) -> str:
    """File of the flow after a step before the last one, beside the finished flow."""
    return f"flow_{step:09d}.safetensors"


def pretrain(flow: StackedMLP, replay: Replay, run: Run, *, learning_rate: float, augmentation: float = 0.0) -> None:
    """Trains the behaviour flow of every seed by flow matching.

    Args:
        flow: velocity network.
        replay: transitions.
        run: its seeds, schedule, checkpoint, label and execution.
        learning_rate: of Adam.
        augmentation: probability that a batch's images are cropped.
    """
    adam = Optimiser({"flow": flow}, learning_rate)
    size, width, device = run.schedule.batch_size, replay.act.shape[1], replay.act.device

    def draw(stream: torch.Generator) -> list[Tensor]:
        index = torch.randint(len(replay.starts), (BLOCK, size), generator=stream, device=device)
        x0 = torch.randn(BLOCK, size, width, generator=stream, device=device)
        numbers = [index, x0, torch.rand(BLOCK, size, 1, generator=stream, device=device)]
        return [*numbers, draw_crops(stream, (BLOCK, size), probability=augmentation)] if augmentation else numbers

    def one(phase: int, numbers: list[Tensor]) -> dict[str, Tensor]:
        chosen, x0, t, *crops = numbers
        rows = replay.starts[chosen]
        obs = replay.states(rows)
        if crops:
            obs = cropped(obs, crops[0])
        loss = matching_loss(flow, obs, replay.act[rows], x0=x0, t=t)
        return {"flow_loss": loss.detach(), "grad_norm": adam.descend(loss, clip=0)}

    train(one, Draws(run.seeds, "pretrain", device, draw), flow, adam, run)

"""Refinement of a policy: base actions from the bank or from the flow, then one update of every seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fd.errors import FdError
from fd.method.agent import Agent, update
from fd.method.batch import Batch, FlowSamples, Noise
from fd.method.fisher import EXACT_DIVERGENCE
from fd.method.spec import Spec
from fd.networks.adam import Optimiser
from fd.training.augmentation import draw_crops
from fd.training.bank import Bank
from fd.training.execution import Update, options
from fd.training.loop import BLOCK, Draws, Run, train
from fd.training.replay import Replay

SPAN = 2**62  # range of random numbers drawn before the number of transitions to choose from is known


def refine(agent: Agent, replay: Replay, bank: Bank | None, run: Run) -> None:
    """Refines the policy of every seed; base actions come from the bank, or fresh from the flow where it is None.

    Raises:
        FdError: the agent cannot be trained with, or without, this bank, or training diverges.
    """
    agent.spec.check_bank(0 if bank is None else bank.actions.shape[2])
    if bank is None and agent.spec.metric == "curvature" and run.execution.endswith("graph"):
        raise FdError(
            f"{run.label}: compute.execution: {run.execution!r}, but the curvature at fresh base actions takes eigenvalues, which no CUDA"
            " graph can record (allowed: eager, or a bank)"
        )
    adam = agent.optimiser()
    one, draws = updates(
        agent, adam, replay, bank, seeds=run.seeds, batch_size=run.schedule.batch_size, execution=run.execution
    )
    train(one, draws, agent, adam, run, period=agent.spec.policy_every)


def updates(
    agent: Agent, adam: Optimiser, replay: Replay, bank: Bank | None, *, seeds: Sequence[int], batch_size: int,
    purpose: str = "refine", choose: Callable[[Tensor], Tensor] | None = None, execution: str = "eager",
) -> tuple[Update, Draws]:  # fmt: skip
    """One update of every seed on its own batch, and the random numbers of the steps; phases: see `Spec.policy_every`.

    `purpose`: of the random streams. `choose`: maps random numbers [S, B] below SPAN to rows [S, B]; without it, every transition of the
    replay is equally likely. `execution`: of the update, see `fd.training.execution.execution`; a replay without `choose` is
    compiled, too.

    Deviation: with a bank, base actions are those of the uncropped images, even if the other networks see crops.
    """
    spec, device, (low, high) = agent.spec, replay.act.device, agent.spec.t_eps
    shapes = noise_shapes(spec, batch_size, banked=bank is not None)

    def draw(stream: torch.Generator) -> list[Tensor]:
        span = len(replay.starts) if choose is None else SPAN
        numbers = [torch.randint(span, (BLOCK, batch_size), generator=stream, device=device)]
        if bank is not None:
            numbers.append(
                torch.randint(bank.actions.shape[2], (BLOCK, 2, batch_size), generator=stream, device=device)
            )
        if spec.augmentation:
            numbers.append(draw_crops(stream, (BLOCK, batch_size), probability=spec.augmentation))
        return numbers + [_draw(name, (BLOCK, *shape), stream) for name, shape in shapes.items()]

    def gathered(chosen: Tensor, picks: Tensor | None, crops: Tensor | None) -> tuple[Batch, FlowSamples | None]:
        rows = replay.starts[chosen] if choose is None else choose(chosen)
        base = None if bank is None or picks is None else bank.gather(rows, picks[:, 0], picks[:, 1])
        return replay.batch(rows, next_actions=agent.target_policy is not None, crops=crops), base

    gather = gathered
    if execution.startswith("compiled") and choose is None:
        gather = torch.compile(gathered, dynamic=False, options=options(images=bool(spec.encoder)))

    def one(phase: int, numbers: list[Tensor]) -> dict[str, Tensor]:
        chosen, *numbers = numbers
        picks = crops = None
        if bank is not None:
            picks, *numbers = numbers
        if spec.augmentation:
            crops, *numbers = numbers
        batch, base = gather(chosen, picks, crops)
        drawn = dict(zip(shapes, numbers, strict=True))
        if "fisher_t" in drawn:
            drawn["fisher_t"] = low + (high - low) * drawn["fisher_t"]
        return update(agent, adam, batch, base, Noise(**drawn), with_policy=phase == spec.policy_every - 1)

    return one, Draws(seeds, purpose, device, draw)


def _draw(name: str, shape: tuple[int, ...], stream: torch.Generator) -> Tensor:
    """Random numbers of a field of `fd.method.batch.Noise`: signs for probes, uniform for times, else standard normal."""
    if name == "probes":
        return 2.0 * torch.randint(2, shape, generator=stream, device=stream.device) - 1
    make = torch.rand if name.endswith("_t") else torch.randn
    return make(shape, generator=stream, device=stream.device)


def noise_shapes(spec: Spec, size: int, *, banked: bool) -> dict[str, tuple[int, ...]]:
    """The fields of `fd.method.batch.Noise` that an update of `size` transitions needs, and their shapes for one seed."""
    act, samples = (size, spec.act_dim), (size, spec.fisher_samples)
    shapes: dict[str, tuple[int, ...]] = {}
    if spec.based and not banked:
        shapes |= {"base": act, "next_base": act}
        if spec.state_scores:
            shapes |= {"fisher_base": (*samples, spec.act_dim), "fisher_x0": (*samples, spec.act_dim)}
            shapes |= {"fisher_t": (*samples, 1)}
        elif spec.action_scores:
            shapes |= {"fisher_t": (size, 1, 1)}
    if spec.metric == "stein" and spec.act_dim > EXACT_DIVERGENCE:
        shapes |= {"probes": (2, *act)}
    if spec.policy == "deterministic":
        shapes |= {"target": act}
    if spec.behaviour == "joint":
        shapes |= {"flow_x0": act, "flow_t": (size, 1)}
    return shapes

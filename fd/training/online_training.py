"""Online fine-tuning: each seed acts in its own simulator, and its transitions join those of the data.

Base actions are drawn afresh from the flow, because the states are new. Each checkpoint writes its new transitions to a file; a resumed
run repeats the actions of the current episodes to bring the simulators back to their states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fd.errors import FdError
from fd.method.agent import Agent
from fd.networks.adam import Optimiser
from fd.policy import Policy
from fd.simulation.lockstep import Lockstep, Order
from fd.storage.transitions import ACTION_BOUND
from fd.training.execution import executed
from fd.training.experience import Experience, labelled
from fd.training.loop import BLOCK, Draws, Run, train
from fd.training.policy_training import updates
from fd.training.random_streams import generator


@dataclass(frozen=True)
class Interaction:
    """How the seeds interact with their simulators.

    Attributes:
        simulators: one for each seed.
        convention: of the data's rewards, see `labelled`.
        updates: of every seed, after each of its steps.
        acting: arguments of `Policy.act`.
    """

    simulators: Lockstep
    convention: str
    updates: int
    acting: Mapping[str, int]


def finetune(
    agent: Agent, adam: Optimiser, experience: Experience, interaction: Interaction, run: Run
) -> None:  # fmt: skip
    """Continues the training of every seed.

    While the simulators take a step, the networks are updated on the transitions before it.

    Args:
        agent, adam: as at the end of the offline run.
        experience: the transitions that the seeds learn from.
        interaction: with the simulators.
        run: the steps and marks of its schedule count from the start of the offline run; with each state, its checkpoint must save the
            experience in the checkpoint's folder.

    Raises:
        FdError: training diverges, or a simulator fails or does not return to its earlier state.
    """
    seeds = run.seeds
    experience.restore(run.checkpoint.folder, run.checkpoint.restore(agent, adam))
    _enter(experience, interaction.simulators, seeds, run.label)
    one, numbers = updates(
        agent, adam, experience.replay, None, seeds=seeds, batch_size=run.schedule.batch_size, purpose="online",
        choose=experience.choose,
    )  # fmt: skip
    one, device = executed(one, agent, run.execution, run.label), experience.replay.act.device
    width = interaction.acting["best_of"] * agent.spec.act_dim
    noise = Draws(
        seeds, "acting", device, lambda stream: [torch.randn(BLOCK, 1, width, generator=stream, device=device)]
    )
    policy = Policy(agent.spec, tuple(seeds), 0, agent.flow, agent.policy, agent.critic)

    def step(phase: int, drawn: list[Tensor]) -> dict[str, Tensor]:
        with torch.no_grad():
            tensor = policy.act(experience.states(), drawn[0], **interaction.acting).squeeze(1)
        act = tensor.clamp(-ACTION_BOUND, ACTION_BOUND).cpu().numpy()
        if not np.isfinite(act).all():
            seed = seeds[int(np.argwhere(~np.isfinite(act))[0][0])]
            raise FdError(f"{run.label}: the policy of seed {seed} gave NaN as an action, allowed: finite numbers")
        interaction.simulators.send({index: Order(None, act[index : index + 1]) for index in range(len(seeds))})
        done = experience.steps * interaction.updates
        rows = []
        for index in range(done, done + interaction.updates):
            rows.append({name: value.clone() for name, value in one(0, numbers.at(index)).items()})
        _take(act, experience, interaction, seeds)
        return {name: torch.stack([row[name] for row in rows]).mean(dim=0) for name in rows[0]}

    train(
        step, noise, agent, adam, replace(run, execution="eager")
    )  # eager, because only the updates within a step run as `run.execution` says


def reset_seed(seed: int, episode: int) -> int:
    """Seed of the simulator for an episode of a training seed, below 2**32."""
    return generator(seed, "episodes", episode).initial_seed() % 2**32


def _enter(experience: Experience, simulators: Lockstep, seeds: Sequence[int], label: str) -> None:
    """Starts the current episode of every seed and repeats its earlier actions."""
    actions = experience.unfinished()
    starts = [reset_seed(seed, int(number)) for seed, number in zip(seeds, experience.episodes, strict=True)]
    simulators.send({index: Order(*pair) for index, pair in enumerate(zip(starts, actions, strict=True))})
    found = {index: outcome.obs for index, outcome in simulators.receive().items()}
    if experience.steps == 0:
        experience.begin(found)
    for index, known in enumerate(experience.shown()):
        if not np.array_equal(known, found[index]):
            raise FdError(
                f"{label}: the simulator of seed {seeds[index]} does not return to its earlier state, allowed: a simulator"
                " that repeats an episode for the same seed and actions"
            )


def _take(act: NDArray[np.float32], experience: Experience, interaction: Interaction, seeds: Sequence[int]) -> None:
    """Stores the outcomes of the actions; where an episode ended, starts the seed's next one."""
    outcomes = interaction.simulators.receive()
    labels = [labelled(outcome, interaction.convention) for outcome in outcomes.values()]
    experience.append(act, np.stack([outcome.obs for outcome in outcomes.values()]), labels)
    ended = [index for index, found in enumerate(labels) if found.end]
    if ended:
        starts = {index: reset_seed(seeds[index], int(experience.episodes[index])) for index in ended}
        interaction.simulators.send({index: Order(start, act[:0]) for index, start in starts.items()})
        experience.begin({index: outcome.obs for index, outcome in interaction.simulators.receive().items()})

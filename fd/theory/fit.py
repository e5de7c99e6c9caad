"""Training on known distributions: a single state with observation zero, and one member of the stack per distribution and seed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from fd.errors import FdError
from fd.method.flow import matching_loss, velocity
from fd.networks.adam import Optimiser
from fd.networks.mlp import StackedMLP
from fd.settings.theory_settings import TheorySchedule
from fd.theory.distributions import Mixture

ACT_DIM = 2
OBS_DIM = 1
DRAWN = 50  # steps whose random numbers are drawn at once


def generators(members: int, seeds: Sequence[int], purpose: int) -> list[torch.Generator]:
    """One generator with its own stream per member; members are ordered by distribution, then by seed."""
    each = members // len(seeds)
    return [
        torch.Generator().manual_seed(((purpose * 64 + place) << 32) + seed) for place in range(each) for seed in seeds
    ]


def nothing(like: Tensor) -> Tensor:
    """The observation of the single state, [S, B, OBS_DIM], for actions [S, B, A]."""
    return like.new_zeros(*like.shape[:-1], OBS_DIM)


def time_window(pool: Tensor, index: int, size: int) -> Tensor:
    """Batch number `index`, [S, size, ...], of a pool [S, N, ...]; batches start again at the end of the pool."""
    first = index * size % (pool.shape[1] - size + 1)
    return pool[:, first : first + size]


def descend(
    parts: Mapping[str, StackedMLP | nn.Parameter],
    loss: Callable[[int], Tensor],
    schedule: TheorySchedule,
    *,
    clip: float,
    members: Sequence[str],
) -> None:
    """Adam on the loss [S] of each step, the rate falling to zero along half a cosine.

    A loss that is not finite makes the weights not finite, so it is enough to check the last weights.

    Raises:
        FdError: training has diverged; the error names those of the S `members`.
    """
    adam = Optimiser(parts, schedule.learning_rate)
    for index in range(schedule.steps):
        for group in adam.param_groups:
            group["lr"] = schedule.learning_rate * (1 + math.cos(math.pi * index / schedule.steps)) / 2
        adam.descend(loss(index), clip=clip)
    finite = torch.stack([part.detach().reshape(len(members), -1).isfinite().all(dim=-1) for part in adam.parameters])
    lost = [name for name, sound in zip(members, finite.all(dim=0).tolist(), strict=True) if not sound]
    if lost:
        raise FdError(f"theory: weights are not finite after training ({'; '.join(lost)}); lower its learning_rate")


def train_flow(targets: Mapping[str, Mixture], seeds: Sequence[int], schedule: TheorySchedule) -> StackedMLP:
    """Velocity networks of every distribution and seed, targets * seeds members, trained on fresh draws."""
    members = [target for target in targets.values() for _ in seeds]
    streams = generators(len(members), seeds, purpose=0)
    widths = (OBS_DIM + ACT_DIM + 1, *schedule.hidden, ACT_DIM)
    flow = StackedMLP((len(members),), widths, norm=False, generators=streams)
    size = schedule.batch_size
    drawn: list[Tensor] = []

    def loss(index: int) -> Tensor:
        if index % DRAWN == 0:
            pairs = zip(members, streams, strict=True)
            act = torch.stack([target.sample(DRAWN * size, stream).float() for target, stream in pairs])
            x0 = torch.stack([torch.randn(DRAWN * size, ACT_DIM, generator=stream) for stream in streams])
            t = torch.stack([torch.rand(DRAWN * size, 1, generator=stream) for stream in streams])
            drawn[:] = [act, x0, t]
        act, x0, t = (part[:, index % DRAWN * size :][:, :size] for part in drawn)
        return matching_loss(flow, nothing(act), act, x0=x0, t=t)

    names = [f"flow of {name}, seed {seed}" for name in targets for seed in seeds]
    descend({"flow": flow}, loss, schedule, clip=0.0, members=names)
    return flow.requires_grad_(False)


@torch.no_grad()
def integrate_actions(flow: StackedMLP, noise: Tensor, *, steps: int) -> Tensor:
    """Base actions [S, B, A] by Euler steps from noise [S, B, A], not clipped.

    Deviation: `fd.method.flow.base_actions` clips to [-1, 1], which would cut a Gaussian of standard deviation 0.5 at two standard deviations.
    """
    x, obs = noise, nothing(noise)
    for index in range(steps):
        x = x + velocity(flow, obs, x, torch.full_like(x[..., :1], index / steps)) / steps
    return x


def members_of(stack: StackedMLP, which: Sequence[int]) -> StackedMLP:
    """Copies of some members of a stack, in this order, as constants; a member may be taken more than once.

    Args:
        stack: its first axis has the members, any further axes are taken whole.
        which: places on the first axis.
    """
    widths = [weight.shape[1] for weight in stack.weights] + [stack.weights[-1].shape[-1]]
    lead = (len(which), *stack.lead[1:])
    taken = StackedMLP(lead, widths, norm=bool(stack.scales), generators=[torch.Generator()] * len(which))
    index = torch.as_tensor(which)
    taken.load_state_dict(
        {
            name: value.view(stack.lead[0], -1, *value.shape[1:])[index].flatten(0, 1)
            for name, value in stack.state_dict().items()
        }
    )
    return taken.requires_grad_(False)

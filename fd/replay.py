"""The transitions of a dataset on the training device, and batches of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fd.transitions import Transitions


@dataclass(frozen=True)
class Batch:
    """Transitions of each seed: obs, next_obs [S, B, O], act [S, B, A], reward, mask [S, B].

    next_act [S, B, A], next_known [S, B]: the data's action at next_obs, and 1 where there is one, 0 at the end of an episode. None
    unless asked for.
    """

    obs: Tensor
    act: Tensor
    reward: Tensor
    mask: Tensor
    next_obs: Tensor
    next_act: Tensor | None = None
    next_known: Tensor | None = None


@dataclass(frozen=True)
class Replay:
    """Transitions on the training device.

    Attributes:
        obs: states in time order, [R, O]; the next state of row i is row i + 1.
        act, reward, mask: [R, A], [R], [R].
        going: 1 at rows at which a transition starts, 0 at the last state of an episode, [R].
        starts: the former rows, [N].
    """

    obs: Tensor
    act: Tensor
    reward: Tensor
    mask: Tensor
    going: Tensor
    starts: Tensor

    @classmethod
    def of(cls, data: Transitions, device: torch.device) -> Replay:
        """The arrays of a dataset, copied to a device."""
        arrays = (data.observations, data.actions, data.rewards, data.masks, ~data.ends)
        obs, act, reward, mask, going = (torch.from_numpy(array).to(device) for array in arrays)
        return cls(obs, act, reward, mask, going.to(obs.dtype), going.nonzero().squeeze(1))

    def batch(self, rows: Tensor, *, next_actions: bool = False) -> Batch:
        """Transitions that start at rows [S, B]."""
        batch = Batch(self.obs[rows], self.act[rows], self.reward[rows], self.mask[rows], self.obs[rows + 1])
        if next_actions:
            batch = replace(batch, next_act=self.act[rows + 1], next_known=self.going[rows + 1])
        return batch

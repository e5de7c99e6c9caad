"""The transitions of a dataset on the training device, and batches of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fd.transitions import Transitions


@dataclass(frozen=True)
class Batch:
    """Transitions of each seed: obs, next_obs [S, B, O], act [S, B, A], reward, mask [S, B]."""

    obs: Tensor
    act: Tensor
    reward: Tensor
    mask: Tensor
    next_obs: Tensor


@dataclass(frozen=True)
class Replay:
    """Transitions on the training device.

    Attributes:
        obs: states in time order, [R, O]; the next state of row i is row i + 1.
        act, reward, mask: [R, A], [R], [R].
        starts: rows at which a transition starts, [N].
    """

    obs: Tensor
    act: Tensor
    reward: Tensor
    mask: Tensor
    starts: Tensor

    @classmethod
    def of(cls, data: Transitions, device: torch.device) -> Replay:
        """The arrays of a dataset, copied to a device."""
        arrays = (data.observations, data.actions, data.rewards, data.masks)
        obs, act, reward, mask = (torch.from_numpy(array).to(device) for array in arrays)
        return cls(obs, act, reward, mask, torch.from_numpy(~data.ends).to(device).nonzero().squeeze(1))

    def batch(self, rows: Tensor) -> Batch:
        """Transitions that start at rows [S, B]."""
        return Batch(self.obs[rows], self.act[rows], self.reward[rows], self.mask[rows], self.obs[rows + 1])

"""The transitions of a dataset on the training device, and batches of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fd.method.batch import Batch
from fd.storage.transitions import Transitions
from fd.training.augmentation import cropped


@dataclass(frozen=True)
class Replay:
    """Transitions on the training device.

    Attributes:
        obs: states in time order, [R, O], or images [R, H, W, C] in bytes; the next state of row i is row i + 1.
        act, reward, mask: [R, A], [R], [R].
        going: 1 at rows at which a transition starts, 0 at the last state of an episode, [R].
        starts: rows at which a transition starts, [N].
        first: row of the first state of a row's episode, [R].
        frame_stack: images per observation.
    """

    obs: Tensor
    act: Tensor
    reward: Tensor
    mask: Tensor
    going: Tensor
    starts: Tensor
    first: Tensor
    frame_stack: int = 1

    @classmethod
    def of(cls, data: Transitions, device: torch.device, *, frame_stack: int = 1) -> Replay:
        """The arrays of a dataset, copied to a device."""
        arrays = (data.observations, data.actions, data.rewards, data.masks, ~data.ends)
        obs, act, reward, mask, going = (torch.from_numpy(array).to(device) for array in arrays)
        row = torch.arange(len(going), device=device)
        begins = torch.ones_like(going)
        begins[1:] = ~going[:-1]
        first = (row * begins).cummax(dim=0).values
        return cls(obs, act, reward, mask, going.to(act.dtype), going.nonzero().squeeze(1), first, frame_stack)

    @property
    def nbytes(self) -> int:
        """Memory of all tensors, in bytes."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, Tensor))

    def states(self, rows: Tensor) -> Tensor:
        """Observations of rows [...]: [..., O], or images [..., H, W, C * frame_stack], the oldest first.

        Before an episode's first image, that image is repeated.
        """
        if self.frame_stack == 1:
            return self.obs[rows]
        back = torch.arange(self.frame_stack - 1, -1, -1, device=rows.device)
        images = self.obs[torch.maximum(rows.unsqueeze(-1) - back, self.first[rows].unsqueeze(-1))]
        return images.movedim(rows.dim(), -2).flatten(-2)

    def batch(self, rows: Tensor, *, next_actions: bool = False, crops: Tensor | None = None) -> Batch:
        """Transitions that start at rows [S, B]; `crops`: offsets for their images, [S, B, 2], see `fd.training.augmentation`."""
        obs, next_obs = self.states(rows), self.states(rows + 1)
        if crops is not None:
            obs, next_obs = (cropped(images, crops) for images in (obs, next_obs))
        batch = Batch(obs, self.act[rows], self.reward[rows], self.mask[rows], next_obs)
        if next_actions:
            batch = replace(batch, next_act=self.act[rows + 1], next_known=self.going[rows + 1])
        return batch

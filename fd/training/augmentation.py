"""Augmentation of image observations: random crops, the same crop for a state and its next state.

Source: arXiv 2502.02538, pixel-based tasks.
"""

from __future__ import annotations

import torch
from torch import Tensor

PADDING = 3  # pixels by which a crop may move an image


def draw_crops(stream: torch.Generator, shape: tuple[int, int], *, probability: float) -> Tensor:
    """Crop offsets [N, B, 2] for `cropped`, of N batches of B images; a batch is cropped as a whole or not at all.

    Args:
        stream: random stream, on the device of the offsets.
        shape: N and B.
        probability: that a batch is cropped, 0 to 1.
    """
    offsets = torch.randint(2 * PADDING + 1, (*shape, 2), generator=stream, device=stream.device)
    chosen = torch.rand(shape[0], 1, 1, generator=stream, device=stream.device) < probability
    return torch.where(chosen, offsets, PADDING)


def cropped(images: Tensor, offsets: Tensor) -> Tensor:
    """Crops, at the original size, of images padded by PADDING pixels on each side with copies of the edge.

    Args:
        images: [S, B, H, W, C], any type.
        offsets: upper left corners of the crops, [S, B, 2] (row, column), from 0 to 2 * PADDING; PADDING leaves an image unchanged.
    """
    seeds, batch, height, width, _ = images.shape
    device = images.device
    rows = (offsets[..., :1] + torch.arange(height, device=device) - PADDING).clamp(0, height - 1)
    columns = (offsets[..., 1:] + torch.arange(width, device=device) - PADDING).clamp(0, width - 1)
    seed = torch.arange(seeds, device=device).view(-1, 1, 1, 1)
    place = torch.arange(batch, device=device).view(-1, 1, 1)
    return images[seed, place, rows.unsqueeze(-1), columns.unsqueeze(-2)]

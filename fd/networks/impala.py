"""Encoders of image observations: IMPALA networks of all seeds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, gelu, max_pool2d, pad

from fd.networks.affine import affine

WIDTH = 512  # of an encoded observation
CONVOLUTIONS = 3  # per stack: one before the pooling, two in the residual block


class ImpalaEncoder(nn.Module):
    """IMPALA networks with one residual block per stack, max pooling by two, and a dense GELU layer of 512 at the end.

    Args:
        shape: height, width and channels of an observation.
        stacks: features of each stack; the papers use 16, 32, 32.
        generators: one per seed; weights are Xavier uniform, biases zero.

    Source: arXiv 1802.01561 (architecture), arXiv 2410.20092 (this size).
    """

    def __init__(self, shape: Sequence[int], stacks: Sequence[int], generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        height, width, channels = shape
        sizes = [(i, o) for before, o in itertools.pairwise((channels, *stacks)) for i in (before, o, o)]
        kernels = [torch.stack([_xavier((o, i, 3, 3), 9 * i, 9 * o, g) for g in generators]) for i, o in sizes]
        self.kernels = nn.ParameterList(kernels)  # [S, out, in, 3, 3]
        self.shifts = nn.ParameterList([torch.zeros(len(generators), o) for _, o in sizes])
        for _ in stacks:
            height, width = -(-height // 2), -(-width // 2)
        flat = height * width * stacks[-1]
        self.weight = nn.Parameter(torch.stack([_xavier((flat, WIDTH), flat, WIDTH, g) for g in generators]))
        self.bias = nn.Parameter(torch.zeros(len(generators), 1, WIDTH))

    def forward(self, images: Tensor, *, constant: bool = False) -> Tensor:
        """Features [S, B, WIDTH] of images [S, B, H, W, C], bytes.

        Args:
            images: each seed's own.
            constant: treat the weights as constants: no gradient reaches them.
        """
        parameters = [*self.kernels, *self.shifts, self.weight, self.bias]
        if constant:
            parameters = [parameter.detach() for parameter in parameters]
        *convolutions, weight, bias = parameters
        seeds, layers = len(images), len(self.kernels)

        def convolved(x: Tensor, layer: int) -> Tensor:
            kernel, shift = convolutions[layer].flatten(0, 1), convolutions[layers + layer].flatten()
            # On a CPU, one convolution per seed, so that a seed alone gets the same bits. In the first layer on every device: with so
            # few channels, a grouped convolution is four times slower.
            if layer == 0 or not x.is_cuda:
                each = zip(x.chunk(seeds, dim=1), kernel.chunk(seeds), shift.chunk(seeds), strict=True)
                return torch.cat([conv2d(own.contiguous(), k, b, padding=1) for own, k, b in each], dim=1)
            return conv2d(x, kernel, shift, padding=1, groups=seeds)

        # In float32 and times 1 / 255, because the references' compiler divides by 255 in this way.
        x = (images.permute(1, 0, 4, 2, 3).flatten(1, 2).float() * (1 / 255)).to(weight.dtype)  # [B, S * C, H, W]
        for layer in range(0, layers, CONVOLUTIONS):
            x = _pooled(convolved(x, layer))
            x = x + convolved(convolved(x.relu(), layer + 1).relu(), layer + 2)
        x = x.relu().view(x.shape[0], seeds, -1, *x.shape[2:]).permute(1, 0, 3, 4, 2).flatten(2)  # [S, B, H * W * C]
        return gelu(affine(bias, x, weight), approximate="tanh")


def _pooled(x: Tensor) -> Tensor:
    """Max pooling, 3 x 3 windows, stride 2; an even size is padded at its far side only, an odd one at both."""
    (top, bottom), (left, right) = [(size % 2, 1) for size in x.shape[-2:]]
    return max_pool2d(pad(x, (left, right, top, bottom), value=-torch.inf), 3, stride=2)


def _xavier(shape: tuple[int, ...], fan_in: int, fan_out: int, generator: torch.Generator) -> Tensor:
    bound = math.sqrt(6 / (fan_in + fan_out))
    return torch.rand(*shape, generator=generator).mul_(2 * bound).sub_(bound)

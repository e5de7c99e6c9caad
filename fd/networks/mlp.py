"""Stacks of small MLPs: one set of weights per seed (and per critic), one batched matrix product per layer.

A stack has leading axes `lead`, (S,) or (S, E); its input may omit trailing lead axes (they are broadcast). Every member is
initialised from its own generator and no operation mixes members, so a seed gives the same numbers alone or among others.
A network with image observations has its own encoder, one per seed, before its first layer.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, layer_norm

from fd.networks.affine import affine
from fd.networks.impala import WIDTH, ImpalaEncoder
from fd.networks.joined import join


class StackedMLP(nn.Module):
    """MLPs with GELU (tanh form) and, optionally, LayerNorm (eps 1e-6) after each hidden activation.

    Args:
        lead: leading axes of the stack, (S,) or (S, E).
        widths: input, hidden and output widths.
        norm: whether hidden layers end in LayerNorm.
        generators: one per seed; weights are Xavier uniform, biases zero.
        last_gain: factor on the last layer's weights.
        encoder: of the first input if that is images; `widths` counts its features.

    Attributes:
        joined: all parameters, those of the encoder too.

    Source: arXiv 2502.02538 (architecture), variance scaling (1, fan_avg, uniform).
    """

    def __init__(
        self,
        lead: tuple[int, ...],
        widths: Sequence[int],
        *,
        norm: bool,
        generators: Sequence[torch.Generator],
        last_gain: float = 1.0,
        encoder: ImpalaEncoder | None = None,
    ) -> None:
        super().__init__()
        self.lead = lead
        self.encoder = encoder
        members = math.prod(lead)
        per_seed = members // len(generators)
        shapes = list(itertools.pairwise(widths))
        weights = [torch.stack([_xavier(i, o, g) for g in generators for _ in range(per_seed)]) for i, o in shapes]
        weights[-1] *= last_gain
        self.weights = nn.ParameterList(weights)  # [members, in, out]
        self.biases = nn.ParameterList([torch.zeros(members, 1, o) for _, o in shapes])
        self.scales = nn.ParameterList([torch.ones(members, 1, o) for _, o in shapes[:-1]] if norm else [])
        self.shifts = nn.ParameterList([torch.zeros(members, 1, o) for _, o in shapes[:-1]] if norm else [])
        self.joined = join(self.parameters())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Moves or converts the parameters, which separates them, and joins them again."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.joined = join(self.parameters())
        return self

    def forward(self, *inputs: Tensor, constant: bool = False) -> Tensor:
        """Outputs [*lead, B, out] for inputs [*lead', B, width], concatenated along the last axis.

        Args:
            inputs: lead' is `lead`, or `lead` without its last axis. The first may be images [S, B, H, W, C].
            constant: treat the weights as constants: no gradient reaches them.
        """
        inputs = self.features(inputs[0], constant=constant), *inputs[1:]
        x = inputs[0] if len(inputs) == 1 else torch.cat(inputs, dim=-1)
        if x.dim() == len(self.lead) + 1:
            x = x.unsqueeze(-3).expand(*self.lead, *x.shape[-2:])
        x = x.reshape(-1, *x.shape[-2:])
        last = len(self.weights) - 1
        for layer in range(last + 1):
            x = affine(_use(self.biases[layer], constant), x, _use(self.weights[layer], constant))
            if layer < last:
                x = gelu(x, approximate="tanh")
                if self.scales:
                    x = layer_norm(x, x.shape[-1:], eps=1e-6)
                    x = torch.addcmul(_use(self.shifts[layer], constant), x, _use(self.scales[layer], constant))
        return x.view(*self.lead, *x.shape[-2:])

    def jvp(self, *inputs: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs [S, B, out] and their slopes J v [S, P, B, out] along P directions v of the last input, [S, P, B, width].

        A layer computes its slopes in one more product, with the directions as rows, so the weights get one gradient of all of them.
        Directions that every row shares, [1 or S, P, 1, width], are multiplied by the first layer only once.

        Args:
            inputs: as for a call, each [S, B, width], for a stack without further leading axes and without LayerNorm.
            directions: broadcast along the seeds and the rows.
        """
        x = torch.cat((self.features(inputs[0]), *inputs[1:]), dim=-1)
        slopes = directions.expand(len(x), -1, -1, -1)
        zero, last = x.new_zeros(1, 1, 1), len(self.weights) - 1
        for layer in range(last + 1):
            x = affine(self.biases[layer], x, self.weights[layer])
            weight = self.weights[layer][:, -slopes.shape[-1] :]  # in the first layer, only those of the last input
            slopes = affine(zero, slopes.flatten(1, 2), weight).view(*slopes.shape[:3], -1)
            if layer < last:
                slopes = slopes * torch.ops.aten.gelu_backward(torch.ones_like(x), x, approximate="tanh").unsqueeze(1)
                x = gelu(x, approximate="tanh")
        return x, slopes.expand(-1, -1, x.shape[1], -1)

    def features(self, obs: Tensor, *, constant: bool = False) -> Tensor:
        """Input of the first layer: the encoded features of images (bytes), else `obs` itself.

        To call a network more than once with the same images, encode them first.
        """
        if obs.dtype != torch.uint8 or self.encoder is None:
            return obs
        encoded: Tensor = self.encoder(obs, constant=constant)
        return encoded


def observing(
    obs_shape: Sequence[int], stacks: Sequence[int], hidden: Sequence[int], *, generators: Sequence[torch.Generator],
    inputs: int, outputs: int, ensemble: tuple[int, ...] = (), norm: bool = False, last_gain: float = 1.0,
) -> StackedMLP:  # fmt: skip
    """One network per seed, which reads an observation and `inputs` more numbers.

    Args:
        obs_shape: of an observation, [O], or [H, W, C] of images.
        stacks: features of each stack of the image encoder; empty for vectors.
        hidden: hidden widths.
        generators: one per seed.
        inputs: width of the inputs after the observation.
        outputs: output width.
        ensemble: further leading axes; a seed's members share their encoder.
        norm, last_gain: see `StackedMLP`.
    """
    encoder = ImpalaEncoder(obs_shape, stacks, generators) if stacks else None
    widths = ((WIDTH if encoder else obs_shape[0]) + inputs, *hidden, outputs)
    return StackedMLP(
        (len(generators), *ensemble), widths, norm=norm, generators=generators, last_gain=last_gain, encoder=encoder
    )


def _use(parameter: Tensor, constant: bool) -> Tensor:
    return parameter.detach() if constant else parameter


def _xavier(fan_in: int, fan_out: int, generator: torch.Generator) -> Tensor:
    bound = math.sqrt(6 / (fan_in + fan_out))
    return torch.rand(fan_in, fan_out, generator=generator).mul_(2 * bound).sub_(bound)

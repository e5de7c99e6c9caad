"""Stacked networks are independent networks of the architecture that the references use."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm

from fd.networks.mlp import StackedMLP

WIDTHS = (5, 16, 12, 3)


def net(*seeds: int, lead: tuple[int, ...] = (), norm: bool = False) -> StackedMLP:
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return StackedMLP((len(seeds), *lead), WIDTHS, norm=norm, generators=generators)


def by_hand(stack: StackedMLP, member: int, x: Tensor) -> Tensor:
    """One member as a plain network."""
    for layer in range(3):
        x = x @ stack.weights[layer][member] + stack.biases[layer][member]
        if layer < 2:
            x = gelu(x, approximate="tanh")
            if stack.scales:
                x = layer_norm(x, x.shape[-1:], eps=1e-6)
                x = x * stack.scales[layer][member] + stack.shifts[layer][member]
    return x


@pytest.mark.parametrize("norm", [False, True])
def test_every_member_is_a_plain_network(norm: bool) -> None:
    stack, x = net(0, 1, lead=(2,), norm=norm), torch.randn(2, 7, 5)
    for parameter in stack.parameters():  # scales, shifts and biases that do something
        parameter.data += 0.1 * torch.randn_like(parameter)
    out = stack(x[..., :2], x[..., 2:])
    assert out.shape == (2, 2, 7, 3)
    for seed in range(2):
        for critic in range(2):
            torch.testing.assert_close(out[seed, critic], by_hand(stack, 2 * seed + critic, x[seed]))


def test_weights_are_xavier_uniform_and_biases_zero() -> None:
    stack = StackedMLP((3,), (400, 200), norm=False, generators=[torch.Generator().manual_seed(s) for s in range(3)])
    bound, weights = math.sqrt(6 / 600), stack.weights[0]
    assert weights.abs().max() <= bound
    assert torch.allclose(weights.std(dim=(1, 2)), torch.full((3,), bound / math.sqrt(3)), rtol=0.02)
    assert not stack.biases[0].any()


def test_a_gain_scales_the_last_layer_alone() -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in range(2)]
    small, plain = StackedMLP((2,), WIDTHS, norm=False, generators=generators, last_gain=0.1), net(0, 1)
    for layer, (scaled, weights) in enumerate(zip(small.weights, plain.weights, strict=True)):
        torch.testing.assert_close(scaled.data, weights.data * (0.1 if layer == 2 else 1.0))


@pytest.mark.parametrize("lead", [(), (2,)])
def test_a_seed_alone_is_the_seed_among_others(lead: tuple[int, ...]) -> None:
    both, alone = net(0, 1, lead=lead), net(1, lead=lead)
    for among, own in zip(both.parameters(), alone.parameters(), strict=True):
        assert torch.equal(among[own.shape[0] :], own)
    x = torch.randn(2, 4, 5)
    torch.testing.assert_close(both(x)[1], alone(x[1:])[0])


def test_members_of_a_seed_differ() -> None:
    stack = net(0, lead=(2,))
    assert not torch.equal(stack.weights[0][0], stack.weights[0][1])


def test_constant_weights_get_no_gradient_but_inputs_do() -> None:
    stack, x = net(0, 1, norm=True), torch.randn(2, 4, 5, requires_grad=True)
    stack(x, constant=True).sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in stack.parameters())

"""The update in JAX beside which ours is timed computes the same losses, for the same weights and numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from agents import agent_of, drawn
from torch import Tensor

jax = pytest.importorskip("jax", reason="needs the optional extra `yardstick`")


def array(tensor: Tensor) -> Any:
    return jax.numpy.asarray(tensor.detach().numpy())


def net_of(stack: Any) -> list[dict[str, Any]]:
    """Layers of one seed's networks as the update in JAX has them; a stack of one network loses its first axis."""
    alone = stack.lead == (1,)
    lists = {"weight": stack.weights, "bias": stack.biases, "scale": stack.scales, "shift": stack.shifts}
    return [
        {name: array(found[layer][0] if alone else found[layer]) for name, found in lists.items() if layer < len(found)}
        for layer in range(len(stack.weights))
    ]


def test_the_losses_are_ours() -> None:
    from benchmarks.jax_update import losses

    agent = agent_of("fidec-official", 0)
    agent.target.weights[0].data *= 1.1  # now the target differs from its critic
    batch, noise = drawn(agent.spec, 0, 0)
    ours, _ = agent(batch, None, noise)
    nets = {name: net_of(getattr(agent, name)) for name in ("flow", "policy", "critic")} | {
        "log_dual": array(agent.log_dual[0])
    }
    names = {"obs": batch.obs, "act": batch.act, "reward": batch.reward, "mask": batch.mask, "next_obs": batch.next_obs}
    assert noise.base is not None and noise.next_base is not None and noise.fisher_base is not None
    base = torch.cat([noise.base, noise.next_base, noise.fisher_base.flatten(1, 2)], dim=1)
    numbers = {"base": base, "flow_x0": noise.flow_x0, "flow_t": noise.flow_t}
    numbers |= {"fisher_x0": noise.fisher_x0.flatten(1, 2), "fisher_t": noise.fisher_t.flatten(1, 2)}
    given = [{name: array(tensor[0]) for name, tensor in found.items()} for found in (names, numbers)]
    theirs = losses(nets, net_of(agent.target), *given, agent.spec)
    assert float(theirs) == pytest.approx(ours.item(), rel=1e-5)

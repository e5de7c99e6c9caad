"""One update of the official method in JAX, for one seed, from the equations of arXiv 2604.17919 and 2502.02538; see `benchmarks.yardstick`."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from fd.method.acting import CRITICS
from fd.method.spec import Spec
from fd.training.replay import Replay

Net = list[dict[str, jax.Array]]


def network(key: jax.Array, widths: tuple[int, ...], *, lead: tuple[int, ...] = (), norm: bool = False) -> Net:
    """Layers of an MLP: Xavier uniform weights [*lead, in, out], zero biases; scales and shifts of LayerNorm if `norm`."""
    layers: Net = []
    for fan_in, fan_out in itertools.pairwise(widths):
        key, own = jax.random.split(key)
        bound = (6 / (fan_in + fan_out)) ** 0.5
        weight = jax.random.uniform(own, (*lead, fan_in, fan_out), minval=-bound, maxval=bound)
        layer = {"weight": weight, "bias": jnp.zeros((*lead, 1, fan_out))}
        if norm and len(layers) < len(widths) - 2:
            layer |= {"scale": jnp.ones((*lead, 1, fan_out)), "shift": jnp.zeros((*lead, 1, fan_out))}
        layers.append(layer)
    return layers


def apply(net: Net, *inputs: jax.Array) -> jax.Array:
    """Outputs [*lead, B, out] for inputs [B, width], concatenated."""
    x = jnp.concatenate(inputs, axis=-1)
    for layer in net[:-1]:
        x = jax.nn.gelu(x @ layer["weight"] + layer["bias"], approximate=True)
        if "scale" in layer:
            x = layer["shift"] + layer["scale"] * jax.nn.standardize(x, epsilon=1e-6)
    return x @ net[-1]["weight"] + net[-1]["bias"]


def losses(
    nets: dict[str, Any], target: Net, batch: dict[str, jax.Array], noise: dict[str, jax.Array], spec: Spec
) -> jax.Array:
    """Flow matching, temporal difference and refinement with its dual, summed."""
    obs, act, size, stop = batch["obs"], batch["act"], len(batch["obs"]), jax.lax.stop_gradient
    flow = stop(nets["flow"])

    # The behaviour flow.
    x0, t = noise["flow_x0"], noise["flow_t"]
    flow_loss = jnp.mean((apply(nets["flow"], obs, (1 - t) * x0 + t * act, t) - (act - x0)) ** 2)

    # Base actions of s, of s', and K more of s for the scores.
    states = jnp.concatenate([obs, batch["next_obs"], jnp.repeat(obs, spec.fisher_samples, axis=0)])
    x = noise["base"]
    for step in range(spec.flow_steps):
        x = x + apply(flow, states, x, jnp.full((len(x), 1), step / spec.flow_steps)) / spec.flow_steps
    base, next_base, fisher_base = jnp.split(stop(jnp.clip(x, -1, 1)), [size, 2 * size])

    # K scores of each state, by the official formula v / (1 - t).
    times = noise["fisher_t"]
    points = (1 - times) * noise["fisher_x0"] + times * fisher_base
    scores = apply(flow, states[2 * size :], points, times) / (1 - times)
    scores = stop(scores).reshape(size, spec.fisher_samples, -1)

    # The critics.
    next_act = jnp.clip(next_base + apply(nets["policy"], batch["next_obs"], next_base), -1, 1)
    following = apply(target, batch["next_obs"], next_act)[..., 0].mean(axis=0)
    y = stop(batch["reward"] + spec.discount * batch["mask"] * following)
    critic_loss = jnp.mean((apply(nets["critic"], obs, act)[..., 0] - y) ** 2)

    # The refinement under its constraint.
    delta = apply(nets["policy"], obs, base)
    q = apply(stop(nets["critic"]), obs, jnp.clip(base + delta, -1, 1))[..., 0]
    form = jnp.mean(jnp.sum(scores * delta[:, None], axis=-1) ** 2, axis=-1) + spec.damping * jnp.sum(delta**2, axis=-1)
    trace = jnp.sum(scores**2, axis=-1).mean(axis=-1) + spec.damping * delta.shape[-1]
    cost = jnp.mean(form / trace)
    dual_loss = -nets["log_dual"] * stop(cost - spec.target_divergence)
    return flow_loss + critic_loss - jnp.mean(q) + stop(jnp.exp(nets["log_dual"])) * cost + dual_loss


class JaxUpdate:
    """Networks, moments and data of one seed, and their updates."""

    def __init__(self, spec: Spec, replay: Replay, size: int) -> None:
        keys = jax.random.split(jax.random.key(0), 4)
        (obs,), act = spec.obs_shape, spec.act_dim
        critic = network(keys[2], (obs + act, *spec.hidden, 1), lead=(CRITICS,), norm=True)
        nets = {
            "flow": network(keys[0], (obs + act + 1, *spec.hidden, act)),
            "policy": network(keys[1], (obs + act, *spec.hidden, act)),
            "critic": critic, "log_dual": jnp.log(jnp.full((), spec.dual_init)),
        }  # fmt: skip
        zeros = jax.tree.map(jnp.zeros_like, nets)
        self._state = nets, jax.tree.map(jnp.copy, critic), zeros, jax.tree.map(jnp.copy, zeros), jnp.zeros(()), keys[3]
        names = {
            "obs": replay.obs,
            "act": replay.act,
            "reward": replay.reward,
            "mask": replay.mask,
            "starts": replay.starts,
        }
        self._data = {name: jnp.asarray(tensor.numpy()) for name, tensor in names.items()}
        self._update = jax.jit(partial(self._one, spec=spec, size=size), donate_argnums=0)

    def steps(self, count: int) -> None:
        """Do so many updates."""
        for _ in range(count):
            self._state, norm = self._update(self._state, self._data)
        norm.block_until_ready()

    def versions(self) -> dict[str, str]:
        """Return the version of JAX."""
        return {"jax": jax.__version__}

    @staticmethod
    def _one(state: Any, data: dict[str, jax.Array], *, spec: Spec, size: int) -> tuple[Any, jax.Array]:
        nets, target, first, second, count, key = state
        key, *keys = jax.random.split(key, 7)
        rows = data["starts"][jax.random.randint(keys[0], (size,), 0, len(data["starts"]))]
        batch = {name: data[name][rows] for name in ("obs", "act", "reward", "mask")} | {
            "next_obs": data["obs"][rows + 1]
        }
        samples, (low, high) = size * spec.fisher_samples, spec.t_eps
        noise = {
            "flow_x0": jax.random.normal(keys[1], (size, spec.act_dim)), "flow_t": jax.random.uniform(keys[2], (size, 1)),
            "base": jax.random.normal(keys[3], (2 * size + samples, spec.act_dim)),
            "fisher_x0": jax.random.normal(keys[4], (samples, spec.act_dim)),
            "fisher_t": jax.random.uniform(keys[5], (samples, 1), minval=low, maxval=high),
        }  # fmt: skip
        grads = jax.grad(losses)(nets, target, batch, noise, spec)
        target = jax.tree.map(lambda old, new: (1 - spec.tau) * old + spec.tau * new, target, nets["critic"])
        norm = jnp.sqrt(sum(jnp.sum(grad**2) for grad in jax.tree.leaves(grads)))
        grads = jax.tree.map(lambda grad: grad * jnp.minimum(1, spec.grad_clip / (norm + 1e-6)), grads)
        count = count + 1
        first = jax.tree.map(lambda mean, grad: 0.9 * mean + 0.1 * grad, first, grads)
        second = jax.tree.map(lambda mean, grad: 0.999 * mean + 0.001 * grad**2, second, grads)

        def moved(net: jax.Array, mean: jax.Array, square: jax.Array) -> jax.Array:
            return net - spec.learning_rate * (mean / (1 - 0.9**count)) / (jnp.sqrt(square / (1 - 0.999**count)) + 1e-8)

        nets = jax.tree.map(moved, nets, first, second)
        return (nets, target, first, second, count, key), norm

"""Parity in float64 with recordings of the reference JAX implementations (tests/golden/README.md)."""

from __future__ import annotations

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from agents import gradients
from threefry import child, key_of, normal
from torch import Tensor

from fd.method.agent import Agent, update
from fd.method.batch import Batch, FlowSamples, Noise
from fd.method.fisher import penalty
from fd.method.flow import base_actions
from fd.method.spec import Spec
from fd.networks.adam import Optimiser
from fd.networks.impala import ImpalaEncoder
from fd.networks.mlp import StackedMLP

OWN = Path(__file__).parent / "golden"
FOLDER = Path(os.environ.get("FD_GOLDEN_DIR", OWN))
NETS = {
    "actor_bc_flow": "flow",
    "actor_flow": "flow",
    "critic": "critic",
    "target_critic": "target",
    "value": "value",
    "target_actor": "target_policy",
}
SWITCHES: dict[str, dict[str, object]] = {
    "fql": {"policy": "onestep"},
    "deflow": {"policy": "residual", "metric": "identity"},
    "fidec": {"policy": "residual", "metric": "state"},
    "ifql": {"policy": "flow", "critic": "expectile"},
    "iql": {"policy": "gaussian", "critic": "expectile", "behaviour": "frozen"},
    "rebrac": {"policy": "deterministic", "behaviour": "frozen"},
}
# Splits of the key of a loss before the policy's actions are drawn for `actor/mse`, whose noise the recordings do not hold.
SPLITS = {"fql": 2, "deflow": 2, "fidec": 3}
FILES = sorted(FOLDER.glob("*.npz"))
ENCODERS = {"None": (), "impala_debug": (4, 4), "impala_small": (16, 32, 32)}
Recording = dict[str, np.ndarray]


def spec_of(config: dict[str, object], obs_shape: tuple[int, ...]) -> Spec:
    family = str(config["agent_name"])
    t, width = float(config.get("fisher_t", 0.8)), float(config.get("fisher_t_width", 0))
    settings = {
        "obs_shape": obs_shape,
        "encoder": ENCODERS[str(config.get("encoder"))],
        "act_dim": config["action_dim"],
        "hidden": config["actor_hidden_dims"],
        "flow_steps": config.get("flow_steps", 1),
        "flow_solver": "euler",
        "behaviour": "joint",
        "score": "velocity",
        "t_eps": [t - width, t],
        "fisher_samples": config.get("num_fisher_samples", 1),
        "damping": config.get("fisher_damping", 0.0),
        "normalise": "state",
        "dual": "learned" if config.get("use_lagrange") else "fixed",
        "dual_init": config["alpha"] if family in ("deflow", "fidec") else 1.0,
        "grad_clip": config.get("grad_clip", 0.0),
        "learning_rate": config["lr"],
        "normalize_q": config.get("normalize_q_loss", False),
        "q_agg": config.get("q_agg", "min"),
        "target_divergence": config.get("target_divergence", 1.0),
        "alpha": config.get("alpha", 1.0),
        "expectile": config.get("expectile", 0.9),
        "iql_alpha": config.get("alpha", 1.0),
        "extraction": config.get("actor_loss", "none"),
        "rebrac_alpha": config.get("alpha_actor", 0.0),
        "rebrac_alpha_critic": config.get("alpha_critic", 0.0),
        "target_noise": config.get("actor_noise", 0.0),
        "noise_clip": config.get("actor_noise_clip", 0.0),
        "policy_every": config.get("actor_freq", 1),
    }
    return Spec.of(config, settings | SWITCHES[family])


def named(agent: Agent, key: str) -> Tensor:
    """The parameter that holds a recorded one."""
    module, *path = key.split("/")
    module = module.removeprefix("modules_")
    if module == "log_alpha":
        return agent.log_dual
    net: StackedMLP = getattr(agent, NETS.get(module.removesuffix("_encoder"), "policy"))
    layer, kind = path[-2:]
    if net.encoder is not None and "value_net" not in path and "mlp" not in path:
        return encoder_parameter(net.encoder, path)
    index = -1 if layer == "mean_net" else int(layer.split("_")[1])
    lists = {"kernel": net.weights, "scale": net.scales, "bias": net.shifts if "Norm" in layer else net.biases}
    return lists[kind][index]


def encoder_parameter(encoder: ImpalaEncoder, path: list[str]) -> Tensor:
    """The parameter of an encoder that holds a recorded one; kernels are recorded as [3, 3, in, out]."""
    *_, block, layer, kind = path
    if block == "MLP_0":
        return encoder.weight if kind == "kernel" else encoder.bias
    index = 3 * int(block.split("_")[-1]) + int(layer.split("_")[1])
    return (encoder.kernels if kind == "kernel" else encoder.shifts)[index]


def stacked(agent: Agent, parameter: Tensor, value: np.ndarray, seed: int) -> Tensor:
    """View of one seed of a parameter, in the recorded shape."""
    if parameter.dim() == 5:
        return parameter[seed].permute(2, 3, 1, 0)
    return parameter.unflatten(0, (agent.seeds, -1))[seed].view(value.shape)


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def load(path: Path, seeds: int) -> tuple[Recording, Agent, Batch]:
    with np.load(path, allow_pickle=False) as archive:
        data = {key: archive[key] for key in archive.files}
    obs_shape, (act_dim,) = (data[f"batch/{name}"].shape[1:] for name in ("observations", "actions"))
    spec = spec_of({"action_dim": act_dim} | json.loads(str(data["config"])), obs_shape)
    agent = Agent(spec, [torch.Generator().manual_seed(seed) for seed in range(seeds)])
    with torch.no_grad():
        for key, value in data.items():
            if key.startswith("params/"):
                stacked(agent, named(agent, key.removeprefix("params/")), value, 0).copy_(torch.tensor(value))
    names = ["observations", "actions", "rewards", "masks", "next_observations", "next_actions"]
    values = [spread(data[f"batch/{name}"], seeds) for name in names if f"batch/{name}" in data]
    return data, agent, Batch(*values, next_known=torch.ones_like(values[2]))


def spread(value: np.ndarray, seeds: int) -> Tensor:
    """The recorded value for seed 0 and something else for the others."""
    first = torch.tensor(value)
    return torch.stack([first, *((first.flip(0) * 0.9).to(first.dtype) for _ in range(seeds - 1))])


def noise_of(data: Recording, prefix: str, spec: Spec, seeds: int) -> Noise:
    def get(name: str, *, samples: bool = False) -> Tensor | None:
        if f"{prefix}noise/{name}" not in data:
            return None
        value = spread(data[f"{prefix}noise/{name}"], seeds)
        return value.unflatten(1, (-1, spec.fisher_samples)) if samples else value

    return Noise(
        base=get("base_noise"),
        next_base=get("next_action_noise"),
        fisher_base=get("fisher_action_noise", samples=True),
        fisher_x0=get("fisher_x0", samples=True),
        fisher_t=get("fisher_t", samples=True),
        target=get("next_action_noise"),
        flow_x0=get("flow_x0"),
        flow_t=get("flow_t"),
    )


def close(actual: Tensor, expected: np.ndarray, what: str, tolerance: float = 1e-8) -> None:
    difference = np.abs(actual.detach().numpy() - expected).max()
    assert difference <= tolerance * max(np.abs(expected).max(), 1e-8), f"{what}: off by {difference}"


def told(
    agent: Agent, batch: Batch, base: FlowSamples | None, noise: Noise, metrics: dict[str, Tensor]
) -> dict[str, Tensor]:
    """What training tells, under the names of the recordings; entries that the references only derive are derived here."""
    spec, zero = agent.spec, torch.zeros(agent.seeds)
    names = {f"critic/{n}": n for n in ("critic_loss", "q_mean", "q_min", "q_max")}
    names |= {f"value/{n}": n for n in ("value_loss", "v_mean", "v_min", "v_max")}
    names |= {"actor/bc_flow_loss": "flow_loss", "actor/q": "q", "actor/q_mean": "q", "actor/q_loss": "q_loss"}
    names |= {"actor/distill_loss": "penalty", "actor/alpha_value": "dual", "actor/refinement_mse": "delta2"}
    names |= {"actor/adv": "advantage", "actor/bc_log_prob": "log_likelihood", "actor/mse": "mse"}
    names |= {"actor/fisher_trace_per_dim_mean": "trace", "actor/total_loss": "policy_loss"}
    info = {name: metrics[ours] for name, ours in names.items() if ours in metrics}
    info["actor/alpha_loss"] = metrics.get("dual_loss", zero)
    info["actor/actor_loss"] = metrics.get("policy_loss", zero) + metrics.get("flow_loss", zero)
    info["actor/std"] = zero + 1  # unit variance by construction
    if spec.policy == "deterministic":
        info["actor/actor_loss"] = metrics["q_loss"]
        info["actor/bc_loss"] = metrics["policy_loss"] - metrics["q_loss"]
        info["actor/mse"] = metrics["mse"] * spec.act_dim
    if spec.critic == "expectile":  # q is the target there
        y = agent.target_values(batch, base, noise)
        info |= {"critic/q_mean": y.mean(1), "critic/q_min": y.amin(1), "critic/q_max": y.amax(1)}
    if spec.extraction == "ddpgbc":
        info["actor/bc_loss"] = -spec.iql_alpha * metrics["log_likelihood"]
        info["actor/q_abs_mean"] = -metrics["q"] / metrics["q_loss"]
    if base is not None and base.scores is not None:
        unit = torch.eye(spec.act_dim).expand(*batch.act.shape[:2], -1, -1)
        diagonal = [penalty(unit[:, :, i], base.scores, agent.metric) * spec.act_dim for i in range(spec.act_dim)]
        info["actor/fisher_diag_mean"] = torch.stack(diagonal).mean(dim=(0, 2))
        info["actor/fisher_quad_mean"] = metrics["penalty"] * spec.act_dim
    return info


def grad_info(agent: Agent, adam: Optimiser, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of the first seed's gradients before clipping: the extreme entries, and the sum over parameters of their norms."""
    norm, clip = metrics["grad_norm"][0], agent.spec.grad_clip
    scale = (clip / (norm + 1e-6)).clamp_max(1) if clip else torch.ones(())
    grads = [grad.reshape(agent.seeds, -1)[0] / scale for grad in gradients(adam)]
    flat, norms = torch.cat(grads), torch.stack([grad.norm() for grad in grads])
    return {"max": flat.max(), "min": flat.min(), "norm": norms.sum()} | {
        "clip_scale": scale,
        "norm_clipped": norm * scale,
    }


def mse(data: Recording, prefix: str, agent: Agent, batch: Batch, path: tuple[int, ...] = ()) -> dict[str, Tensor]:
    """`actor/mse` of methods that sample: of fresh actions of the policy, drawn from the key of the loss as the references do.

    The key is found among those of small seeds (then split along `path`), as the one that gives the recorded base noise. For recordings
    of another folder, which may come from any key, the entry is left out when none does.
    """
    family, shape = json.loads(str(data["config"]))["agent_name"], data["batch/actions"].shape
    if family not in SPLITS:
        return {}
    keys = [child(key_of(seed), *path) for seed in range(100)]
    base = data[f"{prefix}noise/base_noise"]
    key = next((key for key in keys if np.allclose(normal(child(key, 1, 0, 1), *shape), base)), None)
    if key is None:
        assert FOLDER != OWN
        return {"actor/mse": torch.from_numpy(data[f"{prefix}info/actor/mse"]).expand(agent.seeds)}
    noise = normal(child(key, 1, *[0] * SPLITS[family], 0), *shape)
    act = agent.act(batch.obs, noise.expand(agent.seeds, -1, -1))
    return {"actor/mse": (act - batch.act).square().mean(dim=(1, 2))}


def check_info(data: Recording, prefix: str, info: dict[str, Tensor]) -> None:
    """Every recorded entry is among ours and equal to it."""
    for key, value in data.items():
        name = key.removeprefix(prefix)
        if key.startswith(prefix) and not name.startswith("grad/"):
            assert name in info, f"{key} is recorded and not computed"
            close(info[name][0], value, key)


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recording_is_replayed(path: Path, seeds: int) -> None:
    data, agent, batch = load(path, seeds)
    noise = noise_of(data, "", agent.spec, seeds)
    base = agent.base(batch, noise) if agent.spec.based else None
    loss, metrics = agent(batch, base, noise)
    close(loss[0], data["loss"], "loss")
    check_info(data, "info/", told(agent, batch, base, noise, metrics) | mse(data, "", agent, batch))
    loss.sum().backward()
    for key, value in data.items():
        if key.startswith("grad/"):
            grad = named(agent, key.removeprefix("grad/")).grad
            grad = torch.zeros(value.size * seeds) if grad is None else grad
            close(stacked(agent, grad, value, 0), value, key)
    if "policy/noise" in data:
        start = spread(data["policy/noise"], seeds)
        drawn = base_actions(agent.flow, batch.obs, start, steps=agent.spec.flow_steps)
        close(drawn[0], data["policy/flow_actions"], "policy/flow_actions")
        close(agent.act(batch.obs, start)[0], data["policy/actions"], "policy/actions")
    if "encoder/actor_bc_flow_encoder" in data:
        close(agent.flow.features(batch.obs)[0], data["encoder/actor_bc_flow_encoder"], "encoder")


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_three_updates_are_replayed(path: Path, seeds: int) -> None:
    data, agent, batch = load(path, seeds)
    if "update0/info/critic/critic_loss" not in data:
        pytest.skip(f"{path.name} holds no updates")
    adam = agent.optimiser()
    for i in range(3):
        noise = noise_of(data, f"update{i}/", agent.spec, seeds)
        base = agent.base(batch, noise) if agent.spec.based else None
        before = copy.deepcopy(agent)
        metrics = update(agent, adam, batch, base, noise)
        sampled = mse(data, f"update{i}/", before, batch, (0, *[0] * i, 1))
        check_info(data, f"update{i}/info/", told(before, batch, base, noise, metrics) | sampled)
        for name, value in grad_info(agent, adam, metrics).items():
            if f"update{i}/info/grad/{name}" in data:
                close(value, data[f"update{i}/info/grad/{name}"], f"update{i}/grad/{name}")
    prefix = "params_after_3_updates/"
    for key, value in data.items():
        if key.startswith(prefix):
            close(stacked(agent, named(agent, key.removeprefix(prefix)), value, 0), value, key, 1e-6)


def test_there_are_recordings() -> None:
    assert FILES, f"{FOLDER} holds no recording"

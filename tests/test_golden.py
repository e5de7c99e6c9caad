"""Parity in float64 with recordings of the reference JAX implementations (tests/golden/README.md)."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fd.agent import Agent, Noise, update
from fd.nets import StackedMLP
from fd.optim import optimiser
from fd.replay import Batch
from fd.spec import Spec

FOLDER = Path(os.environ.get("FD_GOLDEN_DIR", Path(__file__).parent / "golden"))
FAMILIES = {"fidec": "residual", "deflow": "residual", "fql": "onestep"}
NETS = {"actor_bc_flow": "flow", "critic": "critic", "target_critic": "target"}
METRICS = {
    "critic/critic_loss": "critic_loss",
    "actor/bc_flow_loss": "flow_loss",
    "actor/q": "q",
    "actor/q_loss": "q_loss",
    "actor/distill_loss": "penalty",
    "actor/alpha_value": "dual",
    "actor/refinement_mse": "delta2",
}
FILES = [p for p in sorted(FOLDER.glob("*.npz")) if p.stem.split("-")[0] in FAMILIES and "pixel" not in p.stem]
Recording = dict[str, np.ndarray]


def spec_of(config: dict[str, object], obs_dim: int) -> Spec:
    family = str(config["agent_name"])
    t, width = float(config.get("fisher_t", 0.8)), float(config.get("fisher_t_width", 0))
    return Spec.of(
        config,
        {
            "obs_dim": obs_dim,
            "act_dim": config["action_dim"],
            "hidden": list(config["actor_hidden_dims"]),
            "policy": FAMILIES[family],
            "behaviour": "joint",
            "metric": "state" if family == "fidec" else "identity",
            "score": "velocity",
            "t_eps": [t - width, t],
            "fisher_samples": config.get("num_fisher_samples", 1),
            "damping": config.get("fisher_damping", 0.0),
            "normalise": "state",
            "dual": "learned" if config.get("use_lagrange") else "fixed",
            "dual_init": config["alpha"],
            "grad_clip": config.get("grad_clip", 0.0),
            "learning_rate": config["lr"],
            "normalize_q": config["normalize_q_loss"],
            "target_divergence": config.get("target_divergence", 1.0),
        },
    )


def named(agent: Agent, key: str) -> Tensor | None:
    """The parameter that holds a recorded one; None for the multiplier of a method without one."""
    module, *path = key.split("/")
    module = module.removeprefix("modules_")
    if module == "log_alpha":
        return agent.log_dual
    net: StackedMLP = getattr(agent, NETS.get(module, "policy"))
    layer, kind = path[-2:]
    index = int(layer.split("_")[1])
    lists = {"kernel": net.weights, "scale": net.scales, "bias": net.biases if "Dense" in layer else net.shifts}
    return lists[kind][index]


def stacked(agent: Agent, parameter: Tensor, value: np.ndarray, seed: int) -> Tensor:
    """View of one seed of a parameter, in the recorded shape."""
    return parameter.view(agent.seeds, -1)[seed].view(value.shape)


@pytest.fixture(autouse=True)
def _float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def load(path: Path, seeds: int) -> tuple[Recording, Agent, Batch]:
    with np.load(path, allow_pickle=False) as archive:
        data = {key: archive[key] for key in archive.files}
    spec = spec_of(json.loads(str(data["config"])), data["batch/observations"].shape[-1])
    agent = Agent(spec, [torch.Generator().manual_seed(seed) for seed in range(seeds)])
    with torch.no_grad():
        for key, value in data.items():
            if key.startswith("params/"):
                stacked(agent, named(agent, key.removeprefix("params/")), value, 0).copy_(torch.tensor(value))
    names = ("observations", "actions", "rewards", "masks", "next_observations")
    return data, agent, Batch(*(spread(data[f"batch/{name}"], seeds) for name in names))


def spread(value: np.ndarray, seeds: int) -> Tensor:
    """The recorded value for seed 0 and something else for the others."""
    first = torch.tensor(value)
    return torch.stack([first, *(first.flip(0) * 0.9 for _ in range(seeds - 1))])


def noise_of(data: Recording, prefix: str, spec: Spec, seeds: int) -> Noise:
    def get(name: str, *, samples: bool = False) -> Tensor | None:
        if f"{prefix}noise/{name}" not in data:
            return None
        value = spread(data[f"{prefix}noise/{name}"], seeds)
        return value.unflatten(1, (-1, spec.fisher_samples)) if samples else value

    base, next_base = get("base_noise"), get("next_action_noise")
    assert base is not None and next_base is not None
    return Noise(
        base=base,
        next_base=next_base,
        fisher_base=get("fisher_action_noise", samples=True),
        fisher_x0=get("fisher_x0", samples=True),
        fisher_t=get("fisher_t", samples=True),
        flow_x0=get("flow_x0"),
        flow_t=get("flow_t"),
    )


def close(actual: Tensor, expected: np.ndarray, what: str, tolerance: float = 1e-8) -> None:
    difference = np.abs(actual.detach().numpy() - expected).max()
    assert difference <= tolerance * max(np.abs(expected).max(), 1e-8), f"{what}: off by {difference}"


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_recording_is_replayed(path: Path, seeds: int) -> None:
    data, agent, batch = load(path, seeds)
    noise = noise_of(data, "", agent.spec, seeds)
    loss, metrics = agent.losses(batch, agent.base(batch, noise), noise)
    close(loss[0], data["loss"], "loss")
    for key, name in METRICS.items():
        if f"info/{key}" in data and name in metrics:
            close(metrics[name][0], data[f"info/{key}"], key)
    loss.sum().backward()
    for key, value in data.items():
        if key.startswith("grad/"):
            grad = named(agent, key.removeprefix("grad/")).grad
            grad = torch.zeros(value.size * seeds) if grad is None else grad
            close(stacked(agent, grad, value, 0), value, key)
    policy_noise = spread(data["policy/noise"], seeds)
    close(agent.act(batch.obs, policy_noise)[0], data["policy/actions"], "policy/actions")


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_three_updates_are_replayed(path: Path, seeds: int) -> None:
    data, agent, batch = load(path, seeds)
    adam = optimiser(agent.trained(), agent.spec.learning_rate)
    for i in range(3):
        noise = noise_of(data, f"update{i}/", agent.spec, seeds)
        metrics = update(agent, adam, batch, agent.base(batch, noise), noise)
        for key, name in METRICS.items():
            if f"update{i}/info/{key}" in data and name in metrics:
                close(metrics[name][0], data[f"update{i}/info/{key}"], f"update{i}/{key}")
    prefix = "params_after_3_updates/"
    for key, value in data.items():
        if key.startswith(prefix):
            close(stacked(agent, named(agent, key.removeprefix(prefix)), value, 0), value, key, 1e-6)


def test_there_are_recordings() -> None:
    assert FILES, f"{FOLDER} holds no recording"

"""Trained policies, loaded from a run folder.

policy = Policy.load(Path("runs/umaze/fidec"))
action = policy.act(obs)[policy.seeds.index(0)]  # of the policy trained with seed 0
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fd.errors import FdError
from fd.method.acting import act, critic_net, flow_net, policy_net
from fd.method.critic import aggregated_values
from fd.method.spec import Spec
from fd.networks.mlp import StackedMLP
from fd.storage.files import digest
from fd.storage.tensors import FLOW, load_net, read_tensors


def snapshot_name(step: int) -> str:
    """File name of the snapshot at a step."""
    return f"step_{step:09d}.safetensors"


@dataclass(frozen=True)
class Policy:
    """The policies of all seeds of a run at one step.

    Attributes:
        spec: the agent that was trained.
        seeds: training seeds, in the order of the first axis.
        step: training step of the snapshot.
        flow: behaviour flow.
        net: the policy's own network.
        critic: Q, to choose the best of several actions.
        origin: task, method and hashes of the data and of the frozen flow of the run.
    """

    spec: Spec
    seeds: tuple[int, ...]
    step: int
    flow: StackedMLP
    net: StackedMLP
    critic: StackedMLP
    origin: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @staticmethod
    def steps(folder: Path) -> list[int]:
        """Steps of the snapshots in a run folder, in order.

        Raises:
            FdError: there is none.
        """
        found = [re.fullmatch(r"step_(\d{9})\.safetensors", path.name) for path in folder.glob("step_*")]
        steps = sorted(int(match[1]) for match in found if match)
        if not steps:
            raise FdError(f"{folder}: holds no snapshot (step_*.safetensors)")
        return steps

    @classmethod
    def load(cls, folder: Path | str, step: int | None = None, *, device: torch.device | str = "cpu") -> Policy:
        """The policy of a run folder at a step (default: the last).

        Raises:
            FdError: there is no such snapshot, or a file is damaged or does not belong to it.
        """
        folder = Path(folder)
        step = cls.steps(folder)[-1] if step is None else step
        path = folder / snapshot_name(step)
        tensors, record = read_tensors(path, device)
        spec = Spec.from_record(record.get("spec"), str(path))
        if record["step"] != step:
            raise FdError(f"{path}: is the snapshot of step {record['step']}, allowed: {step}")
        seeds = tuple(record["seeds"])
        none = [torch.Generator() for _ in seeds]
        nets = flow_net(spec, none), policy_net(spec, none), critic_net(spec, none)
        policy = cls(spec, seeds, step, *nets, origin=record["origin"])
        if spec.policy != "flow":
            load_net(policy.net, tensors, "policy.", path)
        if spec.critic != "none":
            load_net(policy.critic, tensors, "critic.", path)
        if spec.behaviour == "joint":
            load_net(policy.flow, tensors, "flow.", path)
        elif spec.acts_by_flow:
            load_net(policy.flow, read_tensors(folder / FLOW, device)[0], "flow.", folder / FLOW)
            if digest(folder / FLOW) != policy.origin.get("flow_sha256"):
                raise FdError(f"{folder / FLOW}: is not the flow of {path}; refine it again")
        for net in (policy.flow, policy.net, policy.critic):
            net.to(device)
        return policy

    def act(
        self,
        obs: Tensor | NDArray[np.floating],
        noise: Tensor | None = None,
        *,
        best_of: int = 1,
        refinements: int = 1,
    ) -> Tensor:
        """Actions in [-1, 1] of every seed: [S, A] for one observation [O], [S, B, A] for [B, O] or [S, B, O].

        Args:
            obs: observations, the same for all seeds or each seed's own. For a policy trained on images, [O] is [H, W, C] in bytes: the
                last images stacked along C, the oldest first.
            noise: standard normal, [S, B, best_of * A] (B = 1 for one observation); drawn if not given.
            best_of: actions drawn per observation; the one with the highest Q (the smaller of the ensemble) is taken.
            refinements: times that a residual is applied.

        Raises:
            FdError: a shape is wrong, or this policy does not support `best_of` or `refinements`.
        """
        seeds, shape, act_dim = len(self.seeds), self.spec.obs_shape, self.spec.act_dim
        self.spec.check_acting(best_of, refinements)
        given = torch.as_tensor(obs, device=self.net.weights[0].device)
        if self.spec.encoder and given.dtype != torch.uint8:
            raise FdError(f"obs: {given.dtype}, allowed: torch.uint8, because this policy sees images")
        given = given if self.spec.encoder else given.float()
        *lead, rows = (1, 1, *given.shape)[-len(shape) - 2 : -len(shape)] if given.dim() >= len(shape) else (0, 0)
        if given.dim() > len(shape) + 2 or given.shape[-len(shape) :] != shape or lead not in ([1], [seeds]):
            one = ", ".join(map(str, shape))
            raise FdError(f"obs: shape {list(given.shape)}, allowed: [{one}], [B, {one}] or [{seeds}, B, {one}]")
        wanted = (seeds, rows, best_of * act_dim)
        if noise is None:
            noise = torch.randn(wanted, device=given.device)
        if list(noise.shape) != list(wanted):
            raise FdError(f"noise: shape {list(noise.shape)}, allowed: {list(wanted)}")
        states = given.expand(seeds, rows, *shape)
        noise = noise.reshape(seeds, rows * best_of, act_dim)
        actions = act(self.spec, self.flow, self.net, states, noise, refinements=refinements)
        if best_of > 1:
            seen = self.critic.features(states).repeat_interleave(best_of, dim=1)
            q = aggregated_values(self.critic, seen, actions, q_agg="min").view(seeds, rows, best_of)
            best = q.argmax(dim=-1)[..., None, None].expand(-1, -1, 1, act_dim)
            actions = actions.view(seeds, rows, best_of, act_dim).gather(2, best).squeeze(2)
        return actions.squeeze(1) if given.dim() == len(shape) else actions

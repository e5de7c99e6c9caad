"""A trained policy as one file that acts without this project: an ONNX model, or a program of torch.export.

Inputs are `obs`, [B, O], or bytes [B, H, W, C] of a policy that sees images, and `noise`, standard normal [B, best_of * A]; the output is
`action`, [B, A] in [-1, 1], for any number B of states. Policies that act by their mean ignore the noise.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from fd.errors import FdError
from fd.method.acting import critic_net, flow_net, policy_net
from fd.networks.mlp import StackedMLP
from fd.policy import Policy

RECORD = "fd"  # name of the record: metadata of an ONNX model, extra file of a .pt2


class Acting(nn.Module):
    """`Policy.act` of a policy of one seed, with the networks that acting needs as submodules.

    Raises:
        FdError: the policy does not support `best_of` or `refinements`.
    """

    def __init__(self, policy: Policy, *, best_of: int, refinements: int) -> None:
        super().__init__()
        spec = policy.spec
        spec.check_acting(best_of, refinements)
        self.policy, self.best_of, self.refinements = policy, best_of, refinements
        needed = {policy.flow: spec.acts_by_flow, policy.net: spec.policy != "flow", policy.critic: best_of > 1}
        self.nets = nn.ModuleList(net for net, is_needed in needed.items() if is_needed)
        self.requires_grad_(False)
        for parameter in self.parameters():
            parameter.data = parameter.clone()  # a file holds each by itself, not as views of one matrix

    def forward(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Actions [B, A] for observations [B, O], or [B, H, W, C], and noise [B, best_of * A]."""
        actions = self.policy.act(obs, noise.unsqueeze(0), best_of=self.best_of, refinements=self.refinements)
        return actions.squeeze(0)


def of_one_seed(policy: Policy, seed: int) -> Policy:
    """The policy of one of the seeds, which `policy.seeds` contains."""
    count, index = len(policy.seeds), policy.seeds.index(seed)

    def own(empty: StackedMLP, net: StackedMLP) -> StackedMLP:
        empty.load_state_dict({name: value.chunk(count)[index] for name, value in net.state_dict().items()})
        return empty

    spec, none = policy.spec, [torch.Generator()]
    flow, net = own(flow_net(spec, none), policy.flow), own(policy_net(spec, none), policy.net)
    return replace(policy, seeds=(seed,), flow=flow, net=net, critic=own(critic_net(spec, none), policy.critic))


def program(acting: Acting) -> ExportedProgram:
    """The graph of an acting policy; it names no source files of this machine."""
    spec, batch = acting.policy.spec, {0: Dim("batch", min=1)}
    obs = torch.zeros(2, *spec.obs_shape, dtype=torch.uint8 if spec.encoder else torch.float32)
    inputs = obs, torch.zeros(2, acting.best_of * spec.act_dim)
    with torch.no_grad():
        found = torch.export.export(acting, inputs, dynamic_shapes={"obs": batch, "noise": batch})
    for node in found.graph.nodes:
        node.meta.pop("stack_trace", None)
    return found


def pt2_bytes(acting: Acting, record: Mapping[str, Any]) -> bytes:
    """Content of a .pt2 file."""
    file = io.BytesIO()
    torch.export.save(program(acting), file, extra_files={RECORD: json.dumps(record, sort_keys=True)})
    return file.getvalue()


def onnx_bytes(acting: Acting, record: Mapping[str, Any]) -> bytes:
    """Content of an .onnx file.

    Raises:
        FdError: packages of the optional extra `export` are missing.
    """
    if missing := [name for name in ("onnx", "onnxscript") if find_spec(name) is None]:
        raise FdError(
            f"{missing[0]}: is not installed, and ONNX needs it: pip install '.[export]' (without it, .pt2 is possible)"
        )
    graph = program(acting)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it tells of every package that it could use
    with warnings.catch_warnings(action="ignore"):  # of torch about itself
        found = torch.onnx.export(
            graph, input_names=["obs", "noise"], output_names=["action"], dynamo=True, verbose=False,
            dynamic_shapes={"obs": {0: "batch"}, "noise": {0: "batch"}},
        )  # fmt: skip
    assert found is not None
    for node in found.model.graph.all_nodes():
        node.metadata_props.clear()  # lines of source files
    found.model.metadata_props[RECORD] = json.dumps(record, sort_keys=True)
    content: bytes = found.model_proto.SerializeToString(deterministic=True)
    return content


FORMATS = {".onnx": onnx_bytes, ".pt2": pt2_bytes}

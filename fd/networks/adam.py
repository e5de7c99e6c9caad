"""The optimiser of stacked parameters: Adam, with gradient clipping for each seed separately."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from fd.networks.joined import Joined, join, rows
from fd.networks.mlp import StackedMLP


class Optimiser(torch.optim.Adam):
    """Adam (betas .9, .999, eps 1e-8) as a fused kernel, which keeps the members independent.

    Args:
        parts: networks, and single parameters [S, ...], by the names under which their moments are saved.
        learning_rate: of all parts.
        rates: factors on the learning rate of parts; the others have 1.

    Attributes:
        joined: the matrices of all parts, by the names of their moments; after a step, each has its gradient.
        parameters: of all parts.
    """

    def __init__(
        self,
        parts: Mapping[str, StackedMLP | nn.Parameter],
        learning_rate: float,
        rates: Mapping[str, float] | None = None,
    ) -> None:
        self.joined, groups = dict[str, Joined](), defaultdict[float, list[Tensor]](list)
        for name, part in parts.items():
            joined = join([part]) if isinstance(part, nn.Parameter) else part.joined
            self.joined |= {f"{name}.{place}": own for place, own in enumerate(joined)}
            groups[(rates or {}).get(name, 1.0)] += [own.matrix for own in joined]
        self.parameters = [parameter for own in self.joined.values() for parameter in own.parameters]
        of_rates = [{"params": matrices, "lr": rate * learning_rate} for rate, matrices in groups.items()]
        super().__init__(of_rates, learning_rate, fused=True, capturable=self.parameters[0].is_cuda)

    def descend(self, loss: Tensor, *, clip: float) -> Tensor:
        """One step on losses [S]; each seed's gradient is clipped to the global norm `clip` (0: no clipping). Returns the norms [S].

        A parameter that no loss of this step depends on has the gradient zero; Adam still moves it by its momentum.
        """
        seeds = len(loss)
        found = iter(torch.autograd.grad(loss.sum(), self.parameters, materialize_grads=True))
        grads = []
        for matrix, parameters, zeros in self.joined.values():
            matrix.grad = rows([next(found) for _ in parameters], zeros)
            grads.append(matrix.grad.view(seeds, -1))
        norms = torch.stack([vector_norm(grad, dim=1) for grad in grads])
        # A single column is summed in a different order than one of several: see `fd.networks.affine.affine`.
        norm: Tensor = vector_norm(norms.repeat(1, 2) if seeds == 1 else norms, dim=0)[:seeds]
        if clip:
            scale = (clip / (norm + 1e-6)).clamp_max(1).unsqueeze(1)
            for grad in grads:
                grad.mul_(scale)
        self.step()
        return norm

    def moments(self) -> dict[str, Tensor]:
        """The moments and steps of every part, named `<part>.<matrix>.<kind>`."""
        return {
            f"{name}.{kind}": value
            for name, own in self.joined.items()
            for kind, value in self.state[own.matrix].items()
        }

    def load_moments(self, tensors: Mapping[str, Tensor]) -> None:
        """Takes over the moments of its parts from the result of `moments`; parts without any there begin afresh."""
        for name, own in self.joined.items():
            prefix = f"{name}."
            self.state[own.matrix] = {
                key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
            }

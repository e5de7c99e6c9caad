"""The optimiser of stacked parameters: Adam, with gradient clipping for each seed separately."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

LANES = 16  # float32 numbers in the widest vector of a processor, 512 bits


def optimiser(
    parameters: list[nn.Parameter], learning_rate: float, rates: Mapping[nn.Parameter, float] | None = None
) -> torch.optim.Adam:
    """Adam (betas .9, .999, eps 1e-8) of parameters [members, ...], as a fused kernel if that keeps the members independent.

    `rates`: factors on the learning rate of single parameters; the others have 1.

    On a CPU, the fused kernel rounds the last numbers of a tensor, if they do not fill a vector, differently from the others. A seed
    must get the same bits among any other seeds, so parameters with members that do not fill whole vectors (biases of outputs, the
    dual) are stepped by other kernels.
    """
    groups = defaultdict[tuple[float, str], list[nn.Parameter]](list)
    for parameter in parameters:
        kernel = "fused" if parameter.is_cuda or parameter[0].numel() % LANES == 0 else "foreach"
        groups[(rates or {}).get(parameter, 1.0), kernel].append(parameter)
    options = [{"params": of, "lr": rate * learning_rate, kernel: True} for (rate, kernel), of in groups.items()]
    return torch.optim.Adam(options, lr=learning_rate, capturable=parameters[0].is_cuda)


def step(optimiser: torch.optim.Adam, loss: Tensor, parameters: list[nn.Parameter], *, clip: float) -> Tensor:
    """One step on losses [S]; each seed's gradient is clipped to the global norm `clip` (0: no clipping). Returns the norms [S].

    A parameter that no loss of this step depends on has the gradient zero; Adam still moves it by its momentum.
    """
    # Gradients of convolutions come in the memory order of their kernel.
    grads = [g.contiguous() for g in torch.autograd.grad(loss.sum(), parameters, materialize_grads=True)]
    seeds = loss.shape[0]
    norms = torch.stack([vector_norm(g.view(seeds, -1), dim=1) for g in grads])
    # A single column is summed in a different order than one of several: see `fd.networks.affine.affine`.
    norm: Tensor = vector_norm(norms.repeat(1, 2) if seeds == 1 else norms, dim=0)[:seeds]
    if clip:
        scale = (clip / (norm + 1e-6)).clamp_max(1)
        for g in grads:
            g.view(seeds, -1).mul_(scale.unsqueeze(1))
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    optimiser.step()
    return norm

"""The optimiser of stacked parameters: Adam, and clipping that treats every seed by itself."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm


def optimiser(parameters: list[nn.Parameter], learning_rate: float) -> torch.optim.Adam:
    """Adam (betas .9, .999, eps 1e-8) as one fused kernel over the stacked parameters."""
    return torch.optim.Adam(parameters, lr=learning_rate, fused=True, capturable=parameters[0].is_cuda)


def step(optimiser: torch.optim.Adam, loss: Tensor, parameters: list[nn.Parameter], *, clip: float) -> Tensor:
    """One step on losses [S]; each seed's gradient is clipped to the global norm `clip` (0: not). Returns the norms [S].

    A parameter that no loss of this step depends on has the gradient zero; Adam moves it on by its momentum.
    """
    # Those of convolutions come in whatever order of memory their kernel wrote.
    grads = [g.contiguous() for g in torch.autograd.grad(loss.sum(), parameters, materialize_grads=True)]
    seeds = loss.shape[0]
    norm: Tensor = vector_norm(torch.stack([vector_norm(g.view(seeds, -1), dim=1) for g in grads]), dim=0)
    if clip:
        scale = (clip / (norm + 1e-6)).clamp_max(1)
        grads = [(g.view(seeds, -1) * scale.unsqueeze(1)).view_as(g) for g in grads]
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    optimiser.step()
    return norm

"""Parameters joined in memory, so that a norm, a step of Adam or a move towards them is a single operation on all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

LANES = 16  # float32 numbers in the widest vector of a processor, 512 bits


class Joined(NamedTuple):
    """Parameters [members, ...] that are views of one matrix.

    On a CPU, a kernel rounds the last numbers of a tensor, if they do not fill a vector, differently from the others. A seed must get
    the same bits among any other seeds. So every parameter begins at a multiple of LANES numbers, and zeros fill the gaps.

    Attributes:
        matrix: [members, P]; P is a multiple of LANES.
        parameters: the views, in this order.
        zeros: [members, LANES].
    """

    matrix: Tensor
    parameters: list[nn.Parameter]
    zeros: Tensor


def join(parameters: Iterable[nn.Parameter]) -> list[Joined]:
    """Moves parameters [members, ...] into matrices, one for each number of members; every parameter becomes a view."""
    by_members = defaultdict[int, list[nn.Parameter]](list)
    for parameter in parameters:
        by_members[len(parameter)].append(parameter)
    return [_join(own) for own in by_members.values()]


def _join(parameters: list[nn.Parameter]) -> Joined:
    zeros = parameters[0].detach().new_zeros(len(parameters[0]), LANES)
    matrix, at = rows([parameter.detach() for parameter in parameters], zeros), 0
    for parameter in parameters:
        size = parameter[0].numel()
        parameter.data = matrix[:, at : at + size].view(parameter.shape)
        at += size + -size % LANES
    return Joined(matrix, parameters, zeros)


def rows(tensors: Iterable[Tensor], zeros: Tensor) -> Tensor:
    """Tensors [members, ...] in the layout of a matrix of `Joined`, by one copy."""
    parts = []
    for tensor in tensors:
        parts.append(tensor.reshape(len(tensor), -1))
        if gap := -parts[-1].shape[1] % LANES:
            parts.append(zeros[:, :gap])
    return torch.cat(parts, dim=1)

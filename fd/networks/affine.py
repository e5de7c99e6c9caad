"""The affine map of a layer, for all members of a stack at once."""

import torch
from torch import Tensor
from torch.nn.functional import pad

# With fewer rows or columns, a product of a single matrix was seen to differ from the same product in a stack (AMD EPYC, torch 2.13).
NARROW = 16


def affine(shift: Tensor, x: Tensor, weight: Tensor, *, scale: float = 1.0) -> Tensor:
    """shift + scale * (x @ weight) of every member: [M, B, O] for shift [1 or M, 1 or B, 1 or O], x [M, B, I] and weight [M, I, O].

    On a CPU, products with few columns run at a fraction of the usual rate, so narrow weights get columns of zeros, whose results are
    dropped. And torch multiplies a single narrow matrix by a different routine than a stack, in parts that depend on the number of
    threads. It is therefore computed as a stack of two, so that a seed alone gets the same bits as among others; with a batch below 16,
    this doubles the time of every layer. Compiled code fuses the sum into the operation that reads it.
    """
    width = weight.shape[2]
    if x.device.type == "cpu" and width < NARROW:
        columns = (0, NARROW - width)
        shift = pad(shift, columns) if shift.shape[2] > 1 else shift
        return affine(shift, x, pad(weight, columns), scale=scale)[..., :width]
    if torch.compiler.is_compiling():
        return shift + scale * (x @ weight)
    if len(x) == 1 and x.device.type == "cpu" and min(x.shape[1:]) < NARROW:
        shift, x, weight = (tensor.expand(2, -1, -1) for tensor in (shift, x, weight))
        return torch.baddbmm(shift, x, weight, alpha=scale)[:1]
    return torch.baddbmm(shift, x, weight, alpha=scale)

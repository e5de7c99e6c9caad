"""The affine map of a layer, of all members of a stack at once."""

import torch
from torch import Tensor

# Rows or columns of a matrix below which a product of it alone was seen to differ from one in a stack (AMD EPYC, torch 2.13).
NARROW = 16


def affine(shift: Tensor, x: Tensor, weight: Tensor, *, scale: float = 1.0) -> Tensor:
    """shift + scale * (x @ weight) of every member: [M, B, O] for shift [M, 1 or B, O], x [M, B, I] and weight [M, I, O].

    On a CPU, a single matrix that is narrow is multiplied by another routine than one of a stack, and in parts that depend on
    the number of threads. It is computed as one of two, then, so that a seed alone gets the bits that it gets among others;
    with a batch below 16 that is every layer, at twice its time. A compiled sum is made where its result is read.
    """
    if torch.compiler.is_compiling():
        return shift + scale * (x @ weight)
    if len(x) == 1 and x.device.type == "cpu" and min(*x.shape[1:], weight.shape[2]) < NARROW:
        shift, x, weight = (tensor.expand(2, -1, -1) for tensor in (shift, x, weight))
        return torch.baddbmm(shift, x, weight, alpha=scale)[:1]
    return torch.baddbmm(shift, x, weight, alpha=scale)

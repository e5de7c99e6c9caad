"""Watches operations on tensors of a GPU that computes nothing: counts launches, refuses what an update may not do."""

from __future__ import annotations

from typing import Any

import torch
from tape import name_of, reads, tensors
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations beside views that only allocate or describe memory, so that the GPU has nothing to do.
FREE = {
    "_reshape_alias", "_unsafe_view", "detach", "empty", "empty_like", "empty_strided", "lift_fresh", "new_empty",
    "new_empty_strided",
}  # fmt: skip


class Fault(Exception):
    """An operation that a GPU cannot do, or an update may not."""


class Watch(TorchDispatchMode):
    """Refuses faults of the operations within, backward passes too; torch itself refuses tensors of two devices.

    A generator draws numbers for its own device only. In an update, the CPU reads no number, no number is drawn and no
    tensor stands on the CPU. Elsewhere, a number that is read is 1, or true, because nothing is computed.

    Args:
        update: whether an update is watched.

    Attributes:
        launches: operations that the GPU would start, one by one.
    """

    def __init__(self, *, update: bool) -> None:
        super().__init__()
        self._update, self.launches = update, 0

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self._update and name_of(func) == "_local_scalar_dense":
            return True
        if self._update and reads(func, args):
            raise Fault(f"{func}: the CPU waits for a number")
        if self._update and torch.Tag.nondeterministic_seeded in func.tags:
            raise Fault(f"{func}: numbers are drawn")
        result = func(*args, **kwargs)
        made, given = tensors(result), tree_leaves((args, kwargs))
        if self._update and any(tensor.device.type == "cpu" for tensor in [*tensors(given), *made]):
            raise Fault(f"{func}: a tensor stands on the CPU")
        for generator in (value for value in given if isinstance(value, torch.Generator)):
            if any(tensor.device.type != generator.device.type for tensor in made):
                raise Fault(f"{func}: a generator of another device")
        if func.namespace == "aten" and not func.is_view and name_of(func) not in FREE:
            self.launches += 1
        return result

"""CUDA graphs on a CPU, as tapes: the operations of a recording, played again on the same memory without Python.

A tape keeps what a graph promises. What Python decides or counts is fixed when it is recorded; results stand in the
same memory at every replay; what is recorded is not executed. It refuses to read a number, as a GPU does during a
recording, and to draw one, which at a replay would not come from the streams of the seeds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, UntypedStorage
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Operations of which the host reads a number: the result, its shape, or whether a decomposition succeeded.
READING = {
    "_linalg_eigh", "_local_scalar_dense", "_unique2", "bincount", "equal", "is_nonzero", "masked_select", "nonzero",
    "repeat_interleave", "unique_dim",
}  # fmt: skip


def name_of(func: OpOverload) -> str:
    """Name of an operation without namespace and overload, such as `index`."""
    return str(func._schema.name).split("::")[1]


def tensors(values: Any) -> list[Tensor]:
    """The tensors in a nest of values."""
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


def reads(func: OpOverload, args: tuple[Any, ...]) -> bool:
    """Whether the host waits for a number; to index by a mask is to count its ones."""
    name = name_of(func)
    masks = tensors(args[1:2]) if name in ("index", "index_put", "index_put_", "_index_put_impl_") else []
    return name in READING or any(mask.dtype in (torch.bool, torch.uint8) for mask in masks)


def written(func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The arguments that an operation writes to."""
    parameters = func._schema.arguments
    given = dict(zip((parameter.name for parameter in parameters), args, strict=False)) | kwargs
    names = [parameter.name for parameter in parameters if parameter.alias_info and parameter.alias_info.is_write]
    return tensors([given[name] for name in names if name in given])


class CUDAGraph(TorchDispatchMode):
    """In place of `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        super().__init__()
        # Operation, arguments, results, and which of the results have memory of their own.
        self._played: list[tuple[OpOverload, tuple[Any, ...], dict[str, Any], list[Tensor], list[bool]]] = []
        self._before: dict[int, tuple[UntypedStorage, UntypedStorage]] = {}  # by address: memory and what it held
        self._own: set[int] = set()  # addresses of memory that the recording allocated

    def __torch_dispatch__(
        self, func: OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if reads(func, args):
            raise RuntimeError(f"{func} reads a number while a graph is recorded")
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise RuntimeError(f"{func} draws a number while a graph is recorded")
        writes = written(func, args, kwargs)
        for tensor in writes:
            if _address(tensor) not in self._own | self._before.keys():
                memory = tensor.untyped_storage()
                self._before[_address(tensor)] = memory, memory.clone()
        result = func(*args, **kwargs)
        results, given = tensors(result), {_address(tensor) for tensor in tensors((args, kwargs))}
        fresh = [_address(tensor) not in given for tensor in results]
        if writes or any(fresh):  # else only another view of memory
            self._own |= {_address(tensor) for tensor, new in zip(results, fresh, strict=True) if new}
            self._played.append((func, args, kwargs, results, fresh))
        return result

    def restore(self) -> None:
        """Undo what the recording wrote."""
        for memory, content in self._before.values():
            memory.copy_(content)
        self._before.clear()

    @torch.no_grad()
    def replay(self) -> None:
        """Execute the operations; results go to the memory of the recording."""
        for func, args, kwargs, results, fresh in self._played:
            for result, again, new in zip(results, tensors(func(*args, **kwargs)), fresh, strict=True):
                if new:
                    result.copy_(again)


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class Stream:
    """In place of `torch.cuda.Stream`: on a CPU everything runs in order."""

    def wait_stream(self, other: Stream) -> None:
        """Wait for nothing."""


@contextlib.contextmanager
def graph(recorded: CUDAGraph, *, stream: Stream) -> Iterator[None]:
    """In place of `torch.cuda.graph`."""
    with recorded:
        yield
    recorded.restore()


def install(patch: pytest.MonkeyPatch) -> None:
    """Put tapes in place of CUDA graphs."""
    patch.setattr(torch.cuda, "CUDAGraph", CUDAGraph)
    patch.setattr(torch.cuda, "graph", graph)
    patch.setattr(torch.cuda, "Stream", Stream)
    patch.setattr(torch.cuda, "current_stream", Stream)
    patch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())

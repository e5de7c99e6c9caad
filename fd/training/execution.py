"""How an update is executed: as it is written, compiled, or as a CUDA graph.

A graph is recorded once and then launched as a whole, without the CPU's work for each of its kernels.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fd.errors import FdError

# (phase, random numbers) -> metrics. Phases are updates that differ in what they do; the CPU must not look at a number in any.
Update = Callable[[int, list[Tensor]], dict[str, Tensor]]

WARM_UP = 3  # updates of a phase before it is recorded, in which libraries and the optimiser allocate what they keep


def executed(update: Update, module: nn.Module, execution: str) -> Update:
    """The update in one of the ways that `execution` names; where it is compiled, its calls of `module` are."""
    if execution.startswith("compiled"):
        module.compile(dynamic=False)
    return Recorded(update) if execution.endswith("graph") else update


class Recorded:
    """An update that is called as it is at first and then replayed, one graph a phase.

    The metrics of a replay stand in the same memory as those of the one before.
    """

    def __init__(self, update: Update) -> None:
        self._update = update
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._calls: Counter[int] = Counter()
        self._graphs: dict[int, tuple[torch.cuda.CUDAGraph, list[Tensor], dict[str, Tensor]]] = {}

    def __call__(self, phase: int, numbers: list[Tensor]) -> dict[str, Tensor]:
        """The metrics of the next update."""
        self._calls[phase] += 1
        if self._calls[phase] <= WARM_UP:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                metrics = self._update(phase, numbers)
            torch.cuda.current_stream().wait_stream(self._stream)
            return metrics
        if phase not in self._graphs:
            graph, inputs = torch.cuda.CUDAGraph(), [number.clone() for number in numbers]
            with torch.cuda.graph(graph, stream=self._stream):
                metrics = self._update(phase, inputs)  # recorded, not executed
            self._graphs[phase] = graph, inputs, metrics
        graph, inputs, metrics = self._graphs[phase]
        for recorded, number in zip(inputs, numbers, strict=True):
            recorded.copy_(number)
        graph.replay()
        return metrics


def execution(choice: str, device: torch.device) -> str:
    """How updates run: `eager`; `compiled` by torch.compile; as a CUDA `graph`; or `compiled-graph`, both.

    Args:
        choice: one of these, or `auto`: `graph` on a GPU, `eager` on the CPU.
        device: on which they run.

    Raises:
        FdError: the device or the machine cannot.
    """
    if choice == "auto":
        return "graph" if device.type == "cuda" else "eager"
    if choice.endswith("graph") and device.type != "cuda":
        raise FdError(f"compute.execution: {choice!r} needs a GPU (allowed on the CPU: auto, eager, compiled)")
    names = [os.environ.get("CXX", "g++")] if device.type == "cpu" else [os.environ.get("CC", "gcc"), "clang"]
    if choice.startswith("compiled") and not any(map(shutil.which, names)):
        others = "auto, eager" if device.type == "cpu" else "auto, eager, graph"
        raise FdError(
            f"compute.execution: {choice!r} needs a compiler, {' or '.join(names)}, none is there (allowed: {others})"
        )
    return choice

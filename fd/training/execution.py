"""How an update is executed: as written, compiled, or as a CUDA graph.

A graph is recorded once and then launched as a whole, so the CPU does not launch each kernel.
"""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from fd.errors import FdError, one_line
from fd.networks.impala import ImpalaEncoder

# (phase, random numbers) -> metrics. Phases differ in their operations; no phase may read a number of a GPU on the CPU.
Update = Callable[[int, list[Tensor]], dict[str, Tensor]]

WARM_UP = 3  # updates of a phase before it is recorded; meanwhile libraries and the optimiser allocate lasting memory


def executed(update: Update, module: nn.Module, execution: str, label: str) -> Update:
    """The update, executed as `execution` says; compiling it means compiling its calls of `module`, within the first updates.

    `label`: of the run, in what is said meanwhile.
    """
    if execution.startswith("compiled"):
        print(f"{label}: compiling, a minute the first time", file=sys.stderr, flush=True)
        module.compile(
            dynamic=False, options=options(images=any(isinstance(x, ImpalaEncoder) for x in module.modules()))
        )
    return Recorded(update) if execution.endswith("graph") else update


def options(*, images: bool) -> dict[str, bool]:
    """Of the compiler, for fewer launches on a GPU; without effect on a CPU. Sums over the pixels of a batch are too long for one."""
    return {"combo_kernels": True, "split_reductions": images}


class Recorded:
    """An update that is called normally at first and then replayed, one graph per phase.

    The metrics of a replay overwrite those of the previous replay.
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
        choice: one of these, or `auto`: on the CPU `eager`; on a GPU `compiled-graph`, or `graph` and a line that says why torch cannot
            compile for it.
        device: on which they run.

    Raises:
        FdError: the device or the machine does not support it.
    """
    if choice == "auto":
        if device.type == "cpu":
            return "eager"
        try:
            torch.compile(torch.nn.functional.gelu)(torch.ones(16, device=device))
        except Exception as error:  # noqa: BLE001 - whatever the compiler, Triton or the driver raises
            print(f"compute.execution: graph, because torch cannot compile here: {one_line(error)}", file=sys.stderr)
            return "graph"
        return "compiled-graph"
    if choice.endswith("graph") and device.type != "cuda":
        raise FdError(f"compute.execution: {choice!r} needs a GPU (allowed on the CPU: auto, eager, compiled)")
    names = [os.environ.get("CXX", "g++")] if device.type == "cpu" else [os.environ.get("CC", "gcc"), "clang"]
    others = "auto, eager" if device.type == "cpu" else "auto, eager, graph"
    if choice.startswith("compiled") and not any(map(shutil.which, names)):
        raise FdError(
            f"compute.execution: {choice!r} needs a compiler, {' or '.join(names)}, and none is installed (allowed: {others})"
        )
    headers = [sysconfig.get_path("include"), *os.environ.get("CPATH", "").split(os.pathsep)]
    if choice.startswith("compiled") and not any(Path(folder, "Python.h").exists() for folder in headers):
        raise FdError(
            f"compute.execution: {choice!r} needs Python's headers, and {headers[0]}/Python.h does not exist; Debian and Ubuntu"
            f" have them in python3-dev (allowed: {others})"
        )
    return choice

"""Section `compute` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from fd.method.bounds import Within
from fd.settings.fields import Strict


class Compute(Strict):
    """How the machine is used; results do not depend on it beyond rounding, so no stage depends on it."""

    device: Literal["auto", "cpu", "cuda"]
    execution: Literal["auto", "eager", "compiled", "graph", "compiled-graph"]  # of a training step
    tf32: bool  # on a GPU: matrix products with ten bits of mantissa
    deterministic: bool  # on a GPU: the same bytes from run to run; on the CPU always
    threads: Annotated[int, Within(ge=1, le=1024)]
    workers: Annotated[int, Within(ge=1, le=1024)]  # simulator processes

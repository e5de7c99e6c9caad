"""Compares our update of `fidec-official` with the same update in JAX: `python -m benchmarks.yardstick` writes a JSON file and a page.

The update in JAX is written here from the equations of arXiv 2604.17919 and 2502.02538, for one seed, as one compiled function; it needs
the optional extra `yardstick` (`pip install -e '.[yardstick]'`). It has the sizes of `benchmarks.step`: batches of 256, the shapes of
OGBench's cube-single, ten Euler steps, K = 8 scores of a state, a flow that is trained along. Both draw their random numbers within the
time. They take turns in one process, round by round, so that a ratio belongs to one moment of the machine.
"""

from __future__ import annotations

import stages  # noqa: F401 - it sets variables that torch reads when it is loaded

# isort: split
import os
import statistics
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.step import (
    BATCH,
    ROOT,
    Case,
    Stock,
    Variant,
    json_text,
    machine,
    prepare_compiler,
    quartiles,
    rounded,
    slug,
    spec_of,
    spread,
    timed,
)
from fd.errors import FdError
from fd.report.markdown import markdown_table
from fd.runtime.command_line import main
from fd.runtime.device import select_device
from fd.storage.files import write_text

METHOD, REGIME = "fidec-official", "joint"
OURS = (
    Case(METHOD, REGIME, 1, "", "eager"),
    Case(METHOD, REGIME, 1, "", "compiled"),
    Case("fidec", "bank", 1, "", "compiled"),
)
app = typer.Typer(add_completion=False)


@app.command()
def command(
    net: Annotated[str, typer.Option(help="Net, depth x width.")] = "4x512",
    rounds: Annotated[int, typer.Option(min=2, help="Turns of each update.")] = 10,
    seconds: Annotated[float, typer.Option(help="Least duration of a turn.")] = 1.0,
    threads: Annotated[int, typer.Option(help="Threads of torch and of JAX.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Output path without .json and .md.", show_default=False)] = None,
) -> None:
    """Measure both updates in turn; by default writes benchmarks/results/<processor>.yardstick.json and .md."""
    os.environ["XLA_FLAGS"] = (
        f"--xla_cpu_multi_thread_eigen={str(threads > 1).lower()} intra_op_parallelism_threads={threads}"
    )
    try:
        from benchmarks.jax_update import JaxUpdate
    except ModuleNotFoundError as error:
        raise FdError(f"{error.name}: no such module; this benchmark needs `pip install -e '.[yardstick]'`") from None
    device = select_device("cpu", threads)
    prepare_compiler()
    stock, spec = Stock(20_000, 1, device), spec_of(METHOD, REGIME, net)
    update = JaxUpdate(spec, stock.replay, BATCH)
    update.steps(3)  # compiled now
    turns: dict[str, Callable[[], float]] = {"JAX": lambda: 1000 * timed(update.steps, seconds, device)}
    for case in OURS:
        variant = Variant(replace(case, net=net), stock, None)
        turns[f"{case.method}, {case.execution}"] = partial(variant.turn, seconds)
    found: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds):
        for name in list(turns) if number % 2 == 0 else reversed(turns):
            found[name].append(turns[name]())
    result = rounded({
        "machine": machine(device), "net": net, "threads": threads, "rounds": rounds, "versions": update.versions(), "ms": found,
    })  # fmt: skip
    place = out or ROOT / "benchmarks" / "results" / f"{slug(result['machine']['processor'])}.yardstick"
    write_text(place.with_name(f"{place.name}.json"), json_text(result))
    write_text(place.with_name(f"{place.name}.md"), page(result))


def page(result: dict[str, Any]) -> str:
    """Return the page: time of a step, and its ratio to JAX's step of the same round."""
    rows = []
    for name, times in result["ms"].items():
        ratios = [own / jax for own, jax in zip(times, result["ms"]["JAX"], strict=True)]
        rows.append([name, *(spread(statistics.median(numbers), quartiles(numbers)) for numbers in (times, ratios))])
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    parts = [
        f"# Our update beside JAX's on {result['machine']['processor']}",
        f"`python -m benchmarks.yardstick`: {result['net']}, batches of {BATCH}, one seed, {result['threads']} threads,"
        + f" {result['rounds']} rounds in turn. Medians, in brackets quartiles. {versions}.",
        markdown_table(["update", "ms", "ratio to JAX's `fidec-official`"], rows, "lrr"),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    main(app)

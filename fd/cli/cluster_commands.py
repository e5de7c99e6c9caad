"""Commands `fidec cluster`: make the cells of the suite in use on Slurm or Ray; docs/cluster.md."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fd.errors import FdError
from fd.runtime.command_line import ParamsOption
from fd.storage.locks import locked

if TYPE_CHECKING:  # DVC takes a second to load, which `fidec --help` can do without
    from fd.cluster.resources import Resources
    from fd.cluster.submission import Submission

Globs = Annotated[
    list[str] | None, typer.Argument(help="Cells, such as 'refine@*-fidec', and all that they need; default: all.")
]
File = Annotated[Path, typer.Option("--resources", help="Resources of a cell by the kind of its stage.")]
ROOT = Path()
app = typer.Typer(no_args_is_help=True, help="Make the cells of the suite in use on Slurm or Ray; docs/cluster.md.")


@app.command("slurm")
def slurm_command(globs: Globs = None, resources: File = Path("cluster.yaml")) -> None:
    """Queue the cells that are not done as jobs of Slurm, each after those that it needs."""
    from fd.cluster import slurm

    with _submitting(globs, resources, None) as (submission, missing, needed):
        queued = slurm.submit(submission, missing, needed)
    typer.echo(f"{queued} jobs queued; fidec cluster status")


@app.command("ray")
def ray_command(
    globs: Globs = None,
    resources: File = Path("cluster.yaml"),
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; default: this machine alone, on loopback.")
    ] = None,
    remote: Annotated[str | None, typer.Option(help="DVC remote of nodes without a shared file system.")] = None,
    place: Annotated[
        str, typer.Option("--node-folder", help="With --remote: folder on a node for its work.")
    ] = "~/.fidec",
) -> None:
    """Make the cells that are not done as tasks of Ray, and wait for them; fails if one of them fails."""
    from fd.cluster import ray_engine

    with ExitStack() as only:
        submission, missing, needed = only.enter_context(_submitting(globs, resources, remote))
        if remote is None:  # the locks of the cells keep two such commands apart
            only.close()
        failed = (
            ray_engine.submit(submission, missing, needed, address=address, place=place, tell=typer.echo)
            if missing
            else []
        )
    if failed:
        raise FdError(f"{len(failed)} of {len(missing)} cells failed or were skipped; fidec cluster status")
    typer.echo("all done; fidec cluster collect")


@app.command("status")
def status_command() -> None:
    """Show how many cells of the latest submission are done, run, wait or failed; fails if one failed."""
    from fd.cluster import progress_table, slurm

    submission = _latest()
    jobs = slurm.alive(submission) if slurm.jobs_file(submission).exists() else None
    found = progress_table.progress(submission, jobs)
    for line in progress_table.lines(submission, found):
        typer.echo(line)
    if "failed" in found.values():
        raise typer.Exit(1)


@app.command("collect")
def collect_command() -> None:
    """Write what the workers recorded to dvc.lock and bring the outputs into the project; fails if cells are missing."""
    from fd.cluster import pipeline, submission

    made = submission.all_of(ROOT)
    remote = _latest().remote
    found = pipeline.read_pipeline(ROOT, recorded=[each.entries() for each in made], cached=remote is None)
    pipeline.merge(ROOT, found.done, remote)
    typer.echo(f"{len(found.done)} of {len(found.cells)} cells collected; dvc repro")
    if len(found.done) < len(found.cells):
        raise typer.Exit(1)


@app.command("plan")
def plan_command(
    gpus: Annotated[float, typer.Option(min=0.25, max=1e5, help="Number of GPUs.")],
    globs: Globs = None,
    cores: Annotated[int | None, typer.Option(min=1, max=10**7, help="Number of cores; default: 8 a GPU.")] = None,
    step: Annotated[
        float,
        typer.Option(
            min=0.0,
            max=1e6,
            help="Milliseconds of a step of refinement on a GPU, where no cell was measured; docs/speed.md.",
        ),
    ] = 0.4,
    resources: File = Path("cluster.yaml"),
    params_file: ParamsOption = Path("params.yaml"),
) -> None:
    """Estimate how long all cells take on some GPUs, from the times of cells that ran, or else from their training steps."""
    from fd.cluster import makespan, pipeline, submission
    from fd.cluster.resources import read_resources
    from fd.settings.settings_file import read_settings

    found = pipeline.read_pipeline(ROOT, globs or (), cached=False)
    needed, cores = read_resources(resources, found.kinds), cores or math.ceil(8 * gpus)
    for kind, each in needed.items():
        if each.gpus > gpus or each.cores > cores:
            raise FdError(
                f"{resources}: {kind}: {each.gpus:g} GPUs, {each.cores} cores, allowed: up to {gpus:g} and {cores}"
            )
    ran = makespan.measured(submission.all_of(ROOT))
    times = makespan.times(found.cells, ran, read_settings(params_file), needed, step / 1000)
    seconds = {name: time.seconds for name, time in times.items()}
    total = makespan.estimate(found.cells, seconds, needed, gpus=gpus, cores=cores)
    for line in makespan.lines(found.cells, times, total, gpus, cores):
        typer.echo(line)


def _latest() -> Submission:
    from fd.cluster import submission

    made = submission.all_of(ROOT)
    if not made:
        raise FdError(
            f"{submission.FOLDER}: no cells were submitted yet, allowed: fidec cluster slurm, fidec cluster ray"
        )
    return made[0]


@contextmanager
def _submitting(
    globs: list[str] | None, file: Path, remote: str | None
) -> Iterator[tuple[Submission, list[str], dict[str, Resources]]]:
    """A submission, its cells that are not done, and the resources by kind; within, no other is prepared."""
    from fd.cluster import pipeline, submission
    from fd.cluster.resources import read_resources

    (folder := ROOT / submission.FOLDER).mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock"):
        recorded = [made.entries() for made in submission.all_of(ROOT)]
        found = pipeline.read_pipeline(ROOT, globs or (), recorded, renew=True, cached=remote is None)
        needed = read_resources(file, found.kinds)
        made = submission.prepare(ROOT, found, {kind: each.retries for kind, each in needed.items()}, remote)
        missing = [name for name in found.cells if name not in found.done]
        made.forget(missing, recorded)
        typer.echo(f"{len(missing)} of {len(found.cells)} cells to make, snapshot {made.folder.name}")
        yield made, missing, needed

"""Stage `geometry`: data/<task>, behaviour/<task> -> geometry/<task>.json: the shape of the pretrained flow, before any policy is trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from torch import Tensor

from fd.datasets.validation import validation_episodes
from fd.errors import FdError
from fd.runtime.command_line import BehaviourOption, DataOption, GeometryOption, ParamsOption, TaskOption, main
from fd.runtime.device import select_device, tell_device
from fd.runtime.progress import Progress
from fd.settings.geometry_settings import Geometry
from fd.settings.machine_settings import Compute
from fd.settings.settings_file import read_settings
from fd.settings.training_settings import Network
from fd.storage import scratch
from fd.storage.files import digest, write_record
from fd.storage.tensors import FLOW, load_net
from fd.storage.transitions import load_transitions, read_manifest
from fd.training.flow_geometry import Sample, conditions_of, curve_of, loss_of, means_of, shape_of
from fd.training.replay import Replay
from stages.cell import pretrained, untrained_flow

app = typer.Typer(add_completion=False)


@app.command()
def command(
    task: TaskOption,
    params_file: ParamsOption = Path("params.yaml"),
    data: DataOption = Path("data"),
    behaviour: BehaviourOption = Path("behaviour"),
    out: GeometryOption = Path("geometry"),
) -> None:
    """Measure the behaviour flow of a task: widths and condition numbers, modes, and its loss over the training; writes geometry/<task>.json."""
    settings = read_settings(params_file)
    compute, seeds = settings.part(Compute, "compute"), settings.seeds
    sample = Sample(**settings.part(Geometry, "geometry").model_dump())
    network = settings.section(Network, "network", task)
    device = select_device(compute.device, compute.threads, deterministic=compute.deterministic)
    arrays, manifest = load_transitions(data / task), read_manifest(data / task)
    flow = untrained_flow(network, manifest, seeds, f"tasks.{task}").to(device)
    replay = Replay.of(arrays, device, frame_stack=network.frame_stack)
    unseen = validation_episodes(data / task, manifest)
    judged = Replay.of(unseen, device, frame_stack=network.frame_stack) if unseen else replay
    last = behaviour / task / FLOW
    files = [*sorted((behaviour / task).glob("flow_*.safetensors")), last]
    steps, losses, conditions = list[int](), list[Tensor](), list[dict[str, list[float]]]()
    tell_device(f"geometry {task}", device)
    with scratch.claimed("geometry", task), Progress(len(files), f"geometry {task}", unit="flows") as progress:
        for file in files:
            weights, record = pretrained(file, data / task, seeds, device)
            load_net(flow, weights, "flow.", file)
            steps.append(int(record["steps"]))
            losses.append(finite(loss_of(flow, judged), seeds, file))
            conditions.append(conditions_of(flow, replay, sample))
            progress.advance(1)
        origin = {"task": task, "seeds": seeds, "data_sha256": manifest.sha256, "flow_sha256": digest(last)}
        loss = {"unseen": unseen is not None, "data": means_of(loss_of(flow, replay))}
        loss |= curve_of(losses, steps)
        made = {"sample": vars(sample), "steps": steps, "loss": loss, "conditions": conditions}
        write_record(out / f"{task}.json", origin | made | shape_of(flow, replay, sample))


def finite(losses: Tensor, seeds: Sequence[int], file: Path) -> Tensor:
    """The losses of every seed, [S, ...]; FdError, which names the file of the flow, if one is NaN or infinite."""
    for seed, loss in zip(seeds, losses, strict=True):
        if not loss.isfinite().all():
            raise FdError(f"{file}: the loss of seed {seed} is NaN or infinite, allowed: finite numbers")
    return losses


if __name__ == "__main__":
    main(app)

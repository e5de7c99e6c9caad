"""Stage `pretrain`: data/<task> -> behaviour/<task>: the behaviour flows of all seeds, trained once for all methods."""

from __future__ import annotations

import time
from pathlib import Path

import typer

from fd import params
from fd.networks.mlp import observing
from fd.runtime import memory
from fd.storage import run_record, scratch, transitions
from fd.storage.tensors import FLOW, write_tensors
from fd.training.checkpoint import Checkpoint
from fd.training.flow_training import pretrain
from fd.training.loop import Schedule
from fd.training.random_streams import generator
from fd.training.replay import Replay
from stages.command import BehaviourOption, DataOption, ParamsOption, TaskOption, main
from stages.training import machine

app = typer.Typer(add_completion=False)


@app.command()
def command(
    task: TaskOption,
    params_file: ParamsOption = Path("params.yaml"),
    data: DataOption = Path("data"),
    out: BehaviourOption = Path("behaviour"),
) -> None:
    """Train the behaviour flow of every seed on data/<task> by flow matching; writes behaviour/<task>."""
    settings, seeds = (values := params.load(params_file)).settings(task), values.seeds
    network, place = settings.network, f"tasks.{task}"
    on = machine(values.compute, network, seeds=len(seeds), batch_size=settings.pretrain.batch_size, place=place)
    arrays, manifest = transitions.load(data / task), transitions.read_manifest(data / task)
    sections = [settings.network.model_dump(), settings.pretrain.model_dump()]
    parts = [manifest.sha256, seeds, sections, *on.numerics]
    with scratch.claimed("pretrain", task):
        work = scratch.folder("pretrain", task, parts)
        streams = [generator(seed, "weights", 0) for seed in seeds]
        flow = observing(
            network.observed(manifest.obs_shape, place), network.encoder, network.hidden,
            generators=streams, inputs=manifest.act_dim + 1, outputs=manifest.act_dim,
        ).to(on.device)  # fmt: skip
        built, start = work / "out", time.monotonic()
        schedule = Schedule(
            settings.pretrain.steps,
            settings.pretrain.batch_size,
            settings.pretrain.log_every,
            settings.pretrain.log_every,
        )
        replay, label = Replay.of(arrays, on.device, frame_stack=network.frame_stack), f"pretrain {task}"
        with memory.told(label, seeds=len(seeds), fixed=replay.nbytes):
            pretrain(
                flow, replay, schedule, seeds=seeds, learning_rate=settings.pretrain.learning_rate,
                checkpoint=Checkpoint(work, built, lambda step: None), label=label, execution=on.execution,
                augmentation=network.augmentation,
            )  # fmt: skip
        record = {"task": task, "seeds": seeds, "steps": schedule.steps, "data_sha256": manifest.sha256}
        write_tensors(built / FLOW, {f"flow.{name}": value for name, value in flow.state_dict().items()}, record)
        run_record.write(out / f"{task}.json", record, output=built, start=start)
        scratch.publish(built, out / task, work)


if __name__ == "__main__":
    main(app)

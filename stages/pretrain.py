"""Stage `pretrain`: data/<task> -> behaviour/<task>: the behaviour flows of all seeds, trained once for all methods."""

from __future__ import annotations

from pathlib import Path

import typer

from fd.networks.mlp import observing
from fd.runtime import memory
from fd.runtime.command_line import BehaviourOption, DataOption, ParamsOption, TaskOption, main
from fd.settings.machine_settings import Compute
from fd.settings.settings_file import read_settings
from fd.settings.training_settings import Network, Pretrain
from fd.storage.tensors import FLOW, write_tensors
from fd.storage.transitions import load_transitions, read_manifest
from fd.training.checkpoint import Checkpoint
from fd.training.flow_training import pretrain
from fd.training.loop import Run, Schedule
from fd.training.random_streams import generator
from fd.training.replay import Replay
from stages.cell import machine, making

app = typer.Typer(add_completion=False)


@app.command()
def command(
    task: TaskOption,
    params_file: ParamsOption = Path("params.yaml"),
    data: DataOption = Path("data"),
    out: BehaviourOption = Path("behaviour"),
) -> None:
    """Train the behaviour flow of every seed on data/<task> by flow matching; writes behaviour/<task>."""
    settings = read_settings(params_file)
    network, section = settings.section(Network, "network", task), settings.section(Pretrain, "pretrain", task)
    seeds, place = settings.seeds, f"tasks.{task}"
    on = machine(
        settings.part(Compute, "compute"), network, seeds=len(seeds), batch_size=section.batch_size, place=place
    )
    arrays, manifest = load_transitions(data / task), read_manifest(data / task)
    depends = [manifest.sha256, seeds, network.model_dump(), section.model_dump(), *on.numerics]
    with making("pretrain", task, out / task, depends) as cell:
        flow = observing(
            network.observed(manifest.obs_shape, place), network.encoder, network.hidden,
            generators=[generator(seed, "weights", 0) for seed in seeds],
            inputs=manifest.act_dim + 1, outputs=manifest.act_dim,
        ).to(on.device)  # fmt: skip
        schedule = Schedule(section.steps, section.batch_size, section.log_every, save_every=section.log_every)
        checkpoint = Checkpoint(cell.work, cell.built, lambda step: None)
        replay = Replay.of(arrays, on.device, frame_stack=network.frame_stack)
        run = Run(seeds, schedule, checkpoint, cell.label, on.execution)
        with memory.telling_what_fits(run.label, seeds=len(seeds), fixed=replay.nbytes):
            pretrain(flow, replay, run, learning_rate=section.learning_rate, augmentation=network.augmentation)
        record = {"task": task, "seeds": seeds, "steps": schedule.steps, "data_sha256": manifest.sha256}
        write_tensors(cell.built / FLOW, {f"flow.{name}": value for name, value in flow.state_dict().items()}, record)
        cell.publish(record)


if __name__ == "__main__":
    main(app)

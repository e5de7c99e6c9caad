"""Stage `pretrain`: data/<task> -> behaviour/<task>: the behaviour flows of all seeds, trained once for all methods."""

from __future__ import annotations

from pathlib import Path

import typer

from fd.runtime import memory
from fd.runtime.command_line import BehaviourOption, DataOption, ParamsOption, TaskOption, main
from fd.settings.machine_settings import Compute
from fd.settings.settings_file import read_settings
from fd.settings.training_settings import Network, Pretrain
from fd.storage.tensors import FLOW, write_tensors
from fd.storage.transitions import load_transitions, read_manifest
from fd.training.checkpoint import Checkpoint
from fd.training.flow_training import kept_name, kept_steps, pretrain
from fd.training.loop import Run, Schedule
from fd.training.replay import Replay
from stages.cell import machine, making, untrained_flow

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
    depends = [manifest.sha256, seeds, network.model_dump(), section.model_dump()]
    with making("pretrain", task, out / task, on, depends) as cell:
        flow = untrained_flow(network, manifest, seeds, place).to(on.device)
        kept = kept_steps(section.steps, section.log_every)
        schedule = Schedule(section.steps, section.batch_size, section.log_every, kept)
        record = {"task": task, "seeds": seeds, "steps": schedule.steps, "data_sha256": manifest.sha256}

        def keep(step: int) -> None:
            file = cell.built / (FLOW if step == schedule.steps else kept_name(step))
            weights = {f"flow.{name}": value for name, value in flow.state_dict().items()}
            write_tensors(file, weights, record | {"steps": step})

        cell.announce(steps=schedule.steps)
        checkpoint = Checkpoint(cell.work, cell.built, keep)
        replay = Replay.of(arrays, on.device, frame_stack=network.frame_stack)
        run = Run(seeds, schedule, checkpoint, cell.label, on.execution)
        with memory.telling_what_fits(run.label, seeds=len(seeds), fixed=replay.nbytes):
            pretrain(flow, replay, run, learning_rate=section.learning_rate, augmentation=network.augmentation)
        cell.publish(record)


if __name__ == "__main__":
    main(app)

"""Stage `refine`: data/<task>, behaviour/<task> -> runs/<task>/<method>: the policies of all seeds at the evaluated steps."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from functools import partial
from pathlib import Path

import typer

from fd.method.agent import Agent
from fd.policy import snapshot_name
from fd.runtime import memory
from fd.runtime.command_line import (
    BehaviourOption,
    DataOption,
    MethodOption,
    ParamsOption,
    RunsOption,
    TaskOption,
    main,
)
from fd.settings.machine_settings import Compute
from fd.settings.refine_settings import Refine, spec_of
from fd.settings.settings_file import read_settings
from fd.settings.training_settings import Network
from fd.storage import scratch
from fd.storage.files import digest
from fd.storage.run_record import check_device
from fd.storage.tensors import FLOW, load_net, read_tensors, write_tensors
from fd.storage.transitions import load_transitions, read_manifest
from fd.training.bank import BankPlan, build_bank
from fd.training.checkpoint import STATE, Checkpoint
from fd.training.loop import Run, Schedule
from fd.training.policy_training import refine
from fd.training.random_streams import generator
from fd.training.replay import Replay
from fd.training.snapshot import write_snapshot
from stages.cell import Cell, machine, making, pretrained

app = typer.Typer(add_completion=False)


@app.command()
def command(
    task: TaskOption,
    method: MethodOption,
    params_file: ParamsOption = Path("params.yaml"),
    data: DataOption = Path("data"),
    behaviour: BehaviourOption = Path("behaviour"),
    out: RunsOption = Path("runs"),
) -> None:
    """Refine the policy of every seed with one method; writes snapshots and training log to runs/<task>/<method>."""
    settings = read_settings(params_file)
    network, section = settings.section(Network, "network", task), settings.section(Refine, "refine", task, method)
    seeds, place = settings.seeds, f"tasks.{task}"
    on = machine(
        settings.part(Compute, "compute"), network, seeds=len(seeds), batch_size=section.batch_size, place=place
    )
    manifest = read_manifest(data / task)
    obs_shape = network.observed(manifest.obs_shape, place)
    spec = spec_of(settings, task, method, obs_shape=obs_shape, act_dim=manifest.act_dim)
    marks = list(range(section.evaluate_every, section.steps + 1, section.evaluate_every))
    schedule = Schedule(section.steps, section.batch_size, section.log_every, marks)
    agent = Agent(spec, [generator(seed, "weights", 0) for seed in seeds]).to(on.device)
    flow_file = behaviour / task / FLOW
    flow, _ = pretrained(flow_file, data / task, seeds, on.device)
    check_device(behaviour / f"{task}.json", on.device)
    if spec.behaviour == "frozen":
        load_net(agent.flow, flow, "flow.", flow_file)
    origin = {"task": task, "method": method, "data_sha256": manifest.sha256, "flow_sha256": digest(flow_file)}
    sizes = {"bank": section.bank, "memory": section.bank_memory}
    depends = [asdict(spec), asdict(schedule), sizes, seeds, origin["flow_sha256"]]
    with making("refine", f"{task}/{method}", out / task / method, on, depends) as cell:
        snapshot = partial(write_snapshot, cell.built, agent, seeds=seeds, origin=origin)
        run = Run(seeds, schedule, Checkpoint(cell.work, cell.built, snapshot), cell.label, on.execution)
        cell.announce(steps=schedule.steps, budget=spec.target_divergence if spec.policy == "residual" else None)
        if spec.acts_by_flow and spec.behaviour == "frozen":
            shutil.copyfile(flow_file, cell.built / FLOW)
        bank = None
        if agent.trained():
            replay = Replay.of(load_transitions(data / task), on.device, frame_stack=spec.frame_stack)
            with memory.telling_what_fits(run.label, seeds=len(seeds), fixed=replay.nbytes):
                if spec.based and section.bank:
                    key = scratch.key("fd.training.bank", task, origin["flow_sha256"], on.numerics)
                    kept = scratch.ROOT / "banks" / f"{task}.safetensors"
                    plan = BankPlan(section.bank, section.bank_memory, kept, key)
                    bank = build_bank(spec, agent.flow, replay, plan, seeds=seeds, label=run.label)
                refine(agent, replay, bank, run)
            if section.keep_state:
                keep_state(cell, schedule, manifest.sha256)
        else:
            for step in marks:
                snapshot(step)
        made = {"seeds": seeds, "steps": schedule.steps, "bank": 0 if bank is None else section.bank}
        cell.publish(origin | made)


def keep_state(cell: Cell, schedule: Schedule, data_sha256: dict[str, str]) -> None:
    """Stores the last networks and their optimiser in the run for `finetune`, with the hashes of its last snapshot and data."""
    last = {"step": schedule.steps, "snapshot_sha256": digest(cell.built / snapshot_name(schedule.steps))}
    write_tensors(cell.built / STATE, read_tensors(cell.work / STATE)[0], last | {"data_sha256": data_sha256})


if __name__ == "__main__":
    main(app)

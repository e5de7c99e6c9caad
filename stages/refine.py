"""Stage `refine`: data/<task>, behaviour/<task> -> runs/<task>/<method>: the policies of all seeds at the evaluated steps."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import typer

from fd import params
from fd.errors import FdError
from fd.method.agent import Agent
from fd.method.spec import Spec
from fd.policy import snapshot_name
from fd.runtime import memory
from fd.storage import run_record, scratch, transitions
from fd.storage.files import digest
from fd.storage.tensors import FLOW, load_net, read_tensors, write_tensors
from fd.training.bank import build
from fd.training.checkpoint import STATE, Checkpoint
from fd.training.loop import Schedule
from fd.training.policy_training import refine
from fd.training.random_streams import generator
from fd.training.replay import Replay
from fd.training.snapshot import write_snapshot
from stages.command import BehaviourOption, DataOption, MethodOption, ParamsOption, RunsOption, TaskOption, main
from stages.training import machine

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
    values = params.load(params_file)
    settings, seeds, start = values.settings(task, method), values.seeds, time.monotonic()
    network, place = settings.network, f"tasks.{task}"
    on = machine(values.compute, network, seeds=len(seeds), batch_size=settings.refine.batch_size, place=place)
    manifest = transitions.read_manifest(data / task)
    obs_shape = network.observed(manifest.obs_shape, place)
    shape = {"obs_shape": obs_shape, "act_dim": manifest.act_dim}
    spec = Spec.of(network.model_dump(), settings.refine.model_dump(), values.method(method).train.model_dump(), shape)
    schedule = Schedule(
        settings.refine.steps, settings.refine.batch_size, settings.refine.log_every, settings.refine.evaluate_every
    )
    agent = Agent(spec, [generator(seed, "weights", 0) for seed in seeds]).to(on.device)
    flow_file = behaviour / task / FLOW
    tensors, origin = read_tensors(flow_file, on.device)
    if origin.get("data_sha256") != manifest.sha256 or tuple(origin.get("seeds", ())) != seeds:
        raise FdError(
            f"{flow_file}: is of other data or seeds {origin.get('seeds')}, allowed: {data / task}, {list(seeds)}"
        )
    if spec.behaviour == "frozen":
        load_net(agent.flow, tensors, "flow.", flow_file)
    flow_sha256 = digest(flow_file)
    sizes = {"bank": settings.refine.bank, "memory": settings.refine.bank_memory}
    parts = [asdict(spec), asdict(schedule), sizes, seeds, flow_sha256, *on.numerics]
    with scratch.claimed("refine", f"{task}/{method}"):
        work = scratch.folder("refine", f"{task}/{method}", parts)
        built, origin = work / "out", {"task": task, "method": method, "data_sha256": manifest.sha256}
        origin |= {"flow_sha256": flow_sha256}
        checkpoint = Checkpoint(
            work, built, lambda step: write_snapshot(built, agent, step=step, seeds=seeds, origin=origin)
        )
        if spec.acts_by_flow and spec.behaviour == "frozen":
            built.joinpath(FLOW).write_bytes(flow_file.read_bytes())
        bank = None
        if agent.trained():
            replay = Replay.of(transitions.load(data / task), on.device, frame_stack=spec.frame_stack)
            label = f"refine {task} {method}"
            with memory.told(label, seeds=len(seeds), fixed=replay.nbytes):
                if spec.based and settings.refine.bank:
                    bank = build(
                        spec, agent.flow, replay, seeds=seeds, samples=settings.refine.bank,
                        budget=settings.refine.bank_memory, label=label, path=scratch.ROOT / "banks" / f"{task}.safetensors",
                        key=scratch.folder("bank", task, flow_sha256, on.numerics).name,
                    )  # fmt: skip
                refine(
                    agent, replay, bank, schedule, seeds=seeds, checkpoint=checkpoint, label=label,
                    execution=on.execution,
                )  # fmt: skip
            if settings.refine.keep_state:
                last = {"step": schedule.steps, "snapshot_sha256": digest(built / snapshot_name(schedule.steps))}
                write_tensors(built / STATE, read_tensors(work / STATE)[0], last | {"data_sha256": manifest.sha256})
        else:
            for step in range(schedule.save_every, schedule.steps + 1, schedule.save_every):
                write_snapshot(built, agent, step=step, seeds=seeds, origin=origin)
        record = origin | {"seeds": seeds, "steps": schedule.steps}
        record["bank"] = 0 if bank is None else settings.refine.bank
        run_record.write(out / task / f"{method}.json", record, output=built, start=start)
        scratch.publish(built, out / task / method, work)


if __name__ == "__main__":
    main(app)

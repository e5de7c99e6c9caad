"""Stage `finetune`: data/<task>, runs/<task>/<method> -> online/<task>/<method>: the run's training goes on in the simulator."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from fd import params
from fd.errors import FdError
from fd.method.agent import Agent
from fd.networks.adam import optimiser
from fd.policy import Policy, snapshot_name
from fd.runtime import memory
from fd.simulation.environments import make_env
from fd.simulation.lockstep import Lockstep
from fd.storage import run_record, scratch, transitions
from fd.storage.files import digest
from fd.storage.tensors import FLOW, write_tensors
from fd.training.checkpoint import STATE, Checkpoint, load_state
from fd.training.experience import Experience
from fd.training.loop import Schedule
from fd.training.online_training import Interaction, finetune
from fd.training.random_streams import generator
from fd.training.replay import Replay
from fd.training.snapshot import write_snapshot
from stages.command import DataOption, MethodOption, ParamsOption, RunsOption, TaskOption, main
from stages.training import machine

app = typer.Typer(add_completion=False)


@app.command()
def command(
    task: TaskOption,
    method: MethodOption,
    params_file: ParamsOption = Path("params.yaml"),
    data: DataOption = Path("data"),
    runs: RunsOption = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder of the runs that went on online.")] = Path("online"),
) -> None:
    """Go on with the training of every seed, online; writes snapshots and training log to online/<task>/<method>.

    Steps are counted from the start of the offline run.
    """
    values = params.load(params_file)
    settings, acting, start = values.finetuning(task, method), values.method(method).act.model_dump(), time.monotonic()
    offline = Policy.load(run := runs / task / method)
    on = machine(
        values.compute, offline.spec, seeds=len(offline.seeds), batch_size=settings.batch_size,
        place=f"online.tasks.{task}",
    )  # fmt: skip
    manifest = transitions.read_manifest(data / task)
    agent, adam, record = resumed(run, offline, settings.behaviour, on.device)
    if record.get("data_sha256") != manifest.sha256:
        raise FdError(f"{run}: is of other data, allowed: {data / task}")
    if record.get("snapshot_sha256") != digest(run / snapshot_name(offline.step)):
        raise FdError(f"{run / STATE}: is not the state of snapshot {offline.step}; refine it again")
    spec, seeds = agent.spec, offline.seeds
    schedule = Schedule(offline.step + settings.steps, settings.batch_size, settings.log_every, settings.evaluate_every)
    parts = [
        settings.model_dump(),
        acting,
        asdict(manifest),
        digest(run / STATE),
        *on.numerics,
    ]
    with scratch.claimed("finetune", f"{task}/{method}"):
        work = scratch.folder("finetune", f"{task}/{method}", parts)
        replay = Replay.of(transitions.load(data / task), on.device, frame_stack=spec.frame_stack)
        experience = Experience(replay, seeds=len(seeds), steps=settings.steps, balanced=settings.balanced)

        origin = {"task": task, "method": method, "data_sha256": manifest.sha256}
        checkpoint = Checkpoint(
            work, work / "out", lambda step: write_snapshot(work / "out", agent, step=step, seeds=seeds, origin=origin),
            also=lambda step: experience.save(work, step), start=offline.step,
        )  # fmt: skip
        if spec.acts_by_flow and spec.behaviour == "frozen":
            flow = {f"flow.{name}": tensor for name, tensor in agent.flow.state_dict().items()}
            write_tensors(work / "out" / FLOW, flow, {"seeds": seeds})
            origin["flow_sha256"] = digest(work / "out" / FLOW)
        with Lockstep(
            partial(make_env, manifest), name=task, seeds=seeds, shapes=(tuple(manifest.obs_shape), (manifest.act_dim,)),
            workers=values.compute.workers, timeout=values.settings(task).evaluate.timeout,
        ) as simulators:  # fmt: skip
            convention = getattr(values.task(task).data, "reward", "own")
            label = f"finetune {task} {method}"
            interaction = Interaction(simulators, convention, settings.updates, acting)
            with memory.told(label, seeds=len(seeds), fixed=experience.replay.nbytes):
                finetune(
                    agent, adam, experience, interaction, schedule, seeds=seeds, checkpoint=checkpoint, folder=work,
                    label=label, execution=on.execution,
                )  # fmt: skip
        record = origin | {"seeds": seeds, "steps": schedule.steps, "episodes": experience.episodes.tolist()}
        run_record.write(out / task / f"{method}.json", record, output=work / "out", start=start)
        scratch.publish(work / "out", out / task / method, work)


def resumed(
    run: Path, last: Policy, behaviour: str, device: torch.device
) -> tuple[Agent, torch.optim.Adam, dict[str, Any]]:  # fmt: skip
    """The agent and its optimiser at the end of a run whose policy is `last`, its flow fixed or trained from here on; record of its state.

    Raises:
        FdError: the run was made without `refine.keep_state`.
    """
    state = run / STATE
    if not state.exists():
        raise FdError(f"{state}: no such file, the run cannot go on; refine it again with refine.keep_state: true")
    agent = Agent(replace(last.spec, behaviour=behaviour), [generator(seed, "weights", 0) for seed in last.seeds])
    agent.to(device)
    adam = optimiser(agent.trained(), agent.spec.learning_rate)
    return agent, adam, load_state(state, agent, adam)


if __name__ == "__main__":
    main(app)

"""Stage `finetune`: data/<task>, runs/<task>/<method> -> online/<task>/<method>: the run's training goes on in the simulator."""

from __future__ import annotations

import time
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from fd import params, provenance, scratch, transitions
from fd.agent import Agent
from fd.checkpoint import FLOW, STATE, Checkpoint, load_state, write_tensors
from fd.compute import execution, select
from fd.environments import make_env
from fd.errors import FdError
from fd.files import digest
from fd.lockstep import Lockstep
from fd.loop import Schedule
from fd.online import Experience, Interaction, finetune
from fd.optim import optimiser
from fd.policy import Policy
from fd.replay import Replay
from fd.streams import generator
from stages.command import DataOption, MethodOption, ParamsOption, RunsOption, TaskOption, main
from stages.refine import write_snapshot

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
    device = select(values.compute.device, values.compute.threads, tf32=values.compute.tf32)
    how = execution(values.compute.execution, device)
    manifest = transitions.read_manifest(data / task)
    agent, adam, offline, data_sha256 = resumed(runs / task / method, settings.behaviour, device)
    if data_sha256 != manifest.sha256:
        raise FdError(f"{runs / task / method}: is of other data, allowed: {data / task}")
    spec, seeds = agent.spec, offline.seeds
    schedule = Schedule(offline.step + settings.steps, settings.batch_size, settings.log_every, settings.evaluate_every)
    parts = [
        settings.model_dump(),
        acting,
        asdict(manifest),
        digest(runs / task / method / STATE),
        device.type,
        how,
        values.compute.tf32,
    ]
    work = scratch.folder("finetune", f"{task}/{method}", parts)
    replay = Replay.of(transitions.load(data / task), device, frame_stack=spec.frame_stack)
    experience = Experience(replay, seeds=len(seeds), steps=settings.steps, balanced=settings.balanced)

    def snapshot(step: int) -> None:
        experience.save(work, step)
        write_snapshot(work / "out", agent, step=step, seeds=seeds)

    checkpoint = Checkpoint(work, work / "out", snapshot, start=offline.step)
    if spec.acts_by_flow and spec.behaviour == "frozen":
        flow = {f"flow.{name}": tensor for name, tensor in agent.flow.state_dict().items()}
        write_tensors(work / "out" / FLOW, flow, {"seeds": seeds})
    with Lockstep(
        partial(make_env, manifest), name=task, seeds=seeds, shapes=(tuple(manifest.obs_shape), (manifest.act_dim,)),
        workers=values.compute.workers, timeout=values.settings(task).evaluate.timeout,
    ) as simulators:  # fmt: skip
        convention = getattr(values.task(task).data, "reward", "own")
        finetune(
            agent, adam, experience, Interaction(simulators, convention, settings.updates, acting), schedule, seeds=seeds,
            checkpoint=checkpoint, folder=work, label=f"finetune {task} {method}", execution=how,
        )  # fmt: skip
    record = {"task": task, "method": method, "seeds": seeds, "steps": schedule.steps, "data_sha256": manifest.sha256}
    record |= {"episodes": experience.episodes.tolist()}
    scratch.publish(work / "out", out / task / method, work)
    provenance.write(out / task / f"{method}.json", record, start=start)


def resumed(run: Path, behaviour: str, device: torch.device) -> tuple[Agent, torch.optim.Adam, Policy, Any]:
    """The agent and its optimiser at the end of a run, its flow fixed or trained from here on; its last policy; hashes of its data.

    Raises:
        FdError: the run has no snapshot, or was made without `refine.keep_state`.
    """
    last, state = Policy.load(run), run / STATE
    if not state.exists():
        raise FdError(f"{state}: no such file, the run cannot go on; refine it again with refine.keep_state: true")
    agent = Agent(replace(last.spec, behaviour=behaviour), [generator(seed, "weights", 0) for seed in last.seeds])
    agent.to(device)
    adam = optimiser(agent.trained(), agent.spec.learning_rate)
    return agent, adam, last, load_state(state, agent, adam).get("data_sha256")


if __name__ == "__main__":
    main(app)

"""Stage `finetune`: data/<task>, runs/<task>/<method> -> online/<task>/<method>: fine-tunes a run in the simulator."""

from __future__ import annotations

from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from fd.errors import FdError
from fd.method.agent import Agent
from fd.method.spec import Behaviour
from fd.networks.adam import Optimiser
from fd.policy import Policy, snapshot_name
from fd.runtime import memory
from fd.runtime.command_line import DataOption, MethodOption, ParamsOption, RunsOption, TaskOption, main
from fd.settings.machine_settings import Compute
from fd.settings.online_settings import finetuning
from fd.settings.settings_file import read_settings
from fd.settings.simulation_settings import Act, Evaluate
from fd.simulation.environments import make_env
from fd.simulation.lockstep import Lockstep
from fd.storage.files import digest
from fd.storage.run_record import check_device
from fd.storage.tensors import FLOW, write_tensors
from fd.storage.transitions import Manifest, load_transitions, read_manifest
from fd.training.checkpoint import STATE, Checkpoint, load_state
from fd.training.experience import Experience
from fd.training.loop import Run, Schedule
from fd.training.online_training import Interaction, finetune
from fd.training.random_streams import generator
from fd.training.replay import Replay
from fd.training.snapshot import write_snapshot
from stages.cell import machine, making

app = typer.Typer(add_completion=False)


@app.command()
def command(
    task: TaskOption,
    method: MethodOption,
    params_file: ParamsOption = Path("params.yaml"),
    data: DataOption = Path("data"),
    runs: RunsOption = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder of the fine-tuned runs.")] = Path("online"),
) -> None:
    """Fine-tune every seed of a run in its own simulator; writes snapshots and training log to online/<task>/<method>.

    Steps are counted from the start of the offline run.
    """
    values = read_settings(params_file)
    settings, compute = finetuning(values, task, method), values.part(Compute, "compute")
    acting = values.part(Act, "methods", method, "act").model_dump()
    offline = Policy.load(source := runs / task / method)
    seeds, place = offline.seeds, f"online.tasks.{task}"
    on = machine(compute, offline.spec, seeds=len(seeds), batch_size=settings.batch_size, place=place)
    manifest = read_manifest(data / task)
    agent, adam = resumed(source, offline, settings.behaviour, manifest, on.device)
    check_device(runs / task / f"{method}.json", on.device)
    steps = offline.step + settings.steps
    marks = range(settings.evaluate_every, steps + 1, settings.evaluate_every)
    schedule = Schedule(steps, settings.batch_size, settings.log_every, marks)
    depends = [settings.model_dump(), acting, asdict(manifest), digest(source / STATE)]
    with making("finetune", f"{task}/{method}", out / task / method, on, depends) as cell:
        spec = agent.spec
        cell.announce(steps=schedule.steps, budget=spec.target_divergence if spec.policy == "residual" else None)
        replay = Replay.of(load_transitions(data / task), on.device, frame_stack=agent.spec.frame_stack)
        experience = Experience(replay, seeds=len(seeds), steps=settings.steps, balanced=settings.balanced)
        origin = {"task": task, "method": method, "data_sha256": manifest.sha256}
        checkpoint = Checkpoint(
            cell.work, cell.built, partial(write_snapshot, cell.built, agent, seeds=seeds, origin=origin),
            also=partial(experience.save, cell.work), start=offline.step,
        )  # fmt: skip
        if agent.spec.acts_by_flow and agent.spec.behaviour == "frozen":
            flow = {f"flow.{name}": tensor for name, tensor in agent.flow.state_dict().items()}
            write_tensors(cell.built / FLOW, flow, {"seeds": seeds})
            origin["flow_sha256"] = digest(cell.built / FLOW)
        run = Run(seeds, schedule, checkpoint, cell.label, on.execution)
        with Lockstep(
            partial(make_env, manifest), name=task, seeds=seeds, shapes=(tuple(manifest.obs_shape), (manifest.act_dim,)),
            workers=compute.workers, timeout=values.section(Evaluate, "evaluate", task).timeout,
        ) as simulators:  # fmt: skip
            convention = values.at("tasks", task, "data").get("reward", "own")
            interaction = Interaction(simulators, convention, settings.updates, acting)
            with memory.telling_what_fits(run.label, seeds=len(seeds), fixed=experience.replay.nbytes):
                finetune(agent, adam, experience, interaction, run)
        made = {"seeds": seeds, "steps": schedule.steps, "episodes": experience.episodes.tolist()}
        cell.publish(origin | made)


def resumed(
    run: Path, last: Policy, behaviour: Behaviour, data: Manifest, device: torch.device
) -> tuple[Agent, Optimiser]:  # fmt: skip
    """The agent and its optimiser at the end of an offline run, from where fine-tuning starts.

    Args:
        run: folder of the run.
        last: policy of its last snapshot.
        behaviour: whether fine-tuning trains the flow too.
        data: manifest of the task's data.
        device: device of the agent.

    Raises:
        FdError: the run was made without `refine.keep_state`, was trained on different data, or its state does not match
            its last snapshot.
    """
    state = run / STATE
    if not state.exists():
        raise FdError(
            f"{state}: no such file, so the run cannot be fine-tuned; refine it again with refine.keep_state: true"
        )
    agent = Agent(replace(last.spec, behaviour=behaviour), [generator(seed, "weights", 0) for seed in last.seeds])
    agent.to(device)
    adam = agent.optimiser()
    record = load_state(state, agent, adam)
    if record.get("data_sha256") != data.sha256:
        raise FdError(f"{run}: was trained on different data, allowed: the data of its task")
    if record.get("snapshot_sha256") != digest(run / snapshot_name(last.step)):
        raise FdError(f"{state}: does not match snapshot {last.step}; refine it again")
    return agent, adam


if __name__ == "__main__":
    main(app)

"""Evaluation of a run: the episodes of every snapshot, one row each, and how long they took.

The scratch folder keeps the rows of finished snapshots, so that a killed evaluation resumes from them.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fd.errors import FdError
from fd.policy import Policy
from fd.runtime.device import set_precision
from fd.runtime.progress import Progress
from fd.settings.simulation_settings import Act as Acting
from fd.settings.simulation_settings import Evaluate
from fd.simulation.environments import make_env
from fd.simulation.episodes import Act, Episode, Floats
from fd.simulation.rollout import Rollout
from fd.storage import run_record, scratch
from fd.storage.files import digest, read_record, write_record, write_text
from fd.storage.transitions import Manifest

COLUMNS = ("seed", "step", "episode", "return", "success", "length", "score")


@dataclass(frozen=True)
class Subject:
    """The method to evaluate: its run folder, how its policy acts, and the manifest of its task's data."""

    task: str
    method: str
    run: Path
    acting: Acting
    manifest: Manifest


def evaluate(subject: Subject, out: Path, settings: Evaluate, *, workers: int, device: torch.device) -> None:
    """Run every snapshot's episodes; write `out`/<task>/<method>.csv, one row each, and <method>.json beside it.

    Args:
        subject: the method to evaluate.
        out: folder of the evaluations.
        settings: section `evaluate` of the parameters.
        workers: simulator processes.
        device: device of the policies.

    Raises:
        FdError: the run does not match the data, or an environment or a policy fails; then no file is written.
    """
    start = time.monotonic()
    if subject.manifest.score == "return":
        _return_range(subject.manifest)
    steps = Policy.steps(subject.run)
    policy = [_policy(subject, step) for step in steps][-1]
    weights = {path.name: digest(path) for path in sorted(subject.run.glob("*.safetensors"))}
    work = scratch.folder(
        "evaluate",
        f"{subject.task}/{subject.method}",
        weights,
        asdict(subject.manifest),
        [settings.episodes, settings.environments, subject.acting.model_dump(), device.type],
    )
    work.mkdir(parents=True, exist_ok=True)
    speed = _simulate(subject, settings, work, steps=steps, policy=policy, workers=workers, device=device)
    rows = sorted(tuple(row) for step in steps for row in read_record(work / f"{step}.json")["rows"])
    table = out / subject.task / f"{subject.method}.csv"
    write_text(table, _table(rows))
    record = {"task": subject.task, "method": subject.method, "data_sha256": subject.manifest.sha256}
    record |= {"weights": weights} | speed
    run_record.write_run_record(table.with_suffix(".json"), record, output=table, device=device, start=start)
    shutil.rmtree(work)


def episode_score(episode: Episode, manifest: Manifest) -> float:
    """Score of an episode by the protocol: 100 * success, or the return as a percentage of the manifest's return range."""
    if manifest.score == "success":
        return 100.0 * episode.success
    low, high = _return_range(manifest)
    return 100.0 * (episode.return_ - low) / (high - low)


def _return_range(manifest: Manifest) -> tuple[float, float]:
    match manifest.return_range:
        case [low, high] if low < high:
            return low, high
    raise FdError(
        f"{manifest.dataset}: its manifest has score 'return' and return_range {manifest.return_range}, allowed: [low, high]"
    )


def load_actor(subject: Subject, device: torch.device, step: int) -> Act:
    """Load a snapshot's policy in a simulator process, which has the precision of every evaluation: float32."""
    set_precision(tf32=False)
    return acting(_policy(subject, step, device), device, **subject.acting.model_dump())


def acting(policy: Policy, device: torch.device, *, best_of: int = 1, refinements: int = 1) -> Act:
    """The policy as a function of numpy arrays, without gradients; see `Policy.act`."""

    def act(observations: Floats, noise: Floats) -> Floats:
        with torch.inference_mode():
            obs, start = (torch.from_numpy(array).to(device) for array in (observations, noise))
            actions = policy.act(obs, start, best_of=best_of, refinements=refinements)
            result: Floats = actions.cpu().numpy()
            return result

    return act


def _simulate(
    subject: Subject, settings: Evaluate, work: Path, *, steps: list[int], policy: Policy, workers: int,
    device: torch.device,
) -> dict[str, Any]:  # fmt: skip
    """Write the rows of every snapshot that has none in `work`; return the speed."""
    left = [step for step in steps if not (work / f"{step}.json").exists()]
    if not left:
        return {"steps_per_second": None, "simulated_steps": 0, "building_seconds": 0.0}
    manifest, seeds, start = subject.manifest, policy.seeds, time.monotonic()
    jobs = len(left) * -(-settings.episodes // -(-settings.environments // len(seeds)))
    pool = Rollout(
        partial(make_env, manifest, frame_stack=policy.spec.frame_stack), partial(load_actor, subject, device),
        name=subject.task, seeds=seeds, obs_shape=policy.spec.obs_shape, act_dim=manifest.act_dim,
        noise_dim=subject.acting.best_of * manifest.act_dim, environments=settings.environments,
        workers=min(workers, jobs), timeout=settings.timeout,
    )  # fmt: skip
    built, simulated = time.monotonic(), 0
    label, each = f"evaluate {subject.task} {subject.method}", settings.episodes * len(seeds)
    with pool, Progress(each * len(steps), label, unit="episodes", done=each * (len(steps) - len(left))) as progress:
        for step, rows in pool.run(left, episodes=settings.episodes, on_episode=partial(_tell, progress)):
            write_record(work / f"{step}.json", {"rows": [_row(row, manifest) for row in rows]})
            simulated += sum(row.length for row in rows)
    return {
        "steps_per_second": round(simulated / (time.monotonic() - built), 1),
        "simulated_steps": simulated,
        "building_seconds": round(built - start, 1),
    }


def _tell(progress: Progress, episode: Episode) -> None:
    success = "success" if episode.success else "no success"
    progress.advance(1, text=f"step {episode.step}, seed {episode.seed}: {success}")


def _policy(subject: Subject, step: int, device: torch.device | str = "cpu") -> Policy:
    """Load a snapshot's policy and check that it matches the subject."""
    policy = Policy.load(subject.run, step, device=device)
    wanted = {"task": subject.task, "method": subject.method, "data_sha256": subject.manifest.sha256}
    for name, value in wanted.items():
        if (given := policy.origin.get(name)) != value:
            told = (
                "was trained on different data"
                if name == "data_sha256"
                else f"has {name} {given!r}, allowed: {value!r}"
            )
            raise FdError(f"{subject.run}: snapshot {step} {told}")
    spec, manifest = policy.spec, subject.manifest
    *size, channels = manifest.obs_shape
    of_data = {"obs_shape": [*size, channels * spec.frame_stack], "act_dim": manifest.act_dim}
    for name, shape in {"obs_shape": list(spec.obs_shape), "act_dim": spec.act_dim}.items():
        if shape != of_data[name]:
            raise FdError(
                f"{subject.run}: snapshot {step} has {name} {shape}, allowed: {of_data[name]}, as in the data"
                f" {manifest.dataset}"
            )
    return policy


def _row(episode: Episode, manifest: Manifest) -> tuple[float, ...]:
    """The episode as numbers, in the order of COLUMNS."""
    values = (episode.return_, int(episode.success), episode.length, episode_score(episode, manifest))
    return (episode.seed, episode.step, episode.episode, *values)


def _table(rows: Iterable[tuple[float, ...]]) -> str:
    """CSV text; each float has enough digits to be read back exactly."""
    lines = [",".join(COLUMNS), *(",".join(repr(value) for value in row) for row in rows)]
    return "".join(line + "\n" for line in lines)

"""The bank: base actions of every state, drawn once from the frozen flow, so that training steps integrate no ODE."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import Timeout
from torch import Tensor

from fd.errors import FdError
from fd.method.batch import FlowSamples
from fd.method.fisher import LEADING, curvature, desmoothed, state_scores
from fd.method.flow import base_actions
from fd.method.spec import Spec
from fd.networks.mlp import StackedMLP
from fd.runtime.memory import check_room
from fd.runtime.progress import Progress
from fd.storage.locks import locked
from fd.storage.outputs import make_room
from fd.storage.tensors import read_tensors, write_tensors
from fd.training.random_streams import generator
from fd.training.replay import Replay

CHUNK = {"cpu": 1024, "cuda": 65536}  # flow inputs of one seed per pass: they fit the CPU's caches or fill the GPU
SHARE = 0.25  # of a disk that kept base actions may take, all tasks together
IMAGES = 512  # images of one seed per pass; each has a million activations


@dataclass(frozen=True)
class Bank:
    """M base actions of each of R states, for S seeds.

    Attributes:
        actions: [S, R, M, A].
        noise: z from which each action was integrated, [S, R, M, A]; None if the method needs none.
        scores: K scores of each state, [S, R, K, A], or of each action, [S, R, M, K, A]; None if the metric needs none.
        rest: isotropic part of each action's curvature, [S, R, M]; see `fd.method.fisher.curvature`.
    """

    actions: Tensor
    noise: Tensor | None
    scores: Tensor | None
    rest: Tensor | None = None

    def gather(self, rows: Tensor, samples: Tensor, next_samples: Tensor) -> FlowSamples:
        """Base actions and scores of the transitions that start at rows [S, B]; `samples` choose the action of s, `next_samples` of s'."""
        seed = torch.arange(rows.shape[0], device=rows.device).unsqueeze(1)
        noise, scores = self.noise, self.scores
        if scores is not None:
            scores = scores[seed, rows] if scores.dim() == 4 else scores[seed, rows, samples]
        return FlowSamples(
            act=self.actions[seed, rows, samples],
            next_act=self.actions[seed, rows + 1, next_samples],
            noise=None if noise is None else noise[seed, rows, samples],
            next_noise=None if noise is None else noise[seed, rows + 1, next_samples],
            scores=scores,
            rest=None if self.rest is None else self.rest[seed, rows, samples],
        )


@dataclass(frozen=True)
class BankPlan:
    """Size of a bank, and the file that keeps its base actions for the next method.

    Attributes:
        samples: base actions M per state.
        budget: memory that the bank may take, in GiB.
        path: file of the base actions; base actions under another key are overwritten.
        key: identifies everything, except sizes, that the base actions depend on, such as the flow and the code.
    """

    samples: int
    budget: float
    path: Path
    key: str


def memory(spec: Spec, *, seeds: int, rows: int, samples: int) -> float:
    """Peak memory, in GiB, of building the bank of `rows` states: noise, `samples` base actions and scores."""
    numbers = 2 * samples * spec.act_dim
    if spec.state_scores:
        numbers += spec.fisher_samples * spec.act_dim + 3 * spec.desmooth * spec.act_dim**2
    elif spec.metric == "curvature":
        numbers += samples * (min(spec.act_dim, LEADING) * spec.act_dim + (spec.act_dim > LEADING))
    elif spec.action_scores:
        numbers += samples * spec.act_dim
    return 4 * seeds * rows * numbers / 2**30


def build_bank(
    spec: Spec, flow: StackedMLP, replay: Replay, plan: BankPlan, *, seeds: Sequence[int], label: str
) -> Bank | None:  # fmt: skip
    """The bank of a frozen flow; None, and a line on stderr, if it would take more memory than allowed.

    Args:
        spec: the agent to be trained.
        flow: its flow, of all seeds.
        replay: its R states.
        plan: size of the bank, and the file that keeps its base actions.
        seeds: training seeds; each draws from its own streams.
        label: name of the run in progress and errors.

    Raises:
        FdError: a score is not finite, `desmooth` needs a bank that is too large, or the device has less memory than is allowed.
    """
    rows, samples, device = len(replay.obs), plan.samples, replay.act.device
    needed = memory(spec, seeds=len(seeds), rows=rows, samples=samples)
    if needed > plan.budget:
        told = f"{label}: a bank of {samples} base actions per state takes {needed:.3g} GiB, refine.bank_memory is {plan.budget:g}"
        if spec.desmooth and spec.state_scores:
            raise FdError(f"{told}, and desmooth needs a bank (allowed: more memory, or desmooth: false)")
        print(f"{told}: base actions are drawn afresh at every step", file=sys.stderr, flush=True)
        return None
    what, allowed = (
        f"{label}: {samples} base actions per state",
        "a smaller refine.bank, or a refine.bank_memory below that",
    )
    check_room(int(needed * 2**30), device, what=what, allowed=allowed)
    noise = draw_noise(seeds, (rows, samples, spec.act_dim), device)
    key = f"{plan.key} {device.type} {samples} {spec.flow_steps} {spec.flow_solver}"

    def draw() -> Tensor:
        drop_oldest(plan.path, noise.nbytes, most=SHARE * shutil.disk_usage(plan.path.parent).total)
        make_room(plan.path.parent, noise.nbytes)
        return draw_actions(
            flow, replay, noise, steps=spec.flow_steps, solver=spec.flow_solver, label=f"{label}: bank"
        )  # fmt: skip

    actions = kept_actions(draw, plan.path, key, device)
    scores = rest = None
    if spec.state_scores:
        chosen = actions[:, :, : spec.fisher_samples]
        scores = draw_scores(flow, replay, chosen, seeds, t_eps=spec.t_eps, formula=spec.score, on_path=True)
        if spec.desmooth:
            scores = desmoothed(scores, spec.t_eps[0])
    elif spec.metric == "curvature":
        scores, rest = draw_curvatures(flow, replay, actions, seeds, t_eps=spec.t_eps, desmooth=spec.desmooth)
    elif spec.action_scores:
        scores = draw_scores(flow, replay, actions, seeds, t_eps=spec.t_eps, formula=spec.score, on_path=False)
        scores = scores.unsqueeze(3)
    for number, seed in enumerate(seeds):
        if scores is not None and not scores[number].isfinite().all():
            raise FdError(f"{label}: scores of the behaviour flow of seed {seed} are NaN or infinite, allowed: finite")
    return Bank(actions, noise if spec.policy == "onestep" else None, scores, rest)


def draw_noise(seeds: Sequence[int], shape: tuple[int, int, int], device: torch.device) -> Tensor:
    """Noise z of the bank, [S, R, M, A] for `shape` (R, M, A); seed s draws from its own stream."""
    streams = [generator(seed, "bank", 0, device=device) for seed in seeds]
    return torch.stack([torch.randn(*shape, generator=stream, device=device) for stream in streams])


def draw_actions(flow: StackedMLP, replay: Replay, noise: Tensor, *, steps: int, solver: str, label: str) -> Tensor:
    """Base actions [S, R, M, A] of the R states of a replay, integrated from noise [S, R, M, A]; see `fd.method.flow.base_actions`."""
    _, rows, samples, _ = noise.shape
    actions = torch.empty_like(noise)
    chunk = _chunk(flow, noise)
    with Progress(rows, label, unit="states") as progress:
        for low in range(0, rows, chunk):
            part = noise[:, low : low + chunk]
            states = _features(flow, replay, low, part.shape[1]).repeat_interleave(samples, dim=1)
            drawn = base_actions(flow, states, part.flatten(1, 2), steps=steps, solver=solver)
            actions[:, low : low + chunk] = drawn.view_as(part)
            progress.advance(part.shape[1])
    return actions


def kept_actions(draw: Callable[[], Tensor], path: Path, key: str, device: torch.device) -> Tensor:
    """Base actions under this key from the file; if it has none, those of `draw`, which the file then keeps for the next method."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_name(f"{path.name}.lock")):
        if path.exists():
            try:
                tensors, record = read_tensors(path, device)
                if record.get("key") == key:
                    os.utime(path)  # the age of a file is the time since its last use, see `drop_oldest`
                    return tensors["actions"]
                del tensors
            except FdError as error:
                print(f"{error}: base actions are drawn again", file=sys.stderr, flush=True)
        actions = draw()
        write_tensors(path, {"actions": actions}, {"key": key})
        return actions


def drop_oldest(path: Path, size: int, *, most: float) -> None:
    """Removes base actions of other tasks, the ones used longest ago first, until all take at most `most` bytes with a new file.

    Those that another process reads or writes stay. Removed ones are drawn again when a method needs them.

    Args:
        path: of the new file, whose lock this process holds.
        size: of the new file, in bytes.
        most: bytes that all files beside it may take, itself included.
    """
    used = dict[Path, os.stat_result]()
    for other in set(path.parent.glob("*.safetensors")) - {path}:
        with contextlib.suppress(FileNotFoundError):  # another process has dropped it
            used[other] = other.stat()
    taken = size + sum(status.st_size for status in used.values())
    for other in sorted(used, key=lambda file: used[file].st_mtime):
        if taken <= most:
            return
        try:
            with locked(other.with_name(f"{other.name}.lock"), 0):
                other.unlink(missing_ok=True)
        except Timeout:
            continue
        taken -= used[other].st_size


def draw_scores(
    flow: StackedMLP, replay: Replay, actions: Tensor, seeds: Sequence[int], *, t_eps: tuple[float, float], formula: str,
    on_path: bool,
) -> Tensor:  # fmt: skip
    """K scores of every state, [S, R, K, A], at K base actions [S, R, K, A] and times drawn from the window t_eps, one per score.

    Deviation: drawn once; the official code draws actions, noise and times afresh at every step.

    Args:
        flow: velocity network.
        replay: its R states.
        actions: base actions.
        seeds: training seeds; each draws from its own stream.
        t_eps: window of times.
        formula: see `fd.method.fisher.score`.
        on_path: take a score at time t on the path that leads to an action, not at the action itself.
    """
    scores, device = torch.empty_like(actions), actions.device
    step = _chunk(flow, actions)
    streams = [generator(seed, "scores", 0, device=device) for seed in seeds]
    for low in range(0, actions.shape[1], step):
        part = actions[:, low : low + step]
        x0 = (
            torch.stack([torch.randn(part.shape[1:], generator=g, device=device) for g in streams]) if on_path else None
        )
        t = torch.stack([torch.rand(*part.shape[1:3], 1, generator=g, device=device) for g in streams])
        t = t_eps[0] + (t_eps[1] - t_eps[0]) * t
        states = _features(flow, replay, low, part.shape[1])
        scores[:, low : low + step] = state_scores(flow, states, part, x0=x0, t=t, formula=formula)
    return scores


def draw_curvatures(
    flow: StackedMLP, replay: Replay, actions: Tensor, seeds: Sequence[int], *, t_eps: tuple[float, float], desmooth: bool
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """K vectors [S, R, M, K, A] and the isotropic part [S, R, M] of the curvature at every base action [S, R, M, A].

    See `fd.method.fisher.curvature`; times are drawn from the window t_eps, one per action, seed s from its own stream.
    """
    count, rows, samples, width = actions.shape
    vectors = actions.new_empty(count, rows, samples, min(width, LEADING), width)
    rest = actions.new_empty(count, rows, samples) if width > LEADING else None
    step = max(_chunk(flow, actions) // width, 1)  # an action takes as many slopes as it has axes
    streams = [generator(seed, "scores", 0, device=actions.device) for seed in seeds]
    for low in range(0, rows, step):
        part = actions[:, low : low + step]
        t = torch.stack([torch.rand(*part.shape[1:3], 1, generator=g, device=part.device) for g in streams])
        t = t_eps[0] + (t_eps[1] - t_eps[0]) * t
        states = _features(flow, replay, low, part.shape[1]).repeat_interleave(samples, dim=1)
        drawn, others = curvature(flow, states, part.flatten(1, 2), t.flatten(1, 2), desmooth=desmooth)
        vectors[:, low : low + step] = drawn.view(*part.shape[:3], *drawn.shape[2:])
        if rest is not None and others is not None:
            rest[:, low : low + step] = others.view(part.shape[:3])
    return vectors, rest


@torch.no_grad()
def _features(flow: StackedMLP, replay: Replay, low: int, count: int) -> Tensor:
    """The flow's input for `count` states from row `low` on, [S, count, O]; images are encoded."""
    states = replay.states(torch.arange(low, low + count, device=replay.act.device))
    return flow.features(states.expand(*flow.lead, *states.shape))


def _chunk(flow: StackedMLP, per_state: Tensor) -> int:
    """States per pass, for tensors [S, R, M, A] of M flow inputs per state."""
    states = max(CHUNK[per_state.device.type] // per_state.shape[2], 1)
    return states if flow.encoder is None else min(states, IMAGES)

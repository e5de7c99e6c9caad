"""The geometry of a pretrained behaviour flow, and its loss over the training, on a sample that is fixed by a rule.

States are rows of the data at equal distances, in time order. Noise comes from one stream, the same for every seed and step, so
that the flows of two steps differ by their weights alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, SupportsFloat

import numpy as np
import torch
from torch import Tensor

from fd.method import spectra
from fd.method.fisher import VARIANCE_FLOOR, eigvalsh, hessian, state_scores
from fd.method.flow import base_actions, matching_loss
from fd.networks.mlp import StackedMLP
from fd.training.replay import Replay

FLOW_STEPS = 10  # midpoint steps of a base action
INPUTS = 16384  # flow inputs of one seed in a pass
BLOCKS, STATES, PAIRS = (
    64,
    64,
    4,
)  # of the loss: blocks of neighbouring states, states of a block, (noise, time) of a state
LEVELS = (0.1, 0.5, 0.9)  # quantiles that are told
BOUND = 0.95  # components beyond it are at the limits of actions, -1 and 1


@dataclass(frozen=True)
class Sample:
    """Size of the sample.

    Attributes:
        time: t of curvatures, scores and modes, within (0, 1).
        states: states.
        actions: base actions of a state, for curvatures and modes.
        scores: K, scores that span F of a state.
    """

    time: float
    states: int
    actions: int
    scores: int


def loss_of(flow: StackedMLP, replay: Replay) -> Tensor:
    """Flow-matching loss of every seed on BLOCKS blocks of the data, [S, BLOCKS].

    A block is STATES transitions at equal distances, each with PAIRS pairs of noise and time. Blocks follow each other in time, so that
    their spread contains that of the episodes.
    """
    rows = _spread(replay.starts, BLOCKS * STATES).view(BLOCKS, STATES)
    stream = torch.Generator().manual_seed(0)
    losses = []
    for block in rows:
        states = _features(flow, replay, block).repeat_interleave(PAIRS, dim=1)
        act = replay.act[block].repeat_interleave(PAIRS, dim=0)
        x0 = torch.randn(act.shape, generator=stream).to(act)
        t = torch.rand(len(act), 1, generator=stream).to(act)
        act, x0, t = (part.expand(len(states), *part.shape) for part in (act, x0, t))
        with torch.no_grad():
            losses.append(matching_loss(flow, states, act, x0=x0, t=t))
    return torch.stack(losses, dim=1)


def means_of(losses: Tensor) -> list[float]:
    """Mean loss of every seed, S numbers, from a result of `loss_of`."""
    return [_rounded(mean) for mean in losses.double().mean(dim=-1)]


def curve_of(losses: Sequence[Tensor], steps: Sequence[int]) -> dict[str, Any]:
    """The loss of the kept flows over the training, as JSON values.

    Args:
        losses: T results of `loss_of`, [S, BLOCKS] each.
        steps: of training, T, ascending.

    Returns:
        means: [T][S]; errors: standard error of the mean over seeds, T, by the spread over blocks of the data; fall: how much the loss
        still falls at the end, and the standard error of that number, both as shares of the loss in the last quarter of the training.
        The fall is the mean loss of the flows of the third quarter minus that of the last quarter. It compares flows on the
        same states and noise, so the error of the level does not enter. Its error has two independent parts: the spread of the
        fall over blocks, and its spread over seeds, which train on different draws. None if no flow was kept in the third quarter.
    """
    level = torch.stack(list(losses)).double()  # [T, S, BLOCKS]
    errors = level.mean(dim=1).std(dim=-1) / BLOCKS**0.5
    shares = torch.tensor(steps) / steps[-1]
    third, last = level[(shares > 0.5) & (shares <= 0.75)], level[shares > 0.75]
    told = {
        "means": [means_of(losses) for losses in level],
        "errors": list(map(_rounded, errors)),
    }
    if not len(third):
        return told | {"fall": None}
    fall = third.mean(dim=0) - last.mean(dim=0)  # [S, BLOCKS]
    parts = [fall.mean(dim=0), *([fall.mean(dim=1)] if len(fall) > 1 else [])]
    error = sum(float(part.var()) / len(part) for part in parts) ** 0.5
    return told | {"fall": [_rounded(fall.mean() / last.mean()), _rounded(error / last.mean())]}


def shape_of(flow: StackedMLP, replay: Replay, sample: Sample) -> dict[str, Any]:
    """Spectra and modes of the finished flow, over all seeds and sampled states, as JSON values; see `summary`."""
    passes = [
        measured(flow, states, actions, sample)
        for states, actions in _passes(flow, replay, sample, max(sample.actions, sample.scores))
    ]
    return summary({name: torch.cat([found[name] for found in passes]) for name in passes[0]}, sample)


def conditions_of(flow: StackedMLP, replay: Replay, sample: Sample) -> dict[str, list[float]]:
    """Quantiles (LEVELS) of the condition number of the curvature at base actions, by form, over seeds and states; see `summary`."""
    passes = [_curvatures(flow, *found, sample.time) for found in _passes(flow, replay, sample, sample.actions)]
    values, bounded = (torch.cat(parts) for parts in zip(*passes, strict=True))
    return {form: found["condition"] for form, found in _local_spectra(values, bounded, sample.time).items()}


def measured(flow: StackedMLP, states: Tensor, actions: Tensor, sample: Sample) -> dict[str, Tensor]:
    """What the spectra and modes of some states are made of; N is S B.

    Args:
        flow: velocity network.
        states: [S, B, O], encoded if they are images.
        actions: base actions of every state, at least as many as `sample` asks for, [S, B, M, A].
        sample: how many of them count, and the time.

    Returns:
        state: eigenvalues of F from K scores, [N, A]; local: of the curvature at base actions, with their sign, [N * actions, A];
        bounded: whether a base action has a component within 1 - BOUND of the limits of actions, [N * actions]; modes: their
        number, [N].
    """
    few, many = actions[:, :, : sample.actions], actions[:, :, : sample.scores]
    noise = torch.randn(many.shape[1:], generator=torch.Generator().manual_seed(1)).to(many)
    t = torch.full_like(many[..., :1], sample.time)
    scores = state_scores(flow, states, many, x0=noise.expand_as(many), t=t, formula="exact")
    local, bounded = _curvatures(flow, states, few, sample.time)
    return {
        "state": eigvalsh(scores.mT @ scores / sample.scores).flatten(0, 1),
        "local": local,
        "bounded": bounded,
        "modes": spectra.count_modes(flow, states, few, sample.time).flatten(),
    }


def summary(found: dict[str, Tensor], sample: Sample) -> dict[str, Any]:
    """The results of `measured` as JSON values.

    Returns:
        spectra: by form, quantiles (LEVELS) of the standard deviation along the narrowest and the widest axis of a matrix, and of its
            condition number; the share of matrices with an axis at the floor of the desmoothed variance; and `chance`, the median
            condition number that the matrix of an isotropic policy has because K is finite (1 for curvatures, which are not
            sampled). `state` is F of a state from K scores, `local` the curvature at a base action, each as it is at t and
            desmoothed; `within modes` are the desmoothed curvatures of the actions that are neither bounded nor saddles, if any.
        bounded: share of actions with a component at the limits, where clipped data pile up.
        saddles: share of actions at which -log p curves downwards along an axis, as between two modes.
        within: share of actions that are neither.
        modes: share of states by number of modes, "0" where it cannot be told.
    """
    spectrum = {}
    for form in ("state", "state desmoothed"):
        desmooth = form.endswith("desmoothed")
        chance = spectra.chance_condition(found["state"], sample.scores, sample.time, desmooth=desmooth)
        spectrum[form] = _spectrum(found["state"], sample.time, desmooth=desmooth) | {"chance": _rounded(chance)}
    modes, local, bounded = found["modes"], found["local"], found["bounded"]
    saddles = (local <= 0).any(dim=-1)
    return {
        "spectra": spectrum | _local_spectra(local, bounded, sample.time),
        "bounded": _rounded(bounded.double().mean()),
        "saddles": _rounded(saddles.double().mean()),
        "within": _rounded((~bounded & ~saddles).double().mean()),
        "modes": {str(n): _rounded((modes == n).double().mean()) for n in sorted(set(modes.tolist()))},
    }


def _local_spectra(eigenvalues: Tensor, bounded: Tensor, time: float) -> dict[str, dict[str, Any]]:
    """Spectra of the curvatures with these eigenvalues, [N, A], at actions that are bounded or not, [N], by form."""
    within = eigenvalues[~bounded & (eigenvalues > 0).all(dim=-1)]
    found = {
        "local": _spectrum(eigenvalues, time, desmooth=False),
        "local desmoothed": _spectrum(eigenvalues, time, desmooth=True),
    }
    return found | ({"within modes": _spectrum(within, time, desmooth=True)} if len(within) else {})


def _spectrum(eigenvalues: Tensor, time: float, *, desmooth: bool) -> dict[str, Any]:
    variances = spectra.axis_variances(eigenvalues.double(), time, desmooth=desmooth)
    narrow, wide = variances.amin(dim=-1), variances.amax(dim=-1)
    return {
        "narrowest": _quantiles(narrow.sqrt()),
        "widest": _quantiles(wide.sqrt()),
        "condition": _quantiles(wide / narrow),
        "floor": _rounded((narrow <= VARIANCE_FLOOR).double().mean()),
        "chance": 1.0,
    }


def _curvatures(flow: StackedMLP, states: Tensor, actions: Tensor, time: float) -> tuple[Tensor, Tensor]:
    """Eigenvalues of the curvature at base actions [S, B, M, A], with their sign, [S * B * M, A], and which actions are bounded."""
    flat = actions.flatten(1, 2)
    t = torch.full_like(flat[..., :1], time)
    matrices = hessian(flow, states.repeat_interleave(actions.shape[2], dim=1), t * flat, t)
    return eigvalsh(matrices).flatten(0, 1), (flat.abs() > BOUND).any(dim=-1).flatten()


def _passes(flow: StackedMLP, replay: Replay, sample: Sample, count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Sampled states [S, B, O] and `count` base actions of each, [S, B, count, A], in passes of INPUTS rows of each seed.

    The noise is the same for all seeds, flows and passes, and that of the first actions does not depend on their count.
    """
    rows, width = _spread(replay.starts, sample.states), replay.act.shape[1]
    step = max(INPUTS // max(sample.actions, sample.scores), 1)
    for low in range(0, sample.states, step):
        obs = _features(flow, replay, rows[low : low + step])
        seeds, batch, _ = obs.shape
        noise = torch.randn(count, batch, width, generator=torch.Generator().manual_seed(0)).to(obs)
        flat = noise.movedim(0, 1).flatten(0, 1).expand(seeds, -1, -1)
        repeated = obs.repeat_interleave(count, dim=1)
        drawn = base_actions(flow, repeated, flat, steps=FLOW_STEPS, solver="midpoint")
        yield obs, drawn.view(seeds, batch, count, width)


@torch.no_grad()
def _features(flow: StackedMLP, replay: Replay, rows: Tensor) -> Tensor:
    """The flow's input for the states of rows [B], [S, B, O]; images are encoded."""
    states = replay.states(rows)
    return flow.features(states.expand(*flow.lead, *states.shape))


def _spread(rows: Tensor, count: int) -> Tensor:
    """`count` of the rows at equal distances, first and last among them; rows come again if there are fewer."""
    return rows[torch.linspace(0, len(rows) - 1, count, dtype=torch.float64).long().to(rows.device)]


def _quantiles(values: Tensor) -> list[float]:
    """LEVELS of values [N]."""
    return [_rounded(value) for value in np.quantile(values.cpu().numpy(), LEVELS)]


def _rounded(value: SupportsFloat) -> float:
    """Six digits: another order of sums does not change them."""
    return float(f"{float(value):.6g}")

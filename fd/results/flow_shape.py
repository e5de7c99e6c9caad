"""The geometry of the pretrained flows, as the stage `geometry` measured it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from fd.errors import FdError
from fd.results.grid import Grid
from fd.results.origins import Provenance
from fd.settings.fields import Strict
from fd.settings.geometry_settings import Geometry
from fd.settings.messages import validated
from fd.storage.files import read_record

Quantiles = tuple[float, float, float]  # 10 %, 50 %, 90 %
CERTAIN = 2.0  # standard errors by which a loss must fall to be called still falling


class Spectrum(Strict):
    """Standard deviations, in units of an action, and condition numbers of the matrices of one form; see `fd.training.flow_geometry`."""

    narrowest: Quantiles
    widest: Quantiles
    condition: Quantiles
    floor: float  # share of matrices with an axis at the floor of the desmoothed standard deviation
    chance: float  # median condition number of the matrix of an isotropic policy, because it is estimated from K scores


class FlowLoss(Strict):
    """Flow-matching loss over the training: `means` [T][S], `errors` of their means over seeds [T]."""

    unseen: bool  # measured on validation episodes that no training reads, else on the data
    data: tuple[float, ...]  # of every finished flow, on the data
    means: tuple[tuple[float, ...], ...]
    errors: tuple[float, ...]
    fall: (
        tuple[float, float] | None
    )  # from the third to the last quarter of the training, as a share, and its standard error


class FlowShape(Strict):
    """Geometry of one task's flows, all seeds together."""

    sample: Geometry
    steps: tuple[int, ...]  # T, of the kept flows
    loss: FlowLoss
    conditions: tuple[dict[str, Quantiles], ...]  # T, condition numbers by form
    spectra: dict[str, Spectrum]  # by form; without `within modes` if no action is
    bounded: float  # share of actions with a component at the limits of actions
    saddles: float  # share of actions at which -log p curves downwards along an axis
    within: float  # share of actions that are neither
    modes: dict[str, float]  # share of states by number of modes, "0" where it cannot be told

    @property
    def improving(self) -> bool | None:
        """Whether the loss was still falling when the training ended; None where too few flows were kept to tell."""
        return None if self.loss.fall is None else self.loss.fall[0] > CERTAIN * self.loss.fall[1]


def largest_gain(condition: float) -> float:
    """(k + 1) / (2 sqrt k): the most that a metric F of condition number k, at least 1, gains over the identity.

    Q is linear with gradient q, and the KL, to second order, is the same, c. Along F^-1 q the gain of Q is sqrt(c q' F^-1 q); along q it is
    q'q sqrt(c / q' F q). The largest ratio over all q is the square root of Kantorovich's bound.
    """
    return (condition + 1) / (2 * math.sqrt(condition))


def gather_shapes(plan: Grid, folder: Path, provenance: Provenance) -> dict[str, FlowShape]:
    """The geometry of every task of the plan, from `folder/<task>.json`; see `read_shape`."""
    found = {}
    for task in plan.tasks:
        data, flow = provenance.manifests[task.name].sha256, provenance.pretrain[task.name].flow()
        wanted = {"task": task.name, "seeds": list(plan.seeds), "data_sha256": data, "flow_sha256": flow}
        found[task.name] = read_shape(folder / f"{task.name}.json", wanted)
    return found


def read_shape(path: Path, wanted: Mapping[str, object]) -> FlowShape:
    """The geometry in a file, whose origin must have the wanted values.

    Raises:
        FdError: the file is missing or damaged, lacks a field, or was measured on other data, seeds or flows.
    """
    values = read_record(path, "every task of params.yaml needs one")
    origin = {name: values.pop(name, None) for name in ("task", "seeds", "data_sha256", "flow_sha256")}
    for name, value in wanted.items():
        if origin[name] != value:
            raise FdError(f"{path}: {name} is not that of the data and the flows; run this stage again")
    return validated(FlowShape, values, str(path))

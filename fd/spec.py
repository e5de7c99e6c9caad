"""What defines an agent, as one flat record that travels in the header of every snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from fd.errors import FdError


@dataclass(frozen=True)
class Spec:
    """Shapes, switches and hyperparameters of an agent. params.yaml explains each under the same name."""

    obs_dim: int
    act_dim: int
    hidden: tuple[int, ...]
    flow_steps: int
    policy: str
    behaviour: str
    metric: str
    score: str
    t_eps: tuple[float, float]
    fisher_samples: int
    damping: float
    normalise: str
    dual: str
    dual_init: float
    grad_clip: float
    learning_rate: float
    discount: float
    tau: float
    q_agg: str
    normalize_q: bool
    target_divergence: float
    alpha: float

    @classmethod
    def of(cls, *sections: Mapping[str, Any]) -> Spec:
        """Spec from sections that together hold every field; other keys are left out."""
        merged: dict[str, Any] = {}
        for section in sections:
            merged.update(section)
        values: dict[str, Any] = {field.name: merged[field.name] for field in fields(cls)}
        return cls(**{**values, "hidden": tuple(values["hidden"]), "t_eps": tuple(values["t_eps"])})

    @classmethod
    def from_record(cls, record: Any, place: str) -> Spec:
        """Spec from the record in a snapshot's header.

        Raises:
            FdError: it is not what `dataclasses.asdict` gives; `place` is named.
        """
        try:
            return cls.of(record)
        except (ValueError, KeyError, TypeError) as error:
            raise FdError(f"{place}: header does not describe an agent: {error}") from None

"""What defines an agent, as one flat record that travels in the header of every snapshot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

from fd.errors import FdError


@dataclass(frozen=True)
class Spec:
    """Shapes, switches and hyperparameters of an agent. params.yaml explains each under the same name.

    What has a default is a switch that only some methods have.
    """

    obs_shape: tuple[int, ...]  # of an observation as the networks see it, its images stacked
    act_dim: int
    hidden: tuple[int, ...]
    flow_steps: int
    flow_solver: str
    policy: str
    learning_rate: float
    discount: float
    tau: float
    q_agg: str
    normalize_q: bool
    target_divergence: float
    alpha: float
    expectile: float
    iql_alpha: float
    rebrac_alpha: float
    rebrac_alpha_critic: float
    encoder: tuple[int, ...] = ()
    frame_stack: int = 1
    augmentation: float = 0.0
    critic: str = "td"
    behaviour: str = "frozen"
    metric: str = "identity"
    score: str = "exact"
    t_eps: tuple[float, float] = (0.5, 0.5)
    fisher_samples: int = 1
    damping: float = 0.0
    normalise: str = "none"
    desmooth: bool = False
    dual: str = "fixed"
    dual_init: float = 1.0
    extraction: str = "none"
    target_noise: float = 0.0
    noise_clip: float = 0.0
    policy_every: int = 1
    grad_clip: float = 0.0

    @property
    def acts_by_flow(self) -> bool:
        """Whether the policy integrates the flow when it acts."""
        return self.policy in ("flow", "residual")

    @property
    def based(self) -> bool:
        """Whether training needs base actions of the flow."""
        return self.policy in ("residual", "onestep")

    @property
    def state_scores(self) -> bool:
        """Whether training needs the K scores of a state."""
        return self.policy == "residual" and self.metric == "state"

    @property
    def action_scores(self) -> bool:
        """Whether training needs the score of each base action."""
        return self.policy == "residual" and self.metric in ("action", "stein")

    @classmethod
    def of(cls, *sections: Mapping[str, Any]) -> Spec:
        """Spec from sections that together hold every field without a default; other keys are left out."""
        merged: dict[str, Any] = {}
        for section in sections:
            merged.update(section)
        values: dict[str, Any] = {
            f.name: merged[f.name] for f in fields(cls) if f.default is MISSING or f.name in merged
        }
        values |= {name: tuple(values[name]) for name in ("obs_shape", "hidden", "encoder", "t_eps") if name in values}
        return cls(**values)

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

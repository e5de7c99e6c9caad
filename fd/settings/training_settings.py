"""Sections `network` and `pretrain` of params.yaml, and the settings that all training shares."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import model_validator

from fd.errors import FdError
from fd.method.bounds import Rate
from fd.method.spec import NetworkShape
from fd.settings.fields import Count, Strict

MOST_ROWS = 10**5  # rows of a training log, and steps per row


class Network(Strict, NetworkShape):
    """Section `network`."""

    @model_validator(mode="after")
    def _images(self) -> Network:
        if not self.encoder and (self.frame_stack > 1 or self.augmentation > 0):
            key, value = (
                ("frame_stack", self.frame_stack) if self.frame_stack > 1 else ("augmentation", self.augmentation)
            )
            raise ValueError(
                f"{key}: {value} applies to images, but encoder: [] takes vectors (allowed: {int(key == 'frame_stack')})"
            )
        return self

    def observed(self, obs_shape: Sequence[int], place: str) -> tuple[int, ...]:
        """Shape of an observation as the networks see it, its images stacked, from its shape in the data.

        Raises:
            FdError: images without an encoder, or vectors with one; the message names `place`.
        """
        if (len(obs_shape) == 3) != bool(self.encoder):
            kind, allowed = ("images", "[16, 32, 32], for example") if len(obs_shape) == 3 else ("vectors", "[]")
            raise FdError(
                f"{place}.network.encoder: {list(self.encoder)}, but the data hold {kind} (allowed: {allowed})"
            )
        return (*obs_shape[:-1], obs_shape[-1] * self.frame_stack)


class TrainingSchedule(Strict):
    """Training that writes a row of its log every `log_every` steps."""

    steps: Count
    batch_size: Count  # per seed
    log_every: Count

    @model_validator(mode="after")
    def _rows(self) -> TrainingSchedule:
        if self.steps % self.log_every:
            raise ValueError(f"steps: {self.steps} is not a multiple of log_every: {self.log_every}")
        if self.steps // self.log_every > MOST_ROWS or self.log_every > MOST_ROWS:
            raise ValueError(
                f"log_every: {self.log_every}, allowed: up to {MOST_ROWS}, and up to {MOST_ROWS} rows in {self.steps} steps"
            )
        return self


class Pretrain(TrainingSchedule):
    """Section `pretrain`: flow matching of the behaviour policy."""

    learning_rate: Rate


class Evaluated(TrainingSchedule):
    """Training with evaluations at regular steps."""

    evaluate_every: Count

    @model_validator(mode="after")
    def _evaluations(self) -> Evaluated:
        if self.evaluate_every % self.log_every:
            raise ValueError(f"evaluate_every: {self.evaluate_every} is not a multiple of log_every: {self.log_every}")
        if self.steps % self.evaluate_every:
            raise ValueError(f"steps: {self.steps} is not a multiple of evaluate_every: {self.evaluate_every}")
        return self

"""cluster.yaml: the resources of a cell by the kind of its stage. No stage depends on them, so a change reruns nothing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import model_validator

from fd.errors import FdError
from fd.method.bounds import Positive, Within
from fd.settings.fields import Form, Strict
from fd.settings.messages import known, validated
from fd.storage.untrusted import read_text, read_yaml

Word = Annotated[str, Form(r"^[A-Za-z0-9][A-Za-z0-9_,.:-]*$", "letters, digits and _,.:-")]
Option = Annotated[str, Form(r"^--[a-z][a-z-]*(=.*)?$", "an option of sbatch as one word, like --account=lab")]

OWN = {"array", "chdir", "dependency", "job-name", "kill-on-invalid-dep", "no-requeue", "open-mode", "output", "parsable", "requeue", "signal", "wrap"}  # fmt: skip


class Resources(Strict):
    """What a cell gets."""

    gpus: Annotated[float, Within(ge=0, le=64)]  # below 1: a share of one, which the cell sees as its only GPU
    cores: Annotated[int, Within(ge=1, le=1024)]
    memory: Positive | None  # GiB; null: the default of the cluster
    hours: Positive | None  # after which Slurm stops the cell, which then resumes; null: the default of the partition
    retries: Annotated[int, Within(ge=0, le=100)]  # after a failure that is no refusal of the settings
    partition: Word | None  # of Slurm
    slurm: tuple[Option, ...]  # further options of sbatch
    ray: dict[Word, Positive]  # further resources that Ray knows by name

    @model_validator(mode="after")
    def _allowed(self) -> Self:
        if self.gpus > 1 and not self.gpus.is_integer():
            raise ValueError(f"gpus: {self.gpus}, allowed: a share of one GPU, or a whole number")
        if taken := [option for option in self.slurm if option[2:].partition("=")[0] in OWN]:
            raise ValueError(f"slurm: {taken[0]!r}, allowed: options that `fidec cluster` does not set itself")
        if taken := [name for name in self.ray if name in ("CPU", "GPU", "memory")]:
            raise ValueError(f"ray: {taken[0]!r}, allowed: other resources; this one has a key of its own")
        return self


def read_resources(path: Path, kinds: Collection[str]) -> dict[str, Resources]:
    """The resources of every kind of stage.

    Args:
        path: of cluster.yaml.
        kinds: the kinds of the pipeline.

    Raises:
        FdError: the file cannot be read or is invalid.
    """
    values = read_yaml(read_text(path), str(path))
    try:
        if not isinstance(values, dict) or set(values) != {"defaults", "kinds"}:
            raise FdError("holds other keys, allowed: defaults, kinds")
        defaults = validated(Resources, values["defaults"], "defaults").model_dump()
        overrides = validated(dict[str, dict[str, Any]], values["kinds"], "kinds")
        for kind in overrides:
            known(kind, kinds, "kinds")
        return {kind: _merged(defaults, overrides.get(kind, {}), kind) for kind in kinds}
    except FdError as error:
        raise FdError(f"{path}: {error}") from None


def _merged(defaults: Mapping[str, Any], overrides: Mapping[str, Any], kind: str) -> Resources:
    return validated(Resources, {**defaults, **overrides}, "kinds", kind)

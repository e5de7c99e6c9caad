"""Sections of params.yaml that only reports read: `report`, `regress`, `ablations` and `film`."""

from __future__ import annotations

from typing import Annotated

from fd.method.bounds import Share, Within
from fd.settings.fields import DISTINCT, Seed, Slug, Strict


class Report(Strict):
    """Statistics of the report."""

    confidence: Share
    bootstrap: Annotated[int, Within(ge=100, le=10**6)]
    seed: Seed


class Regress(Strict):
    """When a drop below the baseline is a regression, and the simulation that shows which drops are detected."""

    level: Share
    tolerance: Annotated[float, Within(ge=0, lt=100)]  # points of score
    simulations: Annotated[int, Within(ge=20, le=10**5)]
    seeds: Annotated[tuple[Annotated[int, Within(ge=2, le=1000)], ...], Within(min_length=1)]
    episodes: Annotated[tuple[Annotated[int, Within(ge=1, le=10**5)], ...], Within(min_length=1)]  # of a seed's score


class Ablation(Strict):
    """Methods that differ in one respect. `values`: label -> method."""

    about: Annotated[str, Within(min_length=1, max_length=200)]
    values: Annotated[dict[str, Slug], Within(min_length=2), DISTINCT]


class Filmed(Strict):
    """Tasks and methods of the stage `film`; none: no films."""

    tasks: Annotated[tuple[Slug, ...], DISTINCT]
    methods: Annotated[tuple[Slug, ...], DISTINCT]

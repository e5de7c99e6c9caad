"""Numbers as all pages of the reports write them."""

from __future__ import annotations

import math


def plus_minus(mean: float, spread: float | None) -> str:
    """`20.7 ± 1.3`, or only the mean if there is no spread (None or nan)."""
    return f"{mean:.1f}" if spread is None or math.isnan(spread) else f"{mean:.1f} ± {spread:.1f}"


def significant(value: float, digits: int) -> str:
    """A number with so many significant digits, or "" if there is none (nan)."""
    return "" if math.isnan(value) else f"{value:.{digits}g}"


def interval(low: float, high: float) -> str:
    """`[17.6, 23.9]`, or "" if there is no interval (nan)."""
    return "" if math.isnan(low) else f"[{low:.1f}, {high:.1f}]"


def percent(share: float) -> str:
    """A share in percent, `12 %`, or `under 1 %` if it would be rounded to none."""
    return f"{100 * share:.0f} %" if share == 0 or share >= 0.005 else "under 1 %"


def clock(seconds: float) -> str:
    """Minutes and seconds, `2:05`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"

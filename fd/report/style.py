"""The style of all figures: SVG that depends only on the results, byte for byte.

The colours are those of Okabe and Ito, which people with a colour-vision deficiency can tell apart.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.figure import Figure

COLOURS = ("#6E6E6E", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#56B4E9", "#E69F00")
DARK = "#222222"  # for elements that belong to no method
BACKGROUND = "#E9E9E9"  # for elements that belong to all methods
WIDTH = 7.0  # inches: two columns of a paper
STYLE: Any = {
    "svg.hashsalt": "fd",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
}


@contextmanager
def style() -> Iterator[None]:
    """Drawing and saving inside this context does not depend on the user's matplotlib settings."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def svg(figure: Figure) -> str:
    """The figure as an SVG document."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines()) + "\n"

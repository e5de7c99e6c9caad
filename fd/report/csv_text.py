"""Tables as CSV."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd


def csv_text(rows: Iterable[dict[str, Any]], floats: str = "%.2f") -> str:
    """Rows, each by column name, as CSV; nan, None and missing values are empty. `floats` is the format of float columns."""
    return pd.DataFrame(rows).to_csv(index=False, float_format=floats, lineterminator="\n")

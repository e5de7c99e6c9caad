"""Files in the scratch folder of an unfinished cell that `fidec watch` reads."""

from __future__ import annotations

ANNOUNCED = "cell.json"  # what the cell is
PROGRESS = "progress.csv"  # its training log, up to the last row

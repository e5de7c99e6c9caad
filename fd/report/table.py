"""A table as pages have it, before it is Markdown or HTML."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """Cells are Markdown, with `<br>` between the lines of a cell; `align`: see `fd.report.markdown.markdown_table`."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str = "l"

    def turned(self) -> Table:
        """Rows as columns; the alignment stays."""
        head, *rows = zip(self.head, *self.rows, strict=True)
        return Table(head, rows, self.align)

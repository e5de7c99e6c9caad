"""Tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MARKS = {"l": "---", "r": "---:"}


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]], align: str = "l") -> str:
    """A table without padding, so that a row of a page changes only with its own cells.

    `align`: `l` or `r` for each column; the last letter also applies to all columns after it.
    """
    marks = (MARKS[letter] for letter in align.ljust(len(head), align[-1]))
    return "\n".join([_line(head), f"|{'|'.join(marks)}|", *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    escaped = (cell.replace("|", r"\|") for cell in cells)
    return f"| {' | '.join(escaped)} |"

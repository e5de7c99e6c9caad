"""Pages are templates of Jinja2 in the folder `templates`; the modules of the pages compute the values.

The lists in `code/` name no templates: in dvc.yaml, a stage depends on the templates of its pages.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, pass_context, select_autoescape
from jinja2.runtime import Context

from fd.report.markdown import markdown_table
from fd.report.text import clock, percent, significant

NOTE, WARNING, END = "\ue000", "\ue001", "\ue002"  # around a part of a text that a web page sets apart
FOLDER = Path(__file__).parent / "templates"


@pass_context
def note(context: Context, text: str) -> str:
    """An explanation, which a web page hides until somebody asks for it."""
    return f"{NOTE}{text}{END}" if context.get("web") else text


@pass_context
def warning(context: Context, text: str) -> str:
    """A text that a reader must see."""
    return f"{WARNING}{text}{END}" if context.get("web") else text


TEMPLATES = Environment(
    loader=FileSystemLoader(FOLDER),
    autoescape=select_autoescape(["html.jinja"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters |= {
    "clock": clock,
    "note": note,
    "percent": percent,
    "significant": significant,
    "table": lambda table: markdown_table(*table),
    "thousands": lambda number: f"{number:,}",
    "warning": warning,
}
WRAPPED = re.compile(r"(?<=\S)\n(?![\s|#]|- |!\[)")  # the end of a line inside a paragraph


def render_markdown(name: str, values: Mapping[str, Any]) -> str:
    """The page of a Markdown template; every paragraph is one line, so that a page changes only where its text does."""
    return WRAPPED.sub(" ", TEMPLATES.get_template(name).render(values)).rstrip() + "\n"


def render_block(name: str, block: str, values: Mapping[str, Any]) -> str:
    """One block of a Markdown template, for a web page."""
    template = TEMPLATES.get_template(name)
    return "".join(template.blocks[block](template.new_context({**values, "web": True}))).strip()

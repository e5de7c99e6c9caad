"""A page as one HTML file that needs nothing else: Markdown becomes HTML, figures become part of the page.

The colours of the figures follow the colours of the page, light or dark.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from markdown_it import MarkdownIt
from markdown_it.rules_inline import StateInline
from markupsafe import Markup, escape

from fd.report.rendering import END, NOTE, TEMPLATES, WARNING
from fd.report.style import BACKGROUND, COLOURS, DARK

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
PAINTS = {"#ffffff": "none", "#000000": "currentColor", DARK: "currentColor"}
PAINTS |= {BACKGROUND: "var(--band)", "#e4e4e4": "var(--line)"}
PAINTS |= {colour: f"var(--colour-{place}, {colour})" for place, colour in enumerate(COLOURS)}
PAINTS = {colour.lower(): paint for colour, paint in PAINTS.items()}  # as matplotlib writes them
PAINT = re.compile("|".join(PAINTS))
PARTS = re.compile(f"([{NOTE}{WARNING}{END}])")
BOXES = {
    NOTE: Markup("<details><summary>How to read this</summary>{}</details>"),
    WARNING: Markup('<div class="warning">{}</div>'),
}
POINT = 4 / 3  # pixels


def render_web_page(name: str, values: Mapping[str, Any], figures: Mapping[str, str]) -> str:
    """The page of an HTML template.

    Args:
        name: of the template; it extends web_page.html.jinja.
        values: of the template, which also has `html`: Markdown as HTML.
        figures: SVG documents, by the name by which `![text](name)` refers to them.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.inline.ruler.before("html_inline", "line", _line)
    parser.add_render_rule("image", _image)
    parser.add_render_rule("table_open", lambda *_: '<div class="table" tabindex="0"><table>')
    parser.add_render_rule("table_close", lambda *_: "</table></div>\n")

    def html(text: str) -> Markup:
        # Texts and parts that are set apart, in turn; the mark is an item of its own.
        parts = PARTS.split(text)
        return Markup("").join(
            BOXES.get(mark, Markup("{}")).format(Markup(parser.render(part, {"figures": figures})))
            for mark, part in zip(["", *parts[1::2]], parts[::2], strict=True)
        )

    return TEMPLATES.get_template(name).render({**values, "html": html})


def embedded(document: str, name: str, text: str) -> str:
    """An SVG document as an element of a page.

    Args:
        document: as matplotlib writes it.
        name: distinguishes the element's identifiers from those of other figures.
        text: what stands for the figure where it cannot be seen.
    """
    root = ElementTree.fromstring(document)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    prefix = re.sub(r"\W", "-", name)
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{SVG}}}")
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            value = re.sub(r"^#|(?<=url\()#", f"#{prefix}-", value) if key != "id" else f"{prefix}-{value}"
            element.set(key.removeprefix(f"{{{XLINK}}}"), PAINT.sub(lambda found: PAINTS[found[0]], value))
    width = POINT * float(root.attrib.pop("width").removesuffix("pt"))
    del root.attrib["height"]
    root.attrib |= {"role": "img", "aria-label": text, "style": f"--width: {width:.0f}px"}
    return ElementTree.tostring(root, encoding="unicode")


def _image(renderer: Any, tokens: Any, place: int, options: Any, env: Any) -> str:
    """`![text](name)` as the figure of that name; as text, if there is none: then it is part of a user's name."""
    token = tokens[place]
    name = str(token.attrGet("src"))
    text = " ".join(renderer.renderInlineAsText(token.children, options, env).split())
    if name not in env["figures"]:
        return str(escape(f"![{text}]({name})"))
    return f'<span class="figure" tabindex="0">{embedded(env["figures"][name], name, text)}</span>'


def _line(state: StateInline, silent: bool) -> bool:
    """`<br>` in a cell of a table: what comes after it is a line of its own."""
    if not state.src.startswith("<br>", state.pos):
        return False
    end = state.src.find("<br>", state.pos + 4)
    end = state.posMax if end < 0 else end
    if not silent:
        whole, state.posMax, state.pos = state.posMax, end, state.pos + 4
        state.push("small_open", "small", 1)
        state.md.inline.tokenize(state)
        state.push("small_close", "small", -1)
        state.posMax = whole
    state.pos = end
    return True

"""The page of a report in a real browser: it needs nothing outside itself, sorts its tables, fits a phone and is readable in the dark."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from browser import CHROMIUM, Browser
from example_suite import suite_params, write_suite
from test_report import run

from fd.report.style import COLOURS
from fd.report.web_page import embedded

LABEL = '<script>console.error("run")</script> a|b <br> "& ![x](y.svg)'
SCORES = {"bc": 15.0, "fql": 100.0, "fidec": 5.0}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a suite with an ablation, in a folder of its own; read only."""
    root = tmp_path_factory.mktemp("suite")
    params = suite_params({"near": "cube-single-play-singletask-task1-v0", "far": "made-v0"}, list(SCORES))
    params["ablations"] = {"kind": {"about": "kind of policy", "values": {"flow": "bc", LABEL: "fidec"}}}
    write_suite(
        root, params, score=lambda _, method, *rest: SCORES[method], constraint=lambda *a: (1.0, a[-1] / 1e5, 0.1)
    )
    assert run(root) == (0, "")
    alone = tmp_path_factory.mktemp("alone") / "index.html"
    return Path(shutil.copy(root / "reports" / "example" / "index.html", alone))


@pytest.fixture(scope="module")
def browser(page: Path) -> Iterator[Browser]:
    """The page in a browser."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with Browser() as found:
        found.open(page)
        yield found


class Tags(HTMLParser):
    """Tags of a page with their attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found = list[tuple[str, dict[str, str | None]]]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def tags(page: Path) -> list[tuple[str, dict[str, str | None]]]:
    parser = Tags()
    parser.feed(page.read_text())
    return parser.found


def test_every_figure_has_a_text_and_no_two_elements_one_name(page: Path) -> None:
    found = tags(page)
    figures = [attributes for tag, attributes in found if tag == "svg"]
    assert len(figures) == 5  # scores, learning curves, behaviour, constraint, the ablation
    assert all(one["role"] == "img" and len(str(one["aria-label"])) > 30 for one in figures)
    assert any("near: bc 15.0 to 15.0, fql 100.0 to 100.0" in str(one["aria-label"]) for one in figures)
    names = [attributes["id"] for _, attributes in found if "id" in attributes]
    assert len(names) == len(set(names))
    targets = {
        address[1:] for _, a in found for key in ("href", "xlink:href") if (address := a.get(key) or "")[:1] == "#"
    }
    assert targets <= set(names)


def test_the_navigation_names_every_section(page: Path) -> None:
    found = tags(page)
    sections = [attributes["id"] for tag, attributes in found if tag == "section"]
    links = [str(a["href"])[1:] for tag, a in found if tag == "a" and str(a.get("href")).startswith("#")]
    assert links == sections == [
        "scores", "curves", "published", "behaviour", "constraint", "ablations", "data", "time", "again",
    ]  # fmt: skip


def test_a_name_is_text_and_never_markup(page: Path) -> None:
    assert "<script>console" not in page.read_text()
    assert "&lt;script&gt;console.error" in page.read_text()
    assert "![x](y.svg)" in page.read_text()


def test_what_must_be_seen_is_set_apart_and_explanations_are_folded(page: Path) -> None:
    text = page.read_text()
    assert re.search(r'<div class="warning"><p>The penalty ended|<div class="warning"><p>The constraint was not', text)
    assert re.search(r"<details><summary>How to read this</summary><p>Score in percent: mean", text)


def test_figures_take_the_colours_of_the_page() -> None:
    document = (
        '<svg xmlns="http://www.w3.org/2000/svg" width="100pt" height="9pt" viewBox="0 0 100 9"><metadata>m</metadata>'
        '<defs><clipPath id="p"/></defs><path id="a" style="fill: #ffffff; stroke: #000000" clip-path="url(#p)"/>'
        f'<use href="#a" style="fill: {COLOURS[2].lower()}"/></svg>'
    )
    root = ElementTree.fromstring(embedded(document, "x.svg", 'a "text"'))
    assert root.attrib == {
        "viewBox": "0 0 100 9", "role": "img", "aria-label": 'a "text"', "style": "--width: 133px",
    }  # fmt: skip
    path, use = root.iter("path"), root.iter("use")
    assert next(path).attrib == {
        "id": "x-svg-a", "style": "fill: none; stroke: currentColor", "clip-path": "url(#x-svg-p)",
    }  # fmt: skip
    assert next(use).attrib == {"href": "#x-svg-a", "style": f"fill: var(--colour-2, {COLOURS[2]})"}
    assert "metadata" not in [element.tag for element in root.iter()]


def test_nothing_is_asked_for_and_nothing_complained_of(browser: Browser, page: Path) -> None:
    for dark in (False, True):
        browser.look(width=390, dark=dark)
    browser.ask("document.querySelectorAll('button, summary').forEach((one) => one.click())")
    addresses = [address for address in browser.requests() if not address.startswith(("data:", "about:"))]
    assert addresses == [page.as_uri()]
    assert browser.complaints() == []


def test_the_page_forbids_what_is_outside(browser: Browser) -> None:
    """The browser itself refuses an address, should a template ever name one."""
    browser.ask("document.body.append(Object.assign(new Image(), {src: 'https://example.org/a.png'}))")
    for _ in range(50):
        if browser.complaints():
            break
        browser.ask("new Promise((done) => setTimeout(done, 20))")
    assert "Content Security Policy" in str(browser.complaints())
    browser.events.clear()


def test_a_click_on_a_head_sorts_the_table(browser: Browser) -> None:
    first = "document.querySelector('#scores table')"
    column = f"[...{first}.tBodies[0].rows].map((row) => row.cells[0].textContent)"
    click = f"{first}.tHead.rows[0].cells[1].querySelector('button').click()"
    browser.ask(click)
    order = browser.ask(column)
    browser.ask(click)
    assert (order, browser.ask(column)) == (["fql", "bc", "fidec"], ["fidec", "bc", "fql"])
    assert browser.ask(f"{first}.tHead.rows[0].cells[1].ariaSort") == "ascending"


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_fits_its_window_and_is_readable(browser: Browser, width: int, dark: bool) -> None:
    browser.look(width=width, dark=dark)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    paper, *inks = browser.ask(
        "[getComputedStyle(document.body).backgroundColor].concat(['p', 'td', 'summary', '.warning p', 'svg']"
        ".map((one) => getComputedStyle(document.querySelector('main ' + one)).color))"
    )
    assert (luminance(paper) < 0.1) == dark
    assert all(contrast(ink, paper) > 4.5 for ink in inks), inks
    lines = browser.ask(
        "[...new Set([...document.querySelectorAll('svg path')].map((one) => getComputedStyle(one).stroke))]"
        ".filter((one) => one.startsWith('rgb('))"
    )
    assert len(lines) >= 4
    faint = [line for line in lines if contrast(line, paper) < 2]
    assert len(faint) <= 1, faint  # the grid


def luminance(colour: str) -> float:
    """Relative luminance of `rgb(r, g, b)`, as WCAG defines it."""
    shares = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)

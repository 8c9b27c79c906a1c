# SPDX-License-Identifier: Apache-2.0
"""The report page: self-contained, escaped, with every picture inside."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import plotly.graph_objects as go

from jepa_edge.report import Section, Table, write_page

PICTURE = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154"
    "789c63f8cfc0000003010100c9fe92ef0000000049454e44ae426082"
)


class _Links(HTMLParser):
    """Collects every src and href, and the text of table cells."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.cells: list[str] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        self._in_cell = tag == "td"

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.cells.append(data)
            self._in_cell = False


def test_the_page_stands_alone_and_escapes_what_it_shows(tmp_path: Path) -> None:
    hostile = "<script>alert('x')</script>"
    write_page(
        tmp_path / "page.html",
        hostile,
        "subtitle",
        [
            Section(
                title=hostile,
                paragraphs=[hostile],
                tables=[Table(header=("a",), rows=[[hostile]], caption=hostile)],
                figures=[go.Figure(go.Scatter(x=[1, 2], y=[3, 4]))],
                pictures=[(hostile, PICTURE)],
            )
        ],
    )
    text = (tmp_path / "page.html").read_text()
    assert hostile not in text
    page = _Links()
    page.feed(text)
    assert page.cells == [hostile]
    assert page.links
    assert all(link.startswith("data:") for link in page.links), "a page must work offline"
    (encoded,) = re.findall(r'<img alt="[^"]*" src="data:image/png;base64,([^"]+)"', text)
    assert base64.b64decode(encoded) == PICTURE
    assert text.count("Plotly.newPlot(") >= 1


def test_a_page_without_figures_carries_no_script(tmp_path: Path) -> None:
    write_page(tmp_path / "page.html", "t", "s", [Section(title="only text", paragraphs=["p"])])
    assert "<script" not in (tmp_path / "page.html").read_text()
    assert (tmp_path / "page.html").stat().st_size < 10_000


def test_shades_lists_and_drawings_need_no_script(tmp_path: Path) -> None:
    table = Table(
        header=("", "a", "b"),
        rows=[["x", "1", "2"]],
        shades=[[None, 0.0, 0.9]],
        upright=True,
        prose=True,
    )
    drawing = b"<svg xmlns='http://www.w3.org/2000/svg'/>"
    section = Section(
        title="t", points=["<b>one</b>"], tables=[table], drawings=[("a circle", drawing)]
    )
    write_page(tmp_path / "page.html", "t", "s", [section])
    text = (tmp_path / "page.html").read_text()
    assert "<script" not in text
    assert "<li>&lt;b&gt;one&lt;/b&gt;</li>" in text
    assert '<table class="upright prose">' in text
    assert '<td class="shaded" style="--shade: rgb(255, 255, 255)">1</td>' in text
    assert '<td class="shaded dark" style="--shade: rgb(25, 25, 25)">2</td>' in text
    (encoded,) = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', text)
    assert base64.b64decode(encoded) == drawing

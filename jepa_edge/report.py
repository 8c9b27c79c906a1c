# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page from sections of text, tables, drawings, pictures, plotly figures.

It prints on A4, in black and white too. Tables, drawings and pictures need no script.
Bench side: needs jinja2, and plotly for its figures, which the export and calibration extras bring.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells under a header; cells are shown as text. caption says what is to be seen.

    shades: per row and cell how dark its ground is, 0 (white) to 1 (black), None for plain; empty
    for no shading. upright: headers but the first stand on end, for many narrow columns. prose:
    cells break into lines and stand to the left.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    shades: Sequence[Sequence[float | None]] = ()
    upright: bool = False
    prose: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading, then paragraphs, a list of points, tables, plotly figures, drawings and pictures.

    drawings: caption and SVG file. pictures: caption and PNG file.
    """

    title: str
    paragraphs: Sequence[str] = ()
    points: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Any] = ()
    drawings: Sequence[tuple[str, bytes]] = ()
    pictures: Sequence[tuple[str, bytes]] = ()


_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<link rel="icon" href="data:,">
<style>
:root { --ink: #1b2733; --soft: #5b6b7b; --line: #dfe5ea; --accent: #0b6e99; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.55 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
       color: var(--ink); background: #f6f8fa; }
header { background: #10222f; color: #fff; padding: 2.2rem 1rem; }
header > div, main { max-width: 1080px; margin: 0 auto; }
header h1 { margin: 0 0 .3rem; font-size: 1.9rem; letter-spacing: -.01em; }
header p { margin: 0; max-width: none; color: #b9c9d4; }
main { padding: 1rem; }
section { background: #fff; border: 1px solid var(--line); border-radius: 8px;
          padding: 1.2rem 1.5rem; margin: 1.2rem 0; }
h2 { margin: .1rem 0 .6rem; font-size: 1.25rem; }
p { margin: .4rem 0; max-width: 78ch; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: .8rem 0; font-size: .9rem;
        font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { padding: .3rem 1rem .3rem 0; border-bottom: 1px solid var(--line); text-align: right;
         white-space: nowrap; }
th { color: var(--soft); font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; display: block; image-rendering: pixelated; }
figure { margin: .8rem 0; } figcaption { color: var(--soft); }
img.drawing { image-rendering: auto; width: 100%; max-width: 46rem; }
ul { margin: .4rem 0; padding-left: 1.2rem; max-width: 76ch; }
table.upright th:not(:first-child) { writing-mode: vertical-rl; transform: rotate(180deg);
         text-align: left; padding: .3rem .1rem; }
table.upright td:not(:first-child) { text-align: center; padding: .3rem .35rem; }
table.prose td, table.prose th { text-align: left; white-space: normal; vertical-align: top;
         overflow-wrap: break-word; }
td.shaded { background: var(--shade); print-color-adjust: exact;
            -webkit-print-color-adjust: exact; }
td.dark { color: #fff; }
@page { size: A4; margin: 16mm 14mm; }
@media print {
  body { background: #fff; color: #000; font-size: 10pt; line-height: 1.4; }
  header { background: #fff; color: #000; padding: 0 0 6pt; border-bottom: 1.5pt solid #000; }
  header h1 { font-size: 16pt; } header p { color: #000; }
  main { padding: 0; } section { border: 0; border-radius: 0; padding: 0; margin: 14pt 0; }
  h2 { font-size: 12.5pt; break-after: avoid; }
  th, caption, figcaption { color: #000; }
  .scroll { overflow: visible; }
  table { font-size: 8pt; } th, td { padding: 2pt 6pt 2pt 0; white-space: normal; }
  tr, figure, img { break-inside: avoid; } caption { break-after: avoid; }
  thead { display: table-header-group; }
  p, li { orphans: 3; widows: 3; }
  .plotly-graph-div { zoom: .64; } .modebar { display: none; }
}
</style>
{% if plotly %}<script>{{ plotly | safe }}</script>{% endif %}
</head><body>
<header><div><h1>{{ title }}</h1><p>{{ subtitle }}</p></div></header>
<main>
{% for section in sections %}<section><h2>{{ section.title }}</h2>
{% for paragraph in section.paragraphs %}<p>{{ paragraph }}</p>{% endfor %}
{% if section.points %}<ul>{% for point in section.points %}<li>{{ point }}</li>
{% endfor %}</ul>{% endif %}
{% for table in section.tables %}<div class="scroll"><table class="{{ style(table) }}">
{% if table.caption %}<caption>{{ table.caption }}</caption>{% endif %}
<thead><tr>{% for cell in table.header %}<th>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in table.rows %}<tr>{% set line = loop.index0 %}{% for cell in row %}
<td{{ ground(table, line, loop.index0) }}>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endfor %}
{% for figure in section.figures %}<figure>{{ render(figure) | safe }}</figure>{% endfor %}
{% for caption, drawing in section.drawings %}<figure>
<img class="drawing" alt="{{ caption }}" src="data:image/svg+xml;base64,{{ encode(drawing) }}">
<figcaption>{{ caption }}</figcaption></figure>{% endfor %}
{% for caption, picture in section.pictures %}<figure>
<img alt="{{ caption }}" src="data:image/png;base64,{{ encode(picture) }}">
<figcaption>{{ caption }}</figcaption></figure>{% endfor %}
</section>{% endfor %}
</main></body></html>
"""


def write_page(path: Path, title: str, subtitle: str, sections: Sequence[Section]) -> None:
    """Write the page; plotly's script is inlined once, so that the file works offline."""
    import jinja2

    def render(figure: Any) -> str:
        import plotly.io

        return str(
            plotly.io.to_html(
                figure, include_plotlyjs=False, full_html=False, config={"displaylogo": False}
            )
        )

    def encode(picture: bytes) -> str:
        return base64.b64encode(picture).decode()

    script = ""
    if any(section.figures for section in sections):
        import plotly.offline

        script = plotly.offline.get_plotlyjs()
    template = jinja2.Environment(autoescape=True).from_string(_TEMPLATE)
    html = template.render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        plotly=script,
        render=render,
        style=_style,
        ground=_ground,
        encode=encode,
    )
    path.write_text(html, encoding="utf-8")


def _style(table: Table) -> str:
    """CSS classes of a table."""
    return " ".join(name for name in ("upright", "prose") if getattr(table, name))


def _ground(table: Table, row: int, column: int) -> Any:
    """Attributes of a cell: its shade of gray, and white ink where that is dark."""
    import markupsafe

    shade = table.shades[row][column] if table.shades else None
    if shade is None:
        return ""
    gray = round(255 * (1.0 - min(max(shade, 0.0), 1.0)))
    dark = " dark" if gray < 128 else ""
    return markupsafe.Markup(f' class="shaded{dark}" style="--shade: rgb({gray}, {gray}, {gray})"')

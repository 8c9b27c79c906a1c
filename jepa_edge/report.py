# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page from sections of text, tables, pictures and plotly figures.

Bench side: needs jinja2 and plotly, which the export and calibration extras bring.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells under a header; cells are shown as text. caption says what is to be seen."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A heading, paragraphs, then tables, figures (plotly) and PNG pictures in that order."""

    title: str
    paragraphs: Sequence[str] = ()
    tables: Sequence[Table] = ()
    figures: Sequence[Any] = ()
    pictures: Sequence[tuple[str, bytes]] = field(default=())


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
@media print { body { background: #fff; } section { break-inside: avoid; border: 0; } }
</style>
{% if plotly %}<script>{{ plotly | safe }}</script>{% endif %}
</head><body>
<header><div><h1>{{ title }}</h1><p>{{ subtitle }}</p></div></header>
<main>
{% for section in sections %}<section><h2>{{ section.title }}</h2>
{% for paragraph in section.paragraphs %}<p>{{ paragraph }}</p>{% endfor %}
{% for table in section.tables %}<div class="scroll"><table>
{% if table.caption %}<caption>{{ table.caption }}</caption>{% endif %}
<thead><tr>{% for cell in table.header %}<th>{{ cell }}</th>{% endfor %}</tr></thead>
<tbody>{% for row in table.rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endfor %}
{% for figure in section.figures %}<figure>{{ render(figure) | safe }}</figure>{% endfor %}
{% for caption, picture in section.pictures %}<figure>
<img alt="{{ caption }}" src="data:image/png;base64,{{ encode(picture) }}">
<figcaption>{{ caption }}</figcaption></figure>{% endfor %}
</section>{% endfor %}
</main></body></html>
"""


def write_page(path: Path, title: str, subtitle: str, sections: Sequence[Section]) -> None:
    """Write the page; plotly's script is inlined once, so that the file works offline."""
    import jinja2
    import plotly.io
    import plotly.offline

    def render(figure: Any) -> str:
        return str(
            plotly.io.to_html(
                figure, include_plotlyjs=False, full_html=False, config={"displaylogo": False}
            )
        )

    def encode(picture: bytes) -> str:
        return base64.b64encode(picture).decode()

    has_figures = any(section.figures for section in sections)
    template = jinja2.Environment(autoescape=True).from_string(_TEMPLATE)
    html = template.render(
        title=title,
        subtitle=subtitle,
        sections=sections,
        plotly=plotly.offline.get_plotlyjs() if has_figures else "",
        render=render,
        encode=encode,
    )
    path.write_text(html, encoding="utf-8")

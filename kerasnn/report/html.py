"""A self-contained HTML page. Every text in it is escaped, because names come from users' files."""

import base64
import hashlib
from collections.abc import Iterable, Sequence

from markupsafe import Markup
from matplotlib.figure import Figure

from kerasnn import figures

STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 1240px; padding: 24px 28px 60px; color: #222; background: #fff;
  font: 15px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }
h1 { font-size: 25px; margin: 0 0 2px; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 34px 0 10px; padding-bottom: 4px; border-bottom: 2px solid #0072b2; }
p { margin: 6px 0; }
.note { color: #5a5a5a; }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 12px 0; }
dl.facts dt { color: #5a5a5a; }
dl.facts dd { margin: 0; overflow-wrap: anywhere; }
.tiles { display: flex; flex-wrap: wrap; gap: 10px; margin: 16px 0 6px; }
.tile { border: 1px solid #d9d9d9; border-radius: 6px; padding: 8px 14px; min-width: 92px; }
.tile b { display: block; font-size: 19px; font-weight: 600; overflow-wrap: anywhere; }
.tile span { color: #5a5a5a; font-size: 13px; }
.pictures { display: flex; flex-wrap: wrap; gap: 14px; align-items: flex-start; }
.pictures img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; }
th, td { padding: 4px 11px; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
th { background: #f3f6f9; border-bottom: 2px solid #c9d6e2; }
table.sortable th { cursor: pointer; }
table.sortable th::after { content: " \\2195"; color: #9a9a9a; font-weight: 400; }
td.text, th.text { text-align: left; }
tr.mark td { background: #e8f2f9; }
.alarm { border-left: 4px solid #d55e00; background: #fdf3ec; padding: 6px 12px; margin: 6px 0; }
details { margin: 8px 0; }
summary { cursor: pointer; color: #0a5a8c; }
pre { background: #f6f6f6; padding: 12px; overflow-x: auto; font-size: 12.5px; line-height: 1.4; }
@media print { details { display: none; } }
"""

# A click on a heading sorts by that column: numbers by value, text alphabetically, empty cells last.
SCRIPT = """
for (const head of document.querySelectorAll("table.sortable th")) head.addEventListener("click", () => {
  const body = head.closest("table").tBodies[0], column = head.cellIndex, up = head.dataset.up !== "1";
  head.dataset.up = up ? "1" : "0";
  const key = row => { const text = row.cells[column].textContent.trim(), number = parseFloat(text);
    return text === "–" || text === "" ? null : Number.isNaN(number) ? text : number; };
  const rows = [...body.rows].sort((a, b) => { const x = key(a), y = key(b);
    if (x === null || y === null) return (x === null) - (y === null);
    const order = typeof x === "number" && typeof y === "number" ? x - y : String(x).localeCompare(String(y));
    return up ? order : -order; });
  body.append(...rows);
});
"""


def page(title: str, subtitle: str, sections: Iterable[tuple[str, Markup]]) -> str:
    """A whole page.

    Args:
        title: its heading.
        subtitle: a line below the heading.
        sections: heading and content of each; no heading is shown where it is empty.

    Returns:
        HTML that loads nothing; its content security policy forbids loading, and any script but the page's own.
    """
    script_hash = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{script_hash}'"
    body = joined(
        (Markup("<h2>{}</h2>\n{}\n").format(heading, content) if heading else content) for heading, content in sections
    )
    return str(
        Markup(
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            '<meta http-equiv="Content-Security-Policy" content="{}">\n'
            '<meta name="viewport" content="width=device-width">\n<title>{}</title>\n<style>{}</style>\n</head>\n'
            '<body>\n<h1>{}</h1>\n<p class="note">{}</p>\n{}\n<script>{}</script>\n</body>\n</html>\n'
        ).format(policy, title, Markup(STYLE), title, subtitle, body, Markup(SCRIPT))
    )


def joined(parts: Iterable[Markup]) -> Markup:
    """Pieces of HTML, one after another."""
    return Markup("\n").join(parts)


def paragraph(text: str, kind: str = "") -> Markup:
    """A paragraph; `kind` is "note", "alarm" or empty."""
    return Markup('<p class="{}">{}</p>').format(kind, text)


def facts(values: Iterable[tuple[str, str]]) -> Markup:
    """Names and texts in two columns."""
    each = (Markup("<dt>{}</dt><dd>{}</dd>").format(name, text) for name, text in values)
    return Markup('<dl class="facts">{}</dl>').format(joined(each))


def tiles(values: Iterable[tuple[str, str]]) -> Markup:
    """Key figures: name and value of each."""
    each = (Markup('<div class="tile"><b>{}</b><span>{}</span></div>').format(value, name) for name, value in values)
    return Markup('<div class="tiles">{}</div>').format(joined(each))


def table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], text: int = 0, sortable: bool = False, marked: int = -1
) -> Markup:
    """A table.

    Args:
        headings: one for each column.
        rows: cells of each row.
        text: number of columns, from the left, that hold text instead of numbers.
        sortable: whether a click on a heading sorts by its column.
        marked: index of the highlighted row; -1 for none.
    """

    def line(tag: str, cells: Sequence[str]) -> Markup:
        element = Markup(f'<{tag} class="{{}}">{{}}</{tag}>')
        return Markup("").join(
            element.format("text" if column < text else "", cell) for column, cell in enumerate(cells)
        )

    body = joined(
        Markup('<tr class="{}">{}</tr>').format("mark" if number == marked else "", line("td", row))
        for number, row in enumerate(rows)
    )
    return Markup(
        '<div class="scroll"><table class="{}"><thead><tr>{}</tr></thead><tbody>\n{}\n</tbody></table></div>'
    ).format("sortable" if sortable else "", line("th", headings), body)


def pictures(named: Iterable[tuple[str, Figure | bytes]]) -> Markup:
    """Figures, side by side where they fit.

    Args:
        named: of each, its alternative text, and the figure or the bytes of a PNG or SVG file.
    """
    images = []
    for name, figure in named:
        encoded = figures.to_svg(figure) if isinstance(figure, Figure) else figure
        if encoded.startswith(b"\x89PNG"):
            kind, width = "png", str(round(int.from_bytes(encoded[16:20], "big") * 0.82))
        else:
            kind, width = "svg+xml", str(round(figure.get_figwidth() * 88)) if isinstance(figure, Figure) else "660"
        data = base64.b64encode(encoded).decode()
        images.append(Markup('<img alt="{}" width="{}" src="data:image/{};base64,{}">').format(name, width, kind, data))
    return Markup('<div class="pictures">{}</div>').format(joined(images))


def preformatted(text: str) -> Markup:
    """Text in columns."""
    return Markup("<pre>{}</pre>").format(text)


def folded(summary: str, text: str) -> Markup:
    """Text that a click on its summary opens."""
    return Markup("<details><summary>{}</summary><pre>{}</pre></details>").format(summary, text)

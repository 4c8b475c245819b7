"""The leaderboard as one HTML page: tables that sort, box plots, and each system's tracks, the worst first, to listen to.

<out>/leaderboard.md .html .csv, tracks.csv     all systems that are found below <out>
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from mss.metrics.leaderboard import (
    EXPLANATION,
    Board,
    board_rows,
    csv_table,
    long_table,
    markdown,
    number,
    short_table,
    title,
    track_rows,
)
from mss.metrics.scores import TrackScores, write_text

__all__ = ["page", "write_leaderboard"]


def write_leaderboard(boards: Sequence[Board], out: Path, remarks: Sequence[str] = ()) -> None:
    """Writes leaderboard.md, .csv and .html and tracks.csv; remarks are paragraphs below the tables."""
    write_text(out / "leaderboard.md", markdown(boards, remarks))
    write_text(out / "leaderboard.csv", csv_table(board_rows(boards)))
    write_text(out / "tracks.csv", csv_table(track_rows(boards)))
    write_text(out / "leaderboard.html", page(boards, remarks))


def page(boards: Sequence[Board], remarks: Sequence[str] = ()) -> str:
    """One HTML page that needs nothing but itself, and the estimates if there are any to listen to."""
    body = "\n".join(_section(board) for board in boards)
    said = "".join(f"<p>{html.escape(remark)}</p>\n" for remark in remarks)
    return PAGE.format(style=STYLE, body=body, remarks=said, explanation=html.escape(EXPLANATION), script=SCRIPT)


def _section(board: Board) -> str:
    parts = [f"<section><h2>{html.escape(title(board))}</h2>"]
    parts += [f'<p class="warning">Warning: {html.escape(warning)}.</p>' for warning in board.warnings]
    head, rows = short_table(board)
    cells = [[html.escape(cell) for cell in row] for row in rows]
    for line, row in zip(board.entries, cells, strict=True):
        if line.frames:  # scored here, not elsewhere
            row[0] = f"<b>{row[0]}</b>"
    parts.append(_html_table(head, cells))
    parts.append(f"<h3>SDR of each track</h3>{_legend(board)}<div class='plots'>")
    parts += [_box_plots(board, target) for target in board.targets]
    parts.append("</div><h3>All measures</h3>")
    parts.append(_table(*long_table(board)))
    failed = [(one.system, name, reason) for one in board.results for name, reason in one.failed.items()]
    if failed:
        items = (
            f"<li><b>{html.escape(name)}</b> ({html.escape(system)}): {html.escape(why)}</li>"
            for system, name, why in failed
        )
        parts.append(f'<h3>Failed</h3><ul class="warning">{"".join(items)}</ul>')
    parts.append("<h3>Tracks, the worst first</h3>")
    parts += _track_tables(board)
    return "\n".join([*parts, "</section>"])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that sorts; a cell sorts by the number that it begins with."""
    return _html_table(head, [[html.escape(cell) for cell in row] for row in rows])


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    if not any(row[-1] for row in rows):  # nothing to note
        head, rows = head[:-1], [row[:-1] for row in rows]
    top = "".join(f'<th><button type="button">{html.escape(name)}</button></th>' for name in head)
    lines = ("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'


def _track_tables(board: Board) -> Iterable[str]:
    """For each system, the best first, its tracks by their mean SDR, with a player for each estimate that was kept."""
    order = {line.system: i for i, line in enumerate(board.entries) if line.frames}
    for i, one in enumerate(sorted(board.results, key=lambda one: order.get(one.system, len(order)))):
        rows = []
        for track in one.tracks:
            values = {target.name: target.medians()["SDR"] for target in track.targets}
            mean = float(np.mean(list(values.values())))
            numbers = [number(values[name]) + _player(track, name) if name in values else "–" for name in board.targets]
            notes = "; ".join(f"{target.name}: {target.note}" for target in track.targets if target.note)
            cells = [html.escape(track.track), number(mean), *numbers, html.escape(notes)]
            rows.append((-math.inf if math.isnan(mean) else mean, cells))
        rows.sort(key=lambda row: row[0])
        table = _html_table(["track", "mean SDR", *board.targets, "note"], [cells for _, cells in rows])
        yield f"<details{'' if i else ' open'}><summary>{html.escape(one.system)}</summary>{table}</details>"


def _player(track: TrackScores, name: str) -> str:
    audio = next((target.audio for target in track.targets if target.name == name), "")
    if not audio:
        return ""
    label = html.escape(f"{name} of {track.track}", quote=True)
    return f'<br><audio controls preload="none" aria-label="{label}" src="{quote(audio)}"></audio>'


def _legend(board: Board) -> str:
    return (
        '<p class="legend">A dot is a track (its name appears under the pointer), the box holds the middle half, the line in '
        "it is the median, the whiskers reach over all tracks.</p>"
        if any(one.tracks for one in board.results)
        else ""
    )


def _box_plots(board: Board, target: str) -> str:
    """Box plots of the tracks' SDR, one for each system, as SVG."""
    order = {line.system: i for i, line in enumerate(board.entries) if line.frames}
    data = {}
    for one in sorted(board.results, key=lambda one: order.get(one.system, len(order))):
        scores = [(t.track, s.medians()["SDR"]) for t in one.tracks for s in t.targets if s.name == target]
        data[one.system] = [(name, value) for name, value in scores if math.isfinite(value)]
    values = [value for pairs in data.values() for _, value in pairs]
    if not values:
        return ""
    left, width, row, top = 130, 500, 28, 28
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100) if (max(values) - min(values)) / s <= 8 or s == 100)
    low, high = math.floor(min(values) / step) * step, math.ceil(max(values) / step) * step
    high = high if high > low else low + step

    def x(value: float) -> float:
        return round(left + (value - low) / (high - low) * (width - left - 20), 1)

    bottom = top + row * len(data)
    parts = [f'<text x="{left}" y="16" class="name">{html.escape(target)}, SDR in dB</text>']
    for tick in range(low, high + 1, step):
        parts.append(f'<line class="grid" x1="{x(tick)}" y1="{top}" x2="{x(tick)}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{x(tick)}" y="{bottom + 16}">{tick}</text>')
    for i, (system, pairs) in enumerate(data.items()):
        y = top + row * i + row / 2
        label = system if len(system) <= 20 else system[:19] + "…"
        parts.append(f'<text class="label" x="{left - 10}" y="{y + 4}">{html.escape(label)}</text>')
        if pairs:
            a, q1, q2, q3, b = (x(q) for q in np.percentile([value for _, value in pairs], [0, 25, 50, 75, 100]))
            parts.append(f'<line class="whisker" x1="{a}" y1="{y}" x2="{b}" y2="{y}"/>')
            parts.append(f'<rect class="box" x="{q1}" y="{y - 8}" width="{max(q3 - q1, 1):.1f}" height="16"/>')
            parts.append(f'<line class="median" x1="{q2}" y1="{y - 8}" x2="{q2}" y2="{y + 8}"/>')
        for name, value in pairs:
            title = html.escape(f"{name}: {value:.2f} dB")
            parts.append(f'<circle cx="{x(value)}" cy="{y}" r="3"><title>{title}</title></circle>')
    label = html.escape(f"Box plots of the SDR of {target}", quote=True)
    return f'<svg viewBox="0 0 {width} {bottom + 24}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881;
  --accent: light-dark(#1f6feb, #6cb0ff); --bad: light-dark(#b3261e, #ff8a80); }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; } h3 { font-size: 1rem; margin: 1.8rem 0 .5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; min-width: 50%; }
th, td { padding: .25rem .55rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top;
  white-space: nowrap; }
th:first-child, td:first-child, td.text, th.text { text-align: left; }
td.text { white-space: normal; min-width: 7rem; }
th { border-bottom: 2px solid var(--line); vertical-align: bottom; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--accent); }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
tbody tr:hover { background: var(--soft); }
.warning { color: var(--bad); } .legend, footer { opacity: .75; font-size: .9em; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(24rem, 1fr)); gap: .5rem 1.5rem; }
svg { width: 100%; font-size: 12px; fill: currentColor; }
svg .name { font-weight: 600; } svg .label { text-anchor: end; } svg .tick { text-anchor: middle; opacity: .7; }
svg .grid { stroke: var(--line); } svg .whisker { stroke: var(--accent); stroke-width: 1.5; }
svg .box { fill: var(--accent); fill-opacity: .25; stroke: var(--accent); }
svg .median { stroke: var(--accent); stroke-width: 3; }
svg circle { fill: currentColor; fill-opacity: .55; }
audio { width: 12rem; height: 2rem; margin-top: .2rem; }
summary { cursor: pointer; padding: .3rem 0; }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const body = table.tBodies[0], heads = [...table.tHead.rows[0].cells];
  const number = cell => { const x = parseFloat(cell.textContent.replace("\\u2212", "-")); return isNaN(x) ? null : x; };
  heads.forEach((head, i) => {
    const cells = [...body.rows].map(row => row.cells[i]);
    const text = !cells.some(cell => /^[-\\d]/.test(cell.textContent)) || i === 0;
    if (text) [head, ...cells].forEach(cell => cell.classList.add("text"));
    head.firstChild.addEventListener("click", () => {
      const up = head.ariaSort === "descending" || (text && head.ariaSort !== "ascending");
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.ariaSort = up ? "ascending" : "descending";
      const compare = (a, b) => {
        if (text) return a.cells[i].textContent.localeCompare(b.cells[i].textContent) * (up ? 1 : -1);
        const [x, y] = [number(a.cells[i]), number(b.cells[i])];
        return x === null ? (y === null ? 0 : 1) : y === null ? -1 : (x - y) * (up ? 1 : -1);
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Separation scores</title>
<style>{style}</style>
</head>
<body>
<h1>Separation scores</h1>
{body}
{remarks}<footer><p>{explanation} A click on the head of a column sorts by it.</p></footer>
<script>{script}</script>
</body>
</html>
"""

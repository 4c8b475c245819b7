"""The leaderboard as one HTML page: tables that sort, box plots, and each system's tracks, the worst first, to listen to.

<out>/leaderboard.md .html .csv, tracks.csv     all systems that are found below <out>
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from mss.apps.pages import document
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


def page(
    boards: Sequence[Board],
    remarks: Sequence[str] = (),
    *,
    songs: Sequence[tuple[str, Mapping]] = (),
    link: bool = True,
) -> str:
    """One HTML page that needs nothing but itself, and the estimates if there are any to listen to.

    Args:
        boards: of all protocols.
        remarks: paragraphs below the tables.
        songs: to listen to on the page itself, as `mss.apps.page.song_html` makes them.
        link: put players of the files of estimates, which lie beside the page, into the tables.
    """
    said = "".join(f"<p>{html.escape(remark)}</p>\n" for remark in remarks)
    sections = "\n".join(_section(board, link) for board in boards)
    listening = f"<h2>To listen to</h2>\n{''.join(text for text, _ in songs)}" if songs else ""
    explanation = f"{html.escape(EXPLANATION)} A click on the head of a column sorts by it."
    return document(
        "Separation scores",
        f"<h1>Separation scores</h1>\n{sections}\n{said}{listening}<footer><p>{explanation}</p></footer>",
        styles=("base.css", *(["song.css"] if songs else []), "leaderboard.css"),
        scripts=("leaderboard.js", *(["player.js", "song.js"] if songs else [])),
        data={"songs": [told for _, told in songs]} if songs else None,
        media="data: blob: 'self' file:",
    )


def _section(board: Board, link: bool) -> str:
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
    parts += _track_tables(board, link)
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


def _track_tables(board: Board, link: bool) -> Iterable[str]:
    """For each system, the best first, its tracks by their mean SDR, with a player for each estimate that was kept."""
    order = {line.system: i for i, line in enumerate(board.entries) if line.frames}
    for i, one in enumerate(sorted(board.results, key=lambda one: order.get(one.system, len(order)))):
        rows = []
        for track in one.tracks:
            values = {target.name: target.medians()["SDR"] for target in track.targets}
            mean = float(np.mean(list(values.values())))
            player = _player if link else lambda *_: ""
            numbers = [number(values[name]) + player(track, name) if name in values else "–" for name in board.targets]
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

#!/usr/bin/env python3
"""Draws what `compare` has measured, as SVG: ./plot.py compare.json... [--output FOLDER]"""

import argparse
import math
from html import escape
from pathlib import Path

from common import HERE
from figures import PRODUCT, Figures, shown

# Colours that can be read on white and on black.
TEXT, BAR, OWN = "#768390", "#8b98a5", "#e8710a"
FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"
LABELS = 210  # pixels, as all below
PANEL, GAP, VALUE = 225, 85, 60
ROW, BAR_HEIGHT, TOP, BOTTOM = 24, 15, 48, 6
LOG_FROM = 50  # so many times the least


class Scale:
    """From a value to the length of its bar: by its logarithm where values are far apart."""

    def __init__(self, values):
        least, self.most = min(values), max(values)
        self.is_log = self.most > LOG_FROM * least
        self.start = 10 ** math.floor(math.log10(least / 2))

    def __call__(self, value):
        if self.is_log:
            return PANEL * math.log(value / self.start) / math.log(self.most / self.start)
        return PANEL * value / self.most


def text(x, y, content, colour=TEXT, size=13, anchor="start", weight="normal"):
    return (f"<text x='{x:.1f}' y='{y:.1f}' fill='{colour}' font-size='{size}' text-anchor='{anchor}' "
            f"font-weight='{weight}'>{escape(content)}</text>")


def panel(left, title, peers, values, digits):
    scale = Scale(list(values.values()))
    note = f"; logarithmic, from {scale.start}" if scale.is_log else ""
    lines = [text(left, 20, title, size=14, weight="600"), text(left, 38, f"less is better{note}", size=12)]
    for row, peer in enumerate(peers):
        if peer not in values:
            continue
        own = peer.startswith(PRODUCT)
        y, width = TOP + ROW * row, scale(values[peer])
        lines.append(f"<rect x='{left}' y='{y + 3}' width='{width:.1f}' height='{BAR_HEIGHT}' rx='2' "
                     f"fill='{OWN if own else BAR}'/>")
        lines.append(text(left + width + 6, y + 15, shown(values[peer], digits), OWN if own else TEXT, 12,
                          weight="600" if own else "normal"))
    return lines


def drawing(figures, panels):
    """Panels side by side: (title, mode, digits), proxies ordered by the first."""
    columns = []
    for title, mode, digits in panels:
        values = {peer: figures.key(mode, peer) for peer in figures.peers(mode) if peer != "direct"}
        columns.append((title, {peer: value for peer, value in values.items() if value}, digits))
    columns = [column for column in columns if column[1]]
    if not columns:
        return None
    peers = sorted(columns[0][1], key=columns[0][1].get)
    width = LABELS + len(columns) * (PANEL + VALUE) + (len(columns) - 1) * (GAP - VALUE)
    height = TOP + ROW * len(peers) + BOTTOM
    lines = []
    for row, peer in enumerate(peers):
        own = peer.startswith(PRODUCT)
        label = figures.title(peer).replace("a log line an exchange", "with its log")
        lines.append(text(LABELS - 10, TOP + ROW * row + 15, label, OWN if own else TEXT, 12.5, "end",
                          "600" if own else "normal"))
    for number, (title, values, digits) in enumerate(columns):
        lines += panel(LABELS + number * (PANEL + GAP), title, peers, values, digits)
    body = "\n".join(lines)
    return (f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' "
            f"height='{height}' {FONT}>\n{body}\n</svg>\n")


def plot(figures, folder):
    """Writes the drawings, and says which."""
    drawings = {
        "cpu.svg": [("CPU a small request, µs", "json", 1), ("CPU a chunk of a stream, µs", "sse", 1)],
        "memory.svg": [("Memory an idle stream, kB", "idle-streams", 1)],
    }
    for name, panels in drawings.items():
        svg = drawing(figures, panels)
        if svg:
            (folder / name).write_text(svg)
            print(f"written: {folder / name}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("measured", nargs="+", help="compare.json of one run, or of several taken together")
    parser.add_argument("--output", type=Path, default=HERE.parent, help="folder (default: benches)")
    args = parser.parse_args()
    plot(Figures.read(args.measured), args.output)

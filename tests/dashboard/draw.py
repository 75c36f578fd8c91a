"""Draws panels as small multiples, as SVG."""

from html import escape

# Colours that can be read on white and on black.
TEXT, LINE = "#768390", "#8b98a54d"
COLOURS = ["#e8710a", "#3b82c4", "#4c9a58", "#b5568f", "#8a7bd0", "#c9a227", "#4aa3a3", "#d05d5d"]
FONT = "font-family='system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif'"
COLUMNS, WIDTH, HEIGHT, GAP = 3, 300, 110, 30  # pixels, as all below
TITLE, LEGEND, LEFT = 24, 34, 48
SUFFIXES = {"s": "s", "percentunit": "%", "bytes": "B", "Bps": "B/s", "reqps": "/s"}


def text(x, y, content, size=11, colour=TEXT, anchor="start", weight="normal"):
    return (f"<text x='{x:.0f}' y='{y:.0f}' fill='{colour}' font-size='{size}' text-anchor='{anchor}' "
            f"font-weight='{weight}'>{escape(content)}</text>")


def shown(value, unit):
    if unit == "percentunit":
        value *= 100
    for factor, prefix in ((1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m")):
        if abs(value) >= factor and (prefix != "m" or unit == "s"):
            return f"{value / factor:.3g} {prefix}{SUFFIXES.get(unit, '')}".rstrip()
    return f"{value:.2g}" if value else "0"


def panel(x, y, title, unit, curves):
    lines = [text(x, y + 14, title, 13, weight="600")]
    top, bottom = y + TITLE, y + TITLE + HEIGHT
    most = max((value for _, points in curves for _, value in points), default=0) or 1
    duration = max((moment for _, points in curves for moment, _ in points), default=0) or 1
    for share in (0, 0.5, 1):
        level = bottom - share * HEIGHT
        lines.append(f"<path d='M{x + LEFT} {level:.0f}H{x + WIDTH}' stroke='{LINE}'/>")
        lines.append(text(x + LEFT - 4, level + 4, shown(share * most, unit), 10, anchor="end"))
    legend_x, legend_y = x, bottom + 16
    # What there is most of comes first in the legend, which has room for two lines.
    curves = sorted(curves, key=lambda curve: -sum(value for _, value in curve[1]))
    for (name, points), colour in zip(curves, COLOURS):
        path = " ".join(f"{x + LEFT + moment / duration * (WIDTH - LEFT):.1f},{bottom - value / most * HEIGHT:.1f}"
                        for moment, value in points)
        lines.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='1.5'/>")
        width = 12 + 6 * len(name)
        if legend_x > x and legend_x + width > x + WIDTH:
            legend_x, legend_y = x, legend_y + 14
        if legend_y < bottom + LEGEND:
            lines.append(text(legend_x, legend_y, name, 10, colour))
        legend_x += width
    return lines


def drawing(panels):
    """Of panels: title, unit, and curves as (name, [(seconds, value)])."""
    rows = -(-len(panels) // COLUMNS)
    row_height = TITLE + HEIGHT + LEGEND + 12
    width, height = COLUMNS * (WIDTH + GAP) - GAP, rows * row_height
    lines = [f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' width='{width}' "
             f"height='{height}' {FONT}>"]
    for index, (title, unit, curves) in enumerate(panels):
        row, column = divmod(index, COLUMNS)
        lines += panel(column * (WIDTH + GAP), row * row_height, title, unit, curves)
    return "\n".join([*lines, "</svg>", ""])

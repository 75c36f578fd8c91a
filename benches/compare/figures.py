"""Reads what `compare` has measured: medians, and ratios to another proxy."""

import json
import math
import re
import statistics
from pathlib import Path

from common import HERE

PRODUCT = "product"

# The figure by which a mode is judged, and its digits.
KEY_FIGURE = {
    "json": ("proxy.cpu_us_per_request", 1),
    "json1": ("latency_us.p50", 0),
    "override": ("proxy.cpu_us_per_request", 1),
    "big": ("proxy.cpu_us_per_request", 0),
    "big-override": ("proxy.cpu_us_per_request", 0),
    "sse": ("proxy.cpu_us_per_chunk", 1),
    "fast-sse": ("proxy.cpu_us_per_chunk", 1),
    "idle-streams": ("proxy.rss_kb_per_stream", 1),
    "connect": ("proxy.cpu_us_per_request", 0),
    "resume": ("proxy.cpu_us_per_request", 0),
    "reconnect": ("proxy.cpu_us_per_request", 0),
    "impatient": ("proxy.cpu_us_per_request", 0),
    "half-json": ("added_us.p99", 0),
    "half-sse": ("added_us.p99", 0),
}


def load_of(mode):
    """The load in the name of a mode, such as `json` in `tls:json:tls*2`."""
    return next(part for part in re.split("[:*]", mode) if part in KEY_FIGURE)


def flat(report, prefix=""):
    """All numbers in a report of the load client, as (`proxy.busy`, number)."""
    for key, value in report.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield prefix + key, value


class Figures:
    """The runs of one comparison, or of several together."""

    def __init__(self, comparisons):
        self.comparisons = comparisons
        self.versions = {}
        self.runs = []
        self.modes = []
        for comparison in comparisons:
            self.versions |= comparison["versions"]
            self.modes += [mode for mode in comparison["runs"] if mode not in self.modes]
            self.runs.append({
                mode: {peer: [dict(flat(report)) for report in reports] for peer, reports in peers.items()}
                for mode, peers in comparison["runs"].items()})

    @classmethod
    def read(cls, paths):
        return cls([json.loads(Path(path).read_text()) for path in paths])

    def peers(self, mode=None):
        """In the order of the first run; all of them, or those that took part in a mode."""
        modes = [mode] if mode else self.modes
        return list(dict.fromkeys(peer for mode in modes for runs in self.runs for peer in runs.get(mode, {})))

    def rounds(self, mode, peer, number):
        reports = [report for runs in self.runs for report in runs.get(mode, {}).get(peer, [])]
        return [report[number] for report in reports if number in report]

    def median(self, mode, peer, number):
        rounds = self.rounds(mode, peer, number)
        return statistics.median(rounds) if rounds else None

    def ratio(self, mode, peer, number, base="nginx"):
        """Median of the ratios round by round: what disturbs a round disturbs both."""
        ratios = []
        for runs in self.runs:
            peers = runs.get(mode, {})
            for own, its in zip(peers.get(peer, []), peers.get(base, [])):
                if own.get(number) and its.get(number):
                    ratios.append(own[number] / its[number])
        return statistics.median(ratios) if ratios else None

    def growth(self, mode, other, peer, number):
        """Median of the ratios of a number in another mode to that in a mode, round by round."""
        pairs = zip(self.rounds(mode, peer, number), self.rounds(other, peer, number))
        ratios = [its / own for own, its in pairs if own]
        return statistics.median(ratios) if ratios else None

    def only(self, prefix):
        """The proxies alone whose names begin so."""
        figures = Figures([])
        figures.versions, figures.modes = self.versions, self.modes
        figures.runs = [{mode: {peer: rounds for peer, rounds in peers.items() if peer.startswith(prefix)}
                         for mode, peers in runs.items()} for runs in self.runs]
        return figures

    def key(self, mode, peer):
        return self.median(mode, peer, KEY_FIGURE[load_of(mode)][0])

    def title(self, peer):
        """Its name, with its version where that is one number."""
        spec = HERE / "peers" / peer / "peer.json"
        title = json.loads(spec.read_text())["title"] if spec.is_file() else peer
        numbers = re.findall(r"\d+\.\d+(?:\.\d+)*", self.versions.get(peer, ""))
        if peer.startswith((PRODUCT, "hyper")) or not numbers:
            return title
        name, *language = title.split(" (")
        return " (".join([f"{name} {numbers[0]}", *language]) if " + " not in name else title


def markdown(rows):
    """A table; the first row is its head, the first column is text, all others are numbers."""
    head, *rest = rows
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rest]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def shown(value, digits):
    if value is None:
        return "–"
    return f"{value:,.{digits if value < 100 else 0}f}"


def ranked(figures, modes):
    """Titles of all proxies by name: ours first, the others by what the first of the modes costs."""
    peers = dict.fromkeys(peer for mode in modes for peer in figures.peers(mode) if peer != "direct")
    ours = [PRODUCT, f"{PRODUCT}-logging", f"{PRODUCT}-metrics"]

    def cost(peer):
        return (ours.index(peer), 0) if peer in ours else (len(ours), figures.key(modes[0], peer) or math.inf)

    titles = {peer: figures.title(peer) for peer in sorted(peers, key=cost)} if modes else {}
    return {peer: f"**{title}**" if peer == PRODUCT else title for peer, title in titles.items()}


def added(figures, columns):
    """One row a proxy, with what it adds to a number of the load without a proxy."""
    columns = {title: place for title, place in columns.items() if place[0] in figures.modes}
    rows = [["proxy", *columns]]
    for peer, title in ranked(figures, [mode for mode, _ in columns.values()]).items():
        row = [title]
        for mode, number in columns.values():
            own, without = (figures.median(mode, it, number) for it in (peer, "direct"))
            row.append("–" if own is None or without is None else f"{own - without:,.0f}")
        rows.append(row)
    return markdown(rows)


def overview(figures, names, base="nginx"):
    """One row a proxy, with the key figure of each mode and its ratio to that of another one."""
    modes = [mode for mode in names if mode in figures.modes]
    rows = [["proxy"] + [names[mode] for mode in modes]]
    for peer, title in ranked(figures, modes).items():
        row = [title]
        for mode in modes:
            number, digits = KEY_FIGURE[load_of(mode)]
            ratio = figures.ratio(mode, peer, number, base)
            tail = f" ({ratio:.{2 if ratio < 10 else 0}f})" if ratio and peer != base else ""
            row.append(shown(figures.key(mode, peer), digits) + tail)
        rows.append(row)
    return markdown(rows)

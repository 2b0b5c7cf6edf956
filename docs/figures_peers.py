"""Tables and figures of benchmarks/peers.md, from what benchmarks/peers.py measured.

Every function takes the measured data, as in data/peers.json; of sections that were not measured it
says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.ticker import NullFormatter

DATA = Path(__file__).parent / "data" / "peers.json"
NOT_MEASURED = "Not measured in this run.\n"
FAMILIES = ("explicit", "stiff", "stabilised")
KINDS = {"Python": "f in Python", "compiled": "f compiled"}

# Two identical solves differ by a few hundredths: what is nearer than that is no lead.
EVEN = 1.05

# What is compared where there is no best of ours: against n a peer and the same pair of ours on the
# same kind of array, for memory a peer and our nearest method.
SAME_PAIR = {
    "SciPy RK45": "dopri5",
    "torchdiffeq dopri5": "dopri5, torch",
    "diffrax Dopri5": "dopri5, jit",
}
NEAREST = {
    "SciPy RK45": "dopri5",
    "SciPy DOP853": "dop853",
    "extensisq Ts5": "tsit5",
    "SciPy LSODA, banded": "rodas5p, banded",
    "SciPy BDF, sparse": "rodas5p, banded",
    "SciPy Radau, sparse": "rodas5p, banded",
}

Data = dict[str, Any]


def measured() -> Data:
    return json.loads(DATA.read_text(encoding="utf-8"))


# Words ------------------------------------------------------------------------------------------


def conditions(data: Data) -> str:
    """Return when, on what, and by which command this was measured."""
    return "\n".join(_run(run, named=len(data["runs"]) > 1) for run in data["runs"])


def _run(run: Data, *, named: bool) -> str:
    machine = run["machine"]
    memory = "" if machine["memory_GiB"] is None else f", {machine['memory_GiB']:.0f} GiB"
    load = "" if machine["load"] is None else f" (load {machine['load']:.1f} at the start)"
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    lines = [
        f"* {run['date']}, on {machine['cores']} cores of {machine['processor']}{memory}, "
        f"{machine['system']}{load}; one thread.",
        f"* {versions}.",
        f"* Command: `{run['command']}`",
    ]
    if run["note"]:
        lines.append(f"* {run['note']}")
    lines += [f"* Left out: {name}, which could not be imported." for name in run["absent"]]
    if named:
        lines = [f"Sections {', '.join(run['sections'])}:", "", *lines]
    return "\n".join(lines) + "\n"


def lost(data: Data) -> str:
    """List every comparison in which a peer is ahead."""
    found = comparisons(data)
    if not found:
        return NOT_MEASURED
    ahead: dict[str, list[tuple[float, str]]] = {}
    for title, name, ratio in found:
        if ratio < 1 / EVEN:
            told = "of ours none" if ratio == 0 else f"{1 / ratio:.1f} times"
            ahead.setdefault(title, []).append((ratio, f"{name} {told}"))
    count = sum(len(names) for names in ahead.values())
    lines = [
        f"In {count} of {len(found)} comparisons a peer is ahead by more than {EVEN - 1:.0%}. How "
        "many times as fast as ours it is, or as sparing of memory:",
        "",
        *(
            f"* {title}: {', '.join(text for _, text in sorted(names))}."
            for title, names in ahead.items()
        ),
    ]
    return "\n".join(lines) + "\n"


def comparisons(data: Data) -> list[tuple[str, str, float]]:
    """Return all comparisons: a title, the peer, and its cost over ours; 0 if none of ours can."""
    found = []
    sections = data["sections"]
    rows = [
        (f"{row['problem']}, {KINDS[row['kind']]}", row, section != "call")
        for section in ("call", *FAMILIES)
        for row in sections.get(section, {}).get("rows", [])
    ]
    rows += [
        (f"batch of {row['batch']}", row, True) for row in sections.get("batch", {}).get("rows", [])
    ]
    for title, row, digits in rows:
        where = f"{title}, {row['digits']:g} digits" if digits else title
        for name in row["peers"]:
            if row["times"][name] is not None:
                ratio = 0.0 if row["seconds"] is None else row["ratios"][name]
                found.append((where, name, ratio))
    for row in sections.get("n", []):
        ours = _find(sections["n"], row["n"], SAME_PAIR.get(row["solver"]))
        if "per_call" in row and "per_call" in ours:
            title = f"n = {row['n']}, per call of f"
            found.append((title, row["solver"], row["per_call"] / ours["per_call"]))
    for row in sections.get("memory", []):
        ours = _find(sections["memory"], row["n"], NEAREST.get(row["solver"]))
        if ours:
            for key, what in (("end", "end kept"), ("all", "all steps kept")):
                found.append((f"memory, {what}", row["solver"], row[key] / ours[key]))
    return found


def _find(rows: list[Data], n: int, name: str | None) -> Data:
    return next((row for row in rows if (row["n"], row["solver"]) == (n, name)), {})


# Tables -----------------------------------------------------------------------------------------


def equal_digits(data: Data, section: str, kind: str) -> str:
    """Return times at equal digits over that of the best of ours: a row per solver."""
    rows = [row for row in data["sections"].get(section, {}).get("rows", []) if row["kind"] == kind]
    if not rows:
        return NOT_MEASURED
    return _ratios(rows, [f"{row['problem']}; {row['digits']:g} digits" for row in rows])


def batch(data: Data) -> str:
    """Return the same for batches: a column per size."""
    rows = data["sections"].get("batch", {}).get("rows", [])
    return _ratios(rows, [f"{row['batch']}" for row in rows]) if rows else NOT_MEASURED


def _ratios(rows: list[Data], titles: list[str]) -> str:
    names = list(dict.fromkeys(name for row in rows for name in row["ratios"]))
    peers = {name for row in rows for name in row["peers"]}
    best = [
        "none" if row["seconds"] is None else f"{_three(1e3 * row['seconds'])} ms" for row in rows
    ]
    lines = [_row("", *titles), "|:--|" + "--:|" * len(rows), _row("best of ours", *best)]
    for name in names:
        cells = []
        for row in rows:
            ratio, time = row["ratios"].get(name), row["times"].get(name)
            if ratio is None:
                cells.append("" if time is None else f"{_three(1e3 * time)} ms")
            else:
                cells.append(f"{_three(ratio)}")
        lines.append(_row(name if name in peers else f"`{name}`", *cells))
    return "\n".join(lines) + "\n"


def _row(name: str, *cells: str) -> str:
    unbroken = name.replace(" ", "\u00a0")
    return "| " + " | ".join([unbroken, *cells]) + " |"


def _three(value: float) -> str:
    """Three digits, without an exponent."""
    if value == 0:
        return "0"
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{places}f}"


def call(data: Data) -> str:
    """Return what a call costs, and a call of f at two unknowns, in microseconds."""
    rows = data["sections"].get("call", {}).get("rows", [])
    if not rows:
        return NOT_MEASURED
    times = {name: t for row in rows for name, t in row["times"].items() if t is not None}
    per_call = {
        row["solver"]: row["per_call"]
        for row in data["sections"].get("n", [])
        if row["n"] == 2 and "per_call" in row
    }
    peers = {name for row in rows for name in row["peers"]}
    lines = [_row("", "a call, µs", "a call of f, µs"), "|:--|--:|--:|"]
    for name, t in sorted(times.items(), key=lambda item: item[1]):
        inner = _three(1e6 * per_call[name]) if name in per_call else ""
        label = name if name in peers else f"`{name}`"
        lines.append(_row(label, _three(1e6 * t), inner))
    return "\n".join(lines) + "\n"


def first(data: Data) -> str:
    """Return the seconds of the first solves, which compile."""
    lines = [_row("", "first solves of each problem, s"), "|:--|:--|"]
    found: dict[str, list[float]] = {}
    for section in ("call", *FAMILIES):
        for seconds in data["sections"].get(section, {}).get("first", {}).values():
            for name, value in seconds.items():
                found.setdefault(name, []).append(value)
    if not found:
        return NOT_MEASURED
    lines += [
        _row(_label(name), ", ".join(f"{v:.1f}" for v in values)) for name, values in found.items()
    ]
    return "\n".join(lines) + "\n"


def _label(name: str) -> str:
    return name if name.startswith("diffrax") else f"`{name}`"


def against_n(data: Data) -> str:
    """Return microseconds per call of f, and of f alone in brackets: a row per size."""
    rows = data["sections"].get("n", [])
    if not rows:
        return NOT_MEASURED
    names = list(dict.fromkeys(row["solver"] for row in rows))
    ours = [f"`{name}`" if name.startswith("dopri5") else name for name in names]
    lines = [_row("n", *ours), "|--:|" + "--:|" * len(names)]
    for n in dict.fromkeys(row["n"] for row in rows):
        cells = []
        for name in names:
            cell = _find(rows, n, name)
            if "per_call" not in cell:
                cells.append("failed" if "failure" in cell else "")
                continue
            alone = "" if cell["f"] is None else f" ({_three(1e6 * cell['f'])})"
            cells.append(_three(1e6 * cell["per_call"]) + alone)
        lines.append(_row(f"{n}", *cells))
    return "\n".join(lines) + "\n"


def memory(data: Data) -> str:
    """Return the peak of memory in arrays of n numbers."""
    rows = data["sections"].get("memory", [])
    if not rows:
        return NOT_MEASURED
    lines = [
        _row("", "steps", "end kept", "all steps kept"),
        "|:--|--:|--:|--:|",
    ]
    for row in rows:
        name = row["solver"] if row["solver"] in NEAREST else f"`{row['solver']}`"
        lines.append(_row(name, f"{row['steps']}", f"{row['end']:.1f}", f"{row['all']:.1f}"))
    return "\n".join(lines) + "\n"


def events(data: Data) -> str:
    """Return the milliseconds of a solve without and with an event function."""
    rows = data["sections"].get("events", [])
    if not rows:
        return NOT_MEASURED
    lines = [_row("", "without, ms", "with, ms", "events"), "|:--|--:|--:|--:|"]
    for row in rows:
        name = row["solver"] if row["solver"].startswith("SciPy") else f"`{row['solver']}`"
        times = (_three(1e3 * row[which]) for which in ("without", "with"))
        lines.append(_row(name, *times, f"{row['count']}"))
    return "\n".join(lines) + "\n"


# Figures ----------------------------------------------------------------------------------------

OUR_COLOURS = ("C0", "C1", "C2", "C3", "C4", "C6", "C8")
PEER_COLOURS = {"SciPy": "0.35", "extensisq": "C5", "CVODE": "k", "diffrax": "C9"}
MARKERS = "o^sDv"


def work_precision(data: Data, *sections: str) -> Any:
    """Time over digits: a column per problem, a row per kind of f; ours solid, peers dotted."""
    cells = [c for name in sections for c in data["sections"].get(name, {}).get("cells", [])]
    problems = list(dict.fromkeys(c["problem"] for c in cells)) or [""]
    figure, axes = plt.subplots(
        2, len(problems), figsize=(8.4, 6.4), sharex="col", squeeze=False, layout="constrained"
    )
    styles = _styles(cells)
    handles: dict[str, Any] = {}
    for column, problem in enumerate(problems):
        for ax, kind in zip(axes[:, column], KINDS, strict=True):
            of = [c for c in cells if (c["problem"], c["kind"]) == (problem, kind)]
            for name in dict.fromkeys(c["solver"] for c in of):
                points = sorted(
                    (c["digits"], min(c["times"]))
                    for c in of
                    if c["solver"] == name and c["digits"] is not None and c["times"]
                )
                plain = name.removesuffix(", jit")
                if points:
                    (handles[plain],) = ax.semilogy(*zip(*points, strict=True), **styles[plain])
            ax.yaxis.set_minor_formatter(NullFormatter())
            if not column:
                ax.set(ylabel=f"seconds, {KINDS[kind]}")
            if not of:
                ax.text(0.5, 0.5, "not measured", ha="center", transform=ax.transAxes)
        axes[0, column].set(title=problem.replace(", ", ",\n"))
        axes[1, column].set(xlabel="digits")
    if handles:
        names = [name for name in styles if name in handles]
        lines = [handles[name] for name in names]
        figure.legend(lines, names, loc="outside lower center", ncols=5, fontsize=8)
    return figure


def _styles(cells: list[Data]) -> dict[str, dict[str, Any]]:
    """Return how to draw each solver: ours by colour, peers by their library's, with markers."""
    styles: dict[str, dict[str, Any]] = {}
    seen: dict[str, int] = {}
    for cell in cells:
        name, library = cell["solver"].removesuffix(", jit"), cell["library"]
        if name in styles:
            continue
        i = seen[library] = seen.get(library, -1) + 1
        style: dict[str, Any] = {"lw": 1.1, "ms": 3.5, "marker": MARKERS[i % len(MARKERS)]}
        if library == "stiffkit":
            style |= {"color": OUR_COLOURS[i % len(OUR_COLOURS)]}
        else:
            style |= {"color": PEER_COLOURS.get(library, "0.6"), "ls": ":", "mfc": "none"}
        styles[name] = style
    return styles


def scaling(data: Data) -> Any:
    """Time per call of f against n, and time per sample against the batch."""
    figure, axes = plt.subplots(1, 2, figsize=(8.4, 4.4), layout="constrained")
    per_n: dict[str, list[tuple[int, float]]] = {}
    for row in data["sections"].get("n", []):
        if "per_call" in row:
            per_n.setdefault(row["solver"], []).append((row["n"], row["per_call"]))
    per_sample: dict[str, list[tuple[int, float]]] = {}
    for row in data["sections"].get("batch", {}).get("rows", []):
        for name, t in row["times"].items():
            if t is not None:
                per_sample.setdefault(name, []).append((row["batch"], t / row["batch"]))
    titles = (("n", "seconds per call of f"), ("samples", "seconds per sample"))
    for ax, lines, (x, y) in zip(axes, (per_n, per_sample), titles, strict=True):
        for i, (name, points) in enumerate(lines.items()):
            ours = not name.startswith(("SciPy", "torchdiffeq", "torchode", "diffrax"))
            ls, mfc = ("-", None) if ours else (":", "none")
            marker = MARKERS[i % len(MARKERS)]
            label = name if ours else f"{name} (peer)"
            ax.loglog(*zip(*points, strict=True), ls=ls, marker=marker, mfc=mfc, ms=4, label=label)
        ax.set(xlabel=x, ylabel=y)
        if lines:
            ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return figure


# What figures.py makes --------------------------------------------------------------------------


def tables() -> dict[str, Callable[[Data], str]]:
    """Return the writers of all tables, by the names of their files."""
    made: dict[str, Callable[[Data], str]] = {
        "peers_conditions": conditions,
        "peers_lost": lost,
        "peers_call": call,
        "peers_first": first,
        "peers_n": against_n,
        "peers_batch": batch,
        "peers_memory": memory,
        "peers_events": events,
    }
    for section in FAMILIES:
        for kind in KINDS:
            made[f"peers_{section}_{kind.lower()}"] = lambda data, s=section, k=kind: equal_digits(
                data, s, k
            )
    return made


def drawings() -> dict[str, Callable[[Data], Any]]:
    """Return what draws the figures, by the names of their files."""
    return {
        "peers_explicit": lambda data: work_precision(data, "explicit"),
        "peers_stiff": lambda data: work_precision(data, "stiff", "stabilised"),
        "peers_scaling": scaling,
    }

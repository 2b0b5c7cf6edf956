"""Work and precision: every solver of a family on every problem, and times at equal digits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from _measure import at_digits, ratio, take_turns  # first: it sets the number of threads

# isort: split
from _peer_problems import Case
from _peer_solvers import COMPILED, PYTHON, Counted, Solver

Cell = dict[str, Any]


def measure(
    cases: Sequence[Case], solvers: Sequence[Solver], repetitions: int, *, quick: bool = False
) -> dict[str, Any]:
    """Run all solvers on all cases.

    Returns
    -------
    dict
        "cells", one for each solve; "rows", the times at equal digits; "first", the seconds of the
        first solve of each solver whose f is compiled, which is mostly compilation.
    """
    cells: list[Cell] = []
    rows: list[Cell] = []
    first: dict[str, dict[str, float]] = {}
    for case in cases:
        fit = {s.name: (s, f) for s in solvers if (f := s.f(case)) is not None}
        first[case.name] = compile_all(case, fit)
        of: list[Cell] = []
        for rtol in case.rtols[:: 3 if quick else 1]:
            of += at_tolerance(case, fit, rtol, repetitions)
        print_cells(of)
        cells += of
        rows += equal_digits(of, case.wanted)
    print_rows(rows)
    return {"cells": cells, "rows": rows, "first": first}


def compile_all(case: Case, fit: dict[str, tuple[Solver, Any]]) -> dict[str, float]:
    """Solve once by each solver that compiles; return the seconds."""
    seconds = {}
    for name, (solver, f) in fit.items():
        if solver.kind == COMPILED and solver.counts:
            start = time.process_time()
            try:
                solver.solve(case, f, case.rtols[0])
            except Exception as error:  # it will fail again, where that is recorded
                print(f"{case.name}: {name}: {error}")
            seconds[name] = time.process_time() - start
    return seconds


def at_tolerance(
    case: Case, fit: dict[str, tuple[Solver, Any]], rtol: float, repetitions: int
) -> list[Cell]:
    """Run all solvers at one tolerance, by turns."""
    runs: dict[str, Callable[[], Any]] = {}
    counting: dict[str, Callable[[], Any]] = {}
    for name, (solver, f) in fit.items():
        runs[name] = partial(solver.solve, case, f, rtol)
        if not solver.counts:
            counting[name] = partial(_counted, solver, case, f, rtol)
    cells = []
    for name, timing in take_turns(runs, repetitions, warm_up=counting, longest=0.5).items():
        solver, _ = fit[name]
        cell = {
            "problem": case.name,
            "solver": name,
            "library": solver.library,
            "kind": solver.kind,
            "rtol": rtol,
            "digits": None,
            "times": timing.times,
        }
        if timing.failure is None:
            answer = dict(timing.result)
            known = case.digits(answer.pop("y"))
            cell |= {"digits": None if math.isnan(known) else known, **answer}
        else:
            cell["failure"] = timing.failure
        cells.append(cell)
    return cells


def _counted(solver: Solver, case: Case, f: Any, rtol: float) -> Cell:
    counted = Counted(f)
    return {**solver.solve(case, counted, rtol), "nfev": counted.calls}


def equal_digits(cells: Sequence[Cell], wanted: Sequence[float]) -> list[Cell]:
    """Return a row per problem, number of digits and kind of f: times over that of our best method.

    Among solvers with f in Python, and, against our methods with compiled f, among those with
    compiled f and all peers: who has one that cannot use compiled code wants to know what ours
    saves. "seconds" is the time of our best, None where none of ours has the digits.
    """
    rows = []
    for problem in dict.fromkeys(cell["problem"] for cell in cells):
        for kind in (PYTHON, COMPILED):
            of = [
                cell
                for cell in cells
                if cell["problem"] == problem
                and (cell["kind"] == kind or (kind == COMPILED and cell["library"] != "stiffkit"))
            ]
            if not any(cell["kind"] == kind for cell in of):
                continue
            libraries = {cell["solver"]: cell["library"] for cell in of}
            for digits in wanted:
                times = {name: _time(of, name, digits) for name in libraries}
                ours = [name for name, library in libraries.items() if library == "stiffkit"]
                best = min(ours, key=times.__getitem__, default=None)
                base = math.inf if best is None else times[best]
                rows.append(
                    {
                        "problem": problem,
                        "kind": kind,
                        "digits": digits,
                        "best": best if math.isfinite(base) else None,
                        "seconds": base if math.isfinite(base) else None,
                        "ratios": {name: ratio(t, base) for name, t in times.items()},
                        "times": {n: t if math.isfinite(t) else None for n, t in times.items()},
                        "peers": [name for name in libraries if name not in ours],
                    }
                )
    return rows


def _time(cells: Sequence[Cell], name: str, digits: float) -> float:
    points = [
        (cell["digits"], min(cell["times"]))
        for cell in cells
        if cell["solver"] == name and cell["times"]
    ]
    return at_digits(points, digits)


# What is printed ----------------------------------------------------------------------------------


def print_cells(cells: Sequence[Cell]) -> None:
    for c in cells:
        known = "none" if c["digits"] is None else f"{c['digits']:.2f}"
        least = f"{1e3 * min(c['times']):.3f}" if c["times"] else c.get("failure", "")[:60]
        print(
            f"{c['problem']:24} {c['solver']:24} {c['rtol']:6.0e} {known:>6} {least:>10}"
            f" {c.get('nfev', ''):>7} {c.get('steps', ''):>7}",
            flush=True,
        )


def print_rows(rows: Sequence[Cell]) -> None:
    for row in rows:
        best = "none of ours" if row["best"] is None else f"{row['best']}"
        seconds = math.nan if row["seconds"] is None else row["seconds"]
        print(f"\n{row['problem']}, {row['digits']:g} digits, f {row['kind']}: {best}", end="")
        print(f" {1e3 * seconds:.3f} ms; others over that:")
        known = {name: t for name, t in row["ratios"].items() if t is not None}
        for name, t in sorted(known.items(), key=lambda item: item[1]):
            print(f"  {name:26} {t:9.2f}")

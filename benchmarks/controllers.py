"""Step size controllers compared: calls of f for equal error, rejections, smooth steps.

For each controller, method, problem and tolerance: calls of f, rejected steps, and the largest
error over the accepted steps, against a reference trajectory. Calls at equal error come from
log(calls) interpolated over log(error); the tables show geometric means of their ratios to those
of the I controller with safety 0.9. A number after a name is the safety; without it, it is 0.8.
No time is measured, so the numbers are the same on every machine, but for rounding.

The result is docs/decisions/001-default-controller.md.

    python benchmarks/controllers.py [--quick]
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from ivp_problems import PROBLEMS, Problem

import stiffkit as sk
from stiffkit import CONTROLLERS, PIDController

# Loosest and tightest rtol, as powers of ten: where a method of that order is reasonable.
METHODS = {
    "bosh3": (2, 6),
    "dopri5": (3, 9),
    "tsit5": (3, 9),
    "bs5": (3, 9),
    "vern7": (4, 10),
    "vern9": (4, 11),
    "dop853": (4, 11),
}
KINDS = ("smooth", "rough", "stability")
# Tolerances per decade. Steps are limited by stability at the loose end only: that much is run.
PER_DECADE = {"smooth": 2, "rough": 2, "stability": 1}
DECADES_STABILITY = 3

FLOOR = 3e-11
"""Errors below it are not compared: the references are not much better."""
FLOORS = {"arenstorf": 1e-7}
"""Of problems that magnify rounding."""
CEILING = 0.3
"""Errors above it are not compared: the solution is lost."""


def _same_exponent(beta: float) -> Callable[[int], PIDController]:
    """Hairer's PI with the exponents 1/k − 0.75 β and β, whatever k."""
    return lambda k: PIDController(1 - 0.75 * beta * k, -beta * k, safety=SAFETY)


SAFETY = 0.8
"""Set point of all the filters that are compared with each other."""

BASE = "I, 0.9"
"""What everything is compared with: the controller and the safety of SciPy."""

I, PI = CONTROLLERS["I"], CONTROLLERS["PI-DOPRI5"]
CANDIDATES: dict[str, PIDController | Callable[[int], PIDController]] = {
    BASE: replace(I, safety=0.9),
    "I, 0.7": replace(I, safety=0.7),
    # DOPRI5 and Gustafsson's codes have 0.9 in front of the product, which for their filters is
    # the set point 0.9^(1/0.65) = 0.85 and 0.9^(1/0.3) = 0.70.
    **{f"PI-DOPRI5, {s}": replace(PI, safety=s) for s in (0.9, 0.85, 0.75, 0.7)},
    "PI3040, 0.7": replace(CONTROLLERS["PI3040"], safety=0.7),
    **{name: replace(c, safety=SAFETY) for name, c in CONTROLLERS.items()},
    # From I (b = 0) over PI-DOPRI5 (0.2) to PI3040 (0.4).
    "PI, b = 0.1": PIDController(0.925, -0.1, safety=SAFETY),
    "PI, b = 0.3": PIDController(0.775, -0.3, safety=SAFETY),
    "PI, exponent 0.08": _same_exponent(0.08),
    "PI of SUNDIALS": PIDController(0.8, -0.31, safety=SAFETY),
    "ExpGus of SUNDIALS": PIDController(0.635, -0.268, safety=SAFETY),
}
QUICK = (BASE, "I", "PI-DOPRI5", "PI-DOPRI5, 0.9", "PI3040", "H211b")


@dataclass(frozen=True)
class Run:
    """What one solve cost and achieved."""

    rtol: float
    calls: int
    rejected: float
    """Share of the attempted steps."""
    error: float
    """Largest over the accepted steps, rms over the components in units of their largest size;
    inf if t1 was not reached."""
    roughness: float
    """Rms of log h_(n+1)/h_n."""


Cell = tuple[str, str]
"""Method and problem."""


def solve(problem: Problem, method: str, controller: PIDController, rtol: float) -> Run:
    with np.errstate(all="ignore"):  # a step that is too long may overflow: it is rejected
        s = sk.solve(
            problem.f,
            problem.t_span,
            np.array(problem.y0, dtype=float),
            method,
            rtol=rtol,
            atol=rtol * 1e-3,
            controller=controller,
        )
    deviation = (s.y - problem.trajectory(s.t)) / problem.scale
    h = np.diff(s.t)[:-1]  # the last step is cut
    change = np.diff(np.log(h)) if len(h) > 1 else np.zeros(1)
    accepted, rejected = s.stats["accepted"], s.stats["rejected"]
    return Run(
        rtol=rtol,
        calls=s.stats["nfev"],
        rejected=rejected / (accepted + rejected),
        error=float(np.sqrt((deviation**2).mean(axis=1)).max()) if s.success else math.inf,
        roughness=float(np.sqrt((change**2).mean())),
    )


def tolerances(kind: str, method: str, *, quick: bool) -> list[float]:
    loose, tight = METHODS[method]
    if kind == "stability":
        tight = loose + DECADES_STABILITY
    per_decade = 1 if quick else PER_DECADE[kind]
    powers = np.linspace(loose, tight, (tight - loose) * per_decade + 1)
    return [10.0**-p for p in powers.tolist()]


def measure(
    candidate: PIDController | Callable[[int], PIDController], cells: list[Cell], *, quick: bool
) -> dict[Cell, list[Run]]:
    runs = {}
    for method, name in cells:
        problem, controller = PROBLEMS[name], candidate
        if not isinstance(controller, PIDController):
            controller = controller((sk.METHODS[method].error_order or 0) + 1)
        runs[method, name] = [
            solve(problem, method, controller, rtol)
            for rtol in tolerances(problem.kind, method, quick=quick)
        ]
    return runs


def compared(runs: list[Run], floor: float) -> list[Run]:
    """Return the runs whose error can be compared, by error."""
    good = [run for run in runs if floor < run.error < CEILING]
    return sorted(good, key=lambda run: run.error)


def equal_error(runs: list[Run], others: list[Run], floor: float) -> float | None:
    """Mean of log(calls / calls of the others) over the errors both reach; None if too few."""
    curves = []
    for side in (runs, others):
        good = compared(side, floor)
        curves.append((np.log([r.error for r in good]), np.log([r.calls for r in good])))
    (x, y), (x_0, y_0) = curves
    if min(len(x), len(x_0)) < 2:
        return None
    low, high = max(x[0], x_0[0]), min(x[-1], x_0[-1])
    if high - low < 1:
        return None
    grid = np.linspace(low, high, 21)
    return float(np.mean(np.interp(grid, x, y) - np.interp(grid, x_0, y_0)))


def proportionality(runs: list[Run], floor: float) -> float | None:
    """Residual, in decades, of a straight line through log(error) over log(rtol)."""
    good = compared(runs, floor)
    if len(good) < 4:
        return None
    x, y = np.log10([r.rtol for r in good]), np.log10([r.error for r in good])
    return float(np.std(y - np.polyval(np.polyfit(x, y, 1), x)))


def known(values: Iterable[float | None]) -> list[float]:
    return [v for v in values if v is not None]


def report(results: dict[str, dict[Cell, list[Run]]]) -> None:
    base = results[BASE]
    kind_of = {cell: PROBLEMS[cell[1]].kind for cell in base}
    floor_of = {cell: FLOORS.get(cell[1], FLOOR) for cell in base}
    ratios = {
        name: {cell: equal_error(runs[cell], base[cell], floor_of[cell]) for cell in base}
        for name, runs in results.items()
    }

    print(f"Calls of f for equal error, relative to {BASE}, ± standard error; the worst ratio:\n")
    print("| controller | smooth | rough | stability | all three | worst |")
    print("|---|---|---|---|---|---|")
    for name, ratio in ratios.items():
        row, means = [name], []
        for kind in KINDS:
            v = known(ratio[cell] for cell in base if kind_of[cell] == kind)
            means.append(float(np.mean(v)))
            row.append(f"{math.exp(means[-1]):.3f} ± {np.std(v) / math.sqrt(len(v)):.3f}")
        row.append(f"{math.exp(np.mean(means)):.3f}")
        worst = max(base, key=lambda cell, ratio=ratio: ratio[cell] or 0.0)
        row.append(f"{math.exp(ratio[worst] or 0.0):.2f} {' '.join(worst)}")
        print("|", " | ".join(row), "|")

    print(f"\nAt equal tolerance (smooth): calls and error, relative to {BASE}. Rejected steps, %.")
    print(
        "Rms of log h ratio, median. Decades off proportionality of error to tolerance, median.\n"
    )
    print(
        "| controller | calls | error | rejected: smooth | rough | stability"
        " | log h ratio: smooth | stability | proportionality |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, runs in results.items():
        of = {kind: [c for c in base if kind_of[c] == kind] for kind in KINDS}
        pairs = [p for c in of["smooth"] for p in zip(runs[c], base[c], strict=True)]
        pairs = [(a, b) for a, b in pairs if max(a.error, b.error) < CEILING]
        calls = np.mean([math.log(a.calls / b.calls) for a, b in pairs])
        errors = [math.log(max(a.error, FLOOR) / max(b.error, FLOOR)) for a, b in pairs]
        row = [name, f"{math.exp(calls):.2f}", f"{math.exp(np.mean(errors)):.2f}"]
        for kind in KINDS:
            row.append(f"{100 * np.mean([r.rejected for c in of[kind] for r in runs[c]]):.1f}")
        for kind in ("smooth", "stability"):
            row.append(f"{np.median([r.roughness for c in of[kind] for r in runs[c]]):.2f}")
        residuals = known(proportionality(runs[c], floor_of[c]) for c in of["smooth"])
        row.append(f"{np.median(residuals):.2f}")
        print("|", " | ".join(row), "|")

    print("\nCalls of f for equal error, smooth problems, by method:\n")
    methods = list(dict.fromkeys(method for method, _ in base))
    print("| controller |", " | ".join(methods), "|")
    print("|---" * (len(methods) + 1) + "|")
    for name, ratio in ratios.items():
        row = [name]
        for method in methods:
            cells = [c for c in base if c[0] == method and kind_of[c] == "smooth"]
            row.append(f"{math.exp(np.mean(known(ratio[c] for c in cells))):.3f}")
        print("|", " | ".join(row), "|")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a small part, in half a minute")
    quick = parser.parse_args().quick
    methods, problems = list(METHODS), list(PROBLEMS)
    if quick:
        methods, problems = ["tsit5", "vern7"], problems[::2]
    cells = [(method, name) for method in methods for name in problems]
    start, results = time.process_time(), {}
    for name, candidate in CANDIDATES.items():
        if not quick or name in QUICK:
            results[name] = measure(candidate, cells, quick=quick)
    report(results)
    solves = sum(len(runs) for cells_ in results.values() for runs in cells_.values())
    for name, runs in results.items():
        for cell in cells:
            lost = [f"{run.rtol:.0e}" for run in runs[cell] if run.error == math.inf]
            if lost:
                print("\nnot finished:", name, *cell, "rtol", *lost, end="")
    print(f"\n{solves} solves, {time.process_time() - start:.0f} s of processor time")


if __name__ == "__main__":
    main()

"""Do the implicit and Rosenbrock methods reach the published end values? A row per solve.

Eight problems of the test sets, each to the end of its published times: ROBER to 1e11, OREGO to
360, HIRES, E5 to 1e9, VDPOL to 2, VDPOLM (mu = 1000) to 2000, POLLU, and CHEMAKZO, which is
differential-algebraic. Every method at rtol 1e-4, 1e-6 and 1e-8, those of order 4 and more at 1e-10
too; `stiff_problems` has atol / rtol for each component. Jacobians are by differences.

scd is −log10 of the largest relative error; a solve meets its target with scd ≥ −log10(rtol) − 1.5,
and is given up after 50,000 steps. Stabilised methods are judged where the spectrum is real and
h rho is not of chemistry's size: on OREGO, HIRES, and CHEMAKZO as an ODE.

    python benchmarks/end_values.py [--quick] [--json docs/data/end_values.json]

References
----------
F. Mazzia, C. Magherini, Test Set for Initial Value Problem Solvers, release 2.4, University of Bari
(2008). E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., Springer (1996),
section IV.10, doi:10.1007/978-3-642-05221-7.
"""

from __future__ import annotations

# ruff: noqa: E402 - the number of threads is set before NumPy is imported
import argparse
import json
import math
import os
import warnings
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np
from stiff_problems import DAE, LONG, STIFF, StiffProblem

import stiffkit as sk
from stiffkit.solvers.stabilised import STABILISED

PROBLEMS = {
    "ROBER": LONG["ROBER"],
    "OREGO": STIFF["OREGO"],
    "HIRES": STIFF["HIRES"],
    "E5": LONG["E5"],
    "VDPOL": STIFF["VDPOL"],
    "VDPOLM": LONG["VDPOLM"],
    "POLLU": STIFF["POLLU"],
    "CHEMAKZO": DAE["CHEMAKZO"],
}
REAL_SPECTRUM = {
    "OREGO": STIFF["OREGO"],
    "HIRES": STIFF["HIRES"],
    "CHEMAKZO": LONG["CHEMAKZO-ODE"],
}
IMPLICIT = [name for name in sk.METHODS if name not in sk.EXPLICIT and name not in STABILISED]
RTOLS = (1e-4, 1e-6, 1e-8, 1e-10)
MARGIN = 1.5
MAX_STEPS = 50_000


def solve(problem: StiffProblem, method: str, rtol: float) -> dict[str, Any]:
    """Solve to the published time, and compare."""
    atol = np.asarray(problem.atol) * rtol
    span = (problem.t_span[0], problem.t_end)
    options = {} if problem.mass is None else {"mass": problem.mass}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of overflows in steps that are refused
        solution = sk.solve(
            *(problem.f, span, problem.y0, method),
            rtol=rtol,
            atol=atol,
            max_steps=MAX_STEPS,
            **options,
        )
    scd = problem.digits(solution.y[-1]) if solution.success else None
    return {
        "rtol": rtol,
        "scd": None if scd is None else round(scd, 2),
        "met": scd is not None and scd >= -math.log10(rtol) - MARGIN,
        "status": solution.status.name,
        "steps": solution.stats["accepted"],
        "nfev": solution.stats["nfev"],
    }


def estimates(problem: StiffProblem, method: str, rtol: float, looks: int = 60) -> Any:
    """Return true local errors over estimates, of every so many steps of an ODE's solve.

    The true one is by radau9 at rtol 1e-12, over the step alone. Norms are those of step control.
    """
    atol = rtol * np.broadcast_to(problem.atol, len(problem.y0))
    span, options = (problem.t_span[0], problem.t_end), {"rtol": rtol, "atol": atol}
    seen: list[Any] = []
    sk.solve(problem.f, span, problem.y0, method, callback=seen.append, **options)
    ratios = []
    for step in seen[:: max(1, len(seen) // looks)]:
        exact = sk.solve(
            *(problem.f, (step.t, step.t_new), step.y, "radau9"), rtol=1e-12, atol=1e-9 * atol
        ).y[-1]
        scale = atol + rtol * np.maximum(np.abs(step.y), np.abs(step.y_new))
        error, estimate = (float(np.linalg.norm(x / scale)) for x in (step.y_new - exact, step.err))
        if estimate > 1e-3:
            ratios.append(error / estimate)
    return np.array(ratios)


def print_estimates() -> None:
    """Print how true the estimates are of those methods that miss most targets."""
    print(f"{'':9} {'method':9} true error over its estimate: median, 10 % and 90 %, largest")
    for name in ("OREGO", "HIRES"):
        for method in ("trbdf2", "kvaerno3", "kencarp3", "kencarp4", "kencarp5", "kvaerno5"):
            ratios = estimates(STIFF[name], method, 1e-6)
            low, middle, high = np.quantile(ratios, (0.1, 0.5, 0.9))
            print(f"{name:9} {method:9} {middle:6.2f} {low:6.2f} {high:6.2f} {ratios.max():6.1f}")


def rows(name: str, problem: StiffProblem, methods: list[str], rtols: Any) -> list[dict[str, Any]]:
    """Solve one problem by all methods, and print as it goes."""
    found = []
    for method in methods:
        for rtol in rtols:
            if rtol < 1e-9 and sk.METHODS[method].order < 4:
                continue
            row = {"problem": name, "method": method, **solve(problem, method, rtol)}
            digits = "  none" if row["scd"] is None else f"{row['scd']:6.2f}"
            mark = "" if row["met"] else f"  misses {-math.log10(rtol) - MARGIN:.1f}"
            counts = f"{row['steps']:7} {row['nfev']:8}"
            print(f"{name:9} {method:9} {rtol:6.0e} {digits} {counts}{mark}", flush=True)
            found.append(row)
    return found


def main() -> None:
    """Solve all, print the rows, and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="rtol 1e-4 alone")
    parser.add_argument("--methods", nargs="+", choices=IMPLICIT, help="only these; no JSON")
    parser.add_argument("--estimates", action="store_true", help="how true they are, and no more")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.estimates:
        print_estimates()
        return
    if arguments.methods and arguments.json:
        parser.error("--json takes all methods")
    rtols = RTOLS[:1] if arguments.quick else RTOLS
    print(f"{'':9} {'method':9} {'rtol':>6} {'scd':>6} {'steps':>7} {'nfev':>8}")
    found: list[dict[str, Any]] = []
    for name, problem in PROBLEMS.items():
        found += rows(name, problem, arguments.methods or IMPLICIT, rtols)
    for name, problem in REAL_SPECTRUM.items() if not arguments.methods else ():
        found += rows(name, problem, list(STABILISED), rtols)
    met = sum(row["met"] for row in found)
    print(f"{met} of {len(found)} solves meet their target")
    if arguments.json:
        atol = {name: problem.atol for name, problem in PROBLEMS.items()}
        written = {"atol_over_rtol": atol, "margin": MARGIN, "rows": found}
        lines = json.dumps(written, indent=1)
        arguments.json.write_text(lines + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

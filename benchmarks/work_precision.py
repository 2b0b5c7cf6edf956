"""Work and precision of the stiff methods against SciPy and CVODE.

The classic stiff equations, from 2 to 20 components, with Jacobians by differences on both sides.
scd is −log10 of the largest relative error at the published end value. The time is that of one
thread's processor: wall time where nothing else runs. All solves of one problem at one tolerance
take turns, and of those below 0.2 s the least of seven times is kept. A solve is given up after
50,000 steps, and then has no digits.

* Digits: the share of solves with scd ≥ −log10(rtol) − 1.5, and what the others have.
* Time at equal digits, of our best method for each and of single ones: the least time in which a
  solver has at least so many digits, between its tolerances log-linear in the digits; as a ratio to
  the better of SciPy's Radau and BDF.
* The Brusselator with diffusion in the plane, periodic (BRUSS-2D, HW II, section IV.10): stabilised
  methods against BDF with the sparse Jacobian, and CVODE with GMRES of 5 and of 30 directions, and
  of 5 with diffusion as its preconditioner, which the Fourier transform inverts. The reference is
  rock4 at rtol 1e-9, restarted where the source switches on, and the digits are −log10 of the
  largest error relative to the largest component.

    python benchmarks/work_precision.py [--quick] [--problems NAME ...] [--json FILE]

References
----------
E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., Springer (1996),
section IV.10, doi:10.1007/978-3-642-05221-7.
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from _measure import at_digits, digits, peer, ratio, short, take_turns  # first: it sets the threads

# isort: split
import numpy as np
import scipy.sparse as sps
from scipy import fft
from scipy.integrate import solve_ivp
from stiff_problems import STIFF

import stiffkit as sk
from stiffkit.solvers.stabilised import STABILISED

cvode = peer("sksundae.cvode")

OURS = [name for name in sk.METHODS if name not in sk.EXPLICIT and name not in STABILISED]
PEERS = ["Radau", "BDF", "LSODA", *(["CVODE"] if cvode is not None else [])]
SINGLE = ("auto", "rodas5p", "radau9")
PLANE_RTOLS = (1e-4, 1e-5, 1e-6, 1e-7)
RTOLS = (1e-2, 1e-3, 1e-4, 1e-6, 1e-8, 1e-10)
DIGITS = (3, 4, 5, 6, 7, 8, 9, 10)
MAX_STEPS = 50_000
MARGIN = 1.5

Array = np.ndarray
Cell = dict[str, Any]
Run = Callable[[], Cell]


# The solvers, each to one kind of answer ----------------------------------------------------------


def run_ours(
    f: Any, t_span: Any, y0: Any, name: str, rtol: float, atol: Any, **options: Any
) -> Cell:
    """Solve with stiffkit."""
    solution = sk.solve(f, t_span, y0, name, rtol=rtol, atol=atol, max_steps=MAX_STEPS, **options)
    return {"y": solution.y[-1] if solution.success else None, **solution.stats}


class _GivenUp(Exception):
    """Too many calls of f."""


def run_peer(
    f: Any, t_span: Any, y0: Any, name: str, rtol: float, atol: Any, **options: Any
) -> Cell:
    """Solve with SciPy, or with CVODE."""
    calls = 0  # their own counts leave out the calls for Jacobians

    def counted(t: float, y: Array) -> Array:
        nonlocal calls
        calls += 1
        if calls > 20 * MAX_STEPS:
            raise _GivenUp
        return f(t, y)

    run = _run_cvode if name == "CVODE" else partial(_run_scipy, name)
    try:
        cell = run(counted, t_span, y0, rtol, atol, **options)
    except _GivenUp:
        cell = {"y": None}
    return {**cell, "nfev": calls}


def _run_scipy(name: str, f: Any, t_span: Any, y0: Any, rtol: float, atol: Any, **opt: Any) -> Cell:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # LSODA's, when it gives up
        result = solve_ivp(f, t_span, y0, name, rtol=rtol, atol=atol, **opt)
    if not result.success:
        return {"y": None}
    counts = {"njev": result.njev, "nlu": result.nlu, "accepted": len(result.t) - 1}
    return {"y": result.y[:, -1], **counts}


def _run_cvode(f: Any, t_span: Any, y0: Any, rtol: float, atol: Any, **options: Any) -> Cell:
    def into(t: float, y: Array, out: Array) -> None:
        out[:] = f(t, y)

    solver = cvode.CVODE(into, rtol=rtol, atol=atol, max_num_steps=20 * MAX_STEPS, **options)
    with np.errstate(over="ignore"):  # NumPy finds the flags that compiled code left
        result = solver.solve(np.array(t_span), np.array(y0, dtype=float))
    if not result.success:
        return {"y": None}
    return {"y": result.y[-1], "njev": result.njev, "accepted": len(result.t) - 1}


def timed(runs: dict[str, Run], repetitions: int) -> dict[str, Cell]:
    """Run all, and the short ones again by turns; each cell gets its least time."""
    cells = {}
    for name, timing in take_turns(runs, repetitions, longest=0.2).items():
        if timing.failure is not None:
            print(f"{name}: {timing.failure}")
        cells[name] = {"y": None, **(timing.result or {}), "time": timing.best}
    return cells


# Small problems -----------------------------------------------------------------------------------


def small(problem: Any, rtol: float, *, quick: bool) -> list[Cell]:
    """One problem at one tolerance, by all solvers that are fit for it."""
    p, runs = problem, dict[str, Run]()
    span, atol = (p.t_span[0], p.t_end), rtol * np.broadcast_to(p.atol, len(p.y0))
    for name in ["auto", *OURS, *PEERS]:
        if name in OURS and sk.METHODS[name].order < 4 and rtol < 1e-9:
            continue
        solve = run_peer if name in PEERS else run_ours
        runs[name] = partial(solve, p.f, span, p.y0, name, rtol, atol)
    cells = []
    for name, cell in timed(runs, 1 if quick else 7).items():
        y = cell.pop("y")
        scd = None if y is None else digits(y, p.y_end)
        cells.append({"problem": p.name, "solver": name, "rtol": rtol, "scd": scd, **cell})
    return cells


def missed(cell: Cell) -> float:
    """Digits that a cell lacks of −log10(rtol) − 1.5; 0 if it has them."""
    if cell["scd"] is None:
        return math.inf
    return max(0.0, -math.log10(cell["rtol"]) - MARGIN - cell["scd"])


def least(cells: list[Cell], wanted: float, key: str = "time") -> float:
    """Least time, or whatever else `key` counts, for at least the digits wanted."""
    return at_digits([(c["scd"], c[key]) for c in cells if c["scd"] is not None], wanted)


def equal_digits(cells: list[Cell]) -> list[Cell]:
    """Return times at equal digits, a row per problem and number of digits.

    Times are ratios to SciPy's; calls of f are ratios to the fewest of ours.
    """
    rows = []
    for problem in dict.fromkeys(c["problem"] for c in cells):
        of = {
            name: [c for c in cells if c["problem"] == problem and c["solver"] == name]
            for name in ["auto", *OURS, *PEERS]
        }
        for wanted in DIGITS:
            times = {name: least(of[name], wanted) for name in of}
            base = min(times["Radau"], times["BDF"])
            best = min(OURS, key=times.__getitem__)
            calls = {name: least(of[name], wanted, "nfev") for name in of}
            fewest = min(calls[name] for name in OURS)
            if math.isfinite(base) and math.isfinite(times[best]):
                rows.append(
                    {
                        "problem": problem,
                        "digits": wanted,
                        "base": base,
                        "best": ratio(times[best], base),
                        "best_method": best,
                        **{n: ratio(times[n], base) for n in (*SINGLE, *PEERS[2:])},
                        "calls": {n: ratio(calls[n], fewest) for n in PEERS},
                    }
                )
    return rows


# The Brusselator with diffusion in the plane ------------------------------------------------------

ALPHA, SWITCH, T_END = 0.1, 1.1, 11.5


class Brusselator:
    """u' = 1 + u²v − 4.4u + αΔu + s(t, x), v' = 3.4u − u²v + αΔv on N × N points, periodic."""

    def __init__(self, N: int) -> None:
        x = np.arange(N) / N
        X, Y = np.meshgrid(x, x, indexing="ij")
        self.N, self.c = N, ALPHA * N * N
        self.y0 = np.stack([22 * Y * (1 - Y) ** 1.5, 27 * X * (1 - X) ** 1.5]).ravel()
        self.source = 5.0 * ((X - 0.3) ** 2 + (Y - 0.6) ** 2 <= 0.1**2)
        ring = sps.diags_array(
            [1.0, 1.0, -2.0, 1.0, 1.0], offsets=[1 - N, -1, 0, 1, N - 1], shape=(N, N)
        )
        one = sps.eye_array(N)
        self.laplacian = self.c * (sps.kron(ring, one) + sps.kron(one, ring))
        self.wide = np.empty((2, N + 2, N + 2))

    def f(self, t: float, y: Array, on: bool | None = None) -> Array:
        """Right-hand side; `on` says whether the source is, by default from t = 1.1."""
        N, wide = self.N, self.wide
        w = y.reshape(2, N, N)
        wide[:, 1:-1, 1:-1] = w
        wide[:, 0, 1:-1], wide[:, -1, 1:-1] = w[:, -1], w[:, 0]
        wide[:, 1:-1, 0], wide[:, 1:-1, -1] = w[:, :, -1], w[:, :, 0]
        out = w * (-4 * self.c)
        for neighbour in (
            wide[:, :-2, 1:-1],
            wide[:, 2:, 1:-1],
            wide[:, 1:-1, :-2],
            wide[:, 1:-1, 2:],
        ):
            out += self.c * neighbour
        u, v = w
        reaction = u * u * v
        out[0] += 1 + reaction - 4.4 * u
        out[1] += 3.4 * u - reaction
        if t >= SWITCH if on is None else on:
            out[0] += self.source
        return out.ravel()

    def jac(self, t: float, y: Array) -> Any:  # noqa: ARG002
        """Sparse Jacobian."""
        u, v = y.reshape(2, -1)
        D, uu = sps.diags_array, u * u
        blocks = [
            [self.laplacian + D(2 * u * v - 4.4), D(uu)],
            [D(3.4 - 2 * u * v), self.laplacian - D(uu)],
        ]
        return sps.block_array(blocks, format="csc")

    def undiffuse(self, r: Array, gamma: float) -> Array:
        """Solve (I − γαΔ) z = r by the fast Fourier transform."""
        N = self.N
        k = 2 * np.cos(2 * np.pi * np.arange(N) / N) - 2
        eigenvalues = self.c * (k[:, None] + k[: N // 2 + 1])
        wave = fft.rfft2(r.reshape(2, N, N)) / (1 - gamma * eigenvalues)
        return fft.irfft2(wave, s=(N, N)).ravel()

    def reference(self) -> Array:
        """Return the end value to about nine digits."""
        y = self.y0
        for span in ((0.0, SWITCH), (SWITCH, T_END)):
            on = span[0] == SWITCH
            solution = sk.solve(
                lambda t, y, on=on: self.f(t, y, on), span, y, "rock4", rtol=1e-9, atol=1e-9
            )
            y = solution.y[-1]
        return y


def brusselator(N: int, rtols: tuple[float, ...]) -> list[Cell]:
    """Solve on N × N points by stabilised methods and by peers that use sparsity or products."""
    B, span = Brusselator(N), (0.0, T_END)
    reference, cells = B.reference(), []

    def precondition(t, y, yp, r, z, gamma, delta, lr):  # noqa: ARG001 - its signature is checked
        z[:] = B.undiffuse(r, gamma)

    for rtol in rtols:
        ours = partial(run_ours, B.f, span, B.y0, rtol=rtol, atol=rtol)
        peer = partial(run_peer, B.f, span, B.y0, rtol=rtol, atol=rtol)
        runs: dict[str, Run] = {name: partial(ours, name) for name in ("auto", "rkc2", "rock4")}
        if cvode is not None:
            gmres = partial(peer, "CVODE", linsolver="gmres")
            runs["CVODE(5)"], runs["CVODE(30)"] = gmres, partial(gmres, krylov_dim=30)
            runs["CVODE, FFT"] = partial(gmres, precond=cvode.CVODEPrecond(None, precondition))
        if rtol == 1e-5:  # one tolerance is enough for what takes most of the time
            runs["BDF"] = partial(peer, "BDF", jac=B.jac)
        for name, cell in timed(runs, 2).items():
            y = cell.pop("y")
            scd = None if y is None else digits(y, reference, componentwise=False)
            cells.append(
                {"problem": f"BRUSS-2D {N}", "solver": name, "rtol": rtol, "scd": scd, **cell}
            )
    return cells


# What is printed ----------------------------------------------------------------------------------


def print_cells(cells: list[Cell]) -> None:
    for c in cells:
        digits = "none" if c["scd"] is None else f"{c['scd']:.2f}"
        counts = [c.get(key, "") for key in ("nfev", "njev", "nlu", "accepted", "rejected")]
        print(
            f"{c['problem']:12} {c['solver']:12} {c['rtol']:6.0e} {digits:>6} "
            f"{1e3 * c['time']:8.1f} "
            + " ".join(f"{n:>{w}}" for n, w in zip(counts, (7, 6, 6, 6, 5), strict=True)),
            flush=True,
        )


def print_digits(cells: list[Cell]) -> None:
    print(f"\ndigits: solves with scd >= -log10(rtol) - {MARGIN}, and what the others lack")
    for name in dict.fromkeys(c["solver"] for c in cells):
        of = [c for c in cells if c["solver"] == name]
        lacking = [
            f"{c['problem']} {c['rtol']:.0e}: "
            + ("unfinished" if c["scd"] is None else f"{missed(c):.2f}")
            for c in of
            if missed(c)
        ]
        share = f"{len(of) - len(lacking)}/{len(of)}"
        print(f"  {name:9} {share:>6} {1 - len(lacking) / len(of):5.0%}  {', '.join(lacking)}")


def print_equal_digits(rows: list[Cell]) -> None:
    print("\ntime at equal digits, as a ratio to the better of SciPy's Radau and BDF")
    peers = PEERS[2:]
    print(f"  {'':6} {'digits':>6} {'base ms':>8} {'best':>6} {'of':9}", end="")
    print("".join(f" {name:>7}" for name in (*SINGLE, *peers)))
    for row in rows:
        numbers = "".join(f" {_number(row[name]):>7}" for name in (*SINGLE, *peers))
        print(
            f"  {row['problem']:6} {row['digits']:6} {1e3 * row['base']:8.1f} "
            f"{row['best']:6.2f} {row['best_method']:9}{numbers}"
        )
    for key in ("best", *SINGLE, *peers):
        values = [row[key] for row in rows if row[key] is not None]
        print(
            f"  {key}: geometric mean {math.exp(np.mean(np.log(values))):.2f}, "
            f"largest {max(values):.2f}, below 1 in {np.mean(np.array(values) < 1):.0%} "
            f"of {len(values)}"
        )
    for name in PEERS:
        values = [row["calls"][name] for row in rows if row["calls"][name] is not None]
        print(
            f"  {name} calls f {math.exp(np.mean(np.log(values))):.2f} times as often as our best "
            f"({min(values):.2f} to {max(values):.2f})"
        )
    for name in peers:
        ahead = [r for r in rows if r[name] is not None and r[name] < r["best"]]
        both = [r for r in rows if r[name] is not None]
        factors = [r["best"] / r[name] for r in both]
        print(
            f"  {name} is ahead of our best in {len(ahead)} of {len(both)} "
            f"(factor {min(factors):.1f} to {max(factors):.1f})"
        )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def main() -> None:
    """Run all, print the tables, and write them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two tolerances, once; a small plane")
    parser.add_argument("--problems", nargs="+", choices=STIFF, help="only these, and no plane")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if arguments.problems and arguments.json:
        parser.error("--json takes all problems")
    print(f"{'':12} {'solver':12} {'rtol':>6} {'scd':>6} {'ms':>8}", end="")
    print(f" {'nfev':>7} {'njev':>6} {'nlu':>6} {'steps':>6} {'rej.':>5}")
    cells: list[Cell] = []
    for problem in [STIFF[name] for name in arguments.problems or STIFF]:
        for rtol in RTOLS[2:4] if arguments.quick else RTOLS:
            some = small(problem, rtol, quick=arguments.quick)
            print_cells(some)
            cells += some
    print_digits(cells)
    rows = equal_digits(cells)
    print_equal_digits(rows)
    if arguments.problems:
        return
    print("\nthe Brusselator in the plane")
    plane = brusselator(*((32, (1e-5,)) if arguments.quick else (128, PLANE_RTOLS)))
    print_cells(plane)
    if arguments.json:
        measured = {"cells": cells, "equal_digits": rows, "plane": plane}
        arguments.json.write_text(json.dumps(short(measured), indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Estimators of the dominant eigenvalue against the truth, on the classic equations.

States. 24 on the accurate solution of each problem: at log-uniform times for the stiff equations,
at equidistant ones for DETEST's classes A to E. The free estimators read real steps of tsit5 at
rtol 1e-6: for the stiff equations the 60th step from each of these states, when error control has
met the stability limit; for DETEST, steps of one solve.

Truth. LAPACK's eigenvalues of a Jacobian that is exact to rounding: by a complex step, which has
no cancellation, wherever f accepts complex states. A real increment would have to suit all
components at once: E5's run from 1e-3 down to 1e-20, and the Jordan block of C1 turns an error of
1e-11 in the matrix into one of several per cent in the eigenvalues. Where f takes real states only,
central differences; those Jacobians (orbits, pursuit) have no such trouble. Each estimate is
compared with the truth at its own state.

    python benchmarks/estimators.py [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ivp_problems import PROBLEMS
from stiff_problems import STIFF

import stiffkit as sk
from stiffkit.stiffness import (
    JacobianOperator,
    NormRatio,
    RayleighQuotient,
    StageRatio,
    arnoldi,
    dense_jacobian,
    nonlinear_power_iteration,
    power_iteration,
)

STATES = 24
SETTLING = 60
"""Steps after which a stiff solve has reached the stability limit."""

Array = np.ndarray


class Reading(NamedTuple):
    """One estimate beside the truth."""

    ratio: float
    """|estimate| / ρ."""
    sign: bool | None
    """Whether the real part has the right sign; None where either has none."""
    angle: float | None
    """Degrees between the estimated vector and the dominant eigenspace."""
    calls: int
    """Calls of f, f(t, y) itself being known."""
    h_rho: float | None = None
    """h times the true ρ, of the step that a free estimate reads."""


class Truth:
    """Eigenvalues and dominant eigenspace at one state."""

    def __init__(self, f: Callable[..., Array], t: float, y: Array) -> None:
        self.J = _jacobian(f, t, y)
        values, vectors = np.linalg.eig(self.J)
        self.radius = float(np.abs(values).max())
        # Pairs λ, λ̄ and λ, −λ share the modulus, and any vector of their span is as good.
        top = np.abs(values) >= 0.99 * self.radius
        self.real = values[top].real
        self.space = np.linalg.qr(vectors[:, top])[0]

    def sign(self, value: complex) -> bool | None:
        """Whether Re value has the sign of the dominant eigenvalues; None if they have none."""
        small = 1e-6 * self.radius
        if not ((self.real > small).all() or (self.real < -small).all()):
            return None
        return bool(np.sign(complex(value).real) == np.sign(self.real[0]))

    def angle(self, v: Array) -> float | None:
        """Return the degrees between v and the dominant eigenspace; None for v = 0."""
        size = np.linalg.norm(v)
        if not size > 0:
            return None
        inside = np.linalg.norm(self.space.conj().T @ (v / size))
        return float(np.degrees(np.arccos(min(inside, 1.0))))


def _jacobian(f: Callable[..., Array], t: float, y: Array) -> Array:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a cast that drops the imaginary part only warns
        try:
            return dense_jacobian(JacobianOperator(f, t, y, method="complex-step"))
        except (TypeError, ValueError, np.exceptions.ComplexWarning):
            return dense_jacobian(JacobianOperator(f, t, y, method="central"))


def bought(f: Callable[..., Array], t: float, y: Array, truth: Truth) -> dict[str, Reading]:
    """Read the estimators that cost calls of f."""
    readings = {}
    f_0 = np.asarray(f(t, y), dtype=float)

    def products(name: str, estimate: Callable[[Any], tuple[Any, Array]], method: str) -> None:
        operator = JacobianOperator(f, t, y, method=method, f_0=f_0)
        value, vector = estimate(operator)
        readings[name] = Reading(
            abs(value) / truth.radius, truth.sign(value), truth.angle(vector), operator.nfev
        )

    def power(operator: Any) -> tuple[Any, Array]:
        pair = power_iteration(operator, operator.n)
        return pair.value, pair.vector

    def krylov(k: int) -> Callable[[Any], tuple[Any, Array]]:
        def estimate(operator: Any) -> tuple[Any, Array]:
            spectrum = arnoldi(operator, operator.n, k=k)
            return spectrum.values[0], spectrum.vectors[:, 0]

        return estimate

    products("power iteration", power, "difference")
    pair = nonlinear_power_iteration(f, t, y, f_0=f_0)
    readings["nonlinear power iteration"] = Reading(
        pair.value / truth.radius, None, truth.angle(pair.vector), pair.products
    )
    products("Arnoldi, k = 3", krylov(3), "difference")
    products("Arnoldi, k = 10", krylov(10), "difference")
    products("Arnoldi, k = 10, central", krylov(10), "central")
    return readings


def free(f: Callable[..., Array], step: sk.Step, probe: Any) -> dict[str, Reading]:
    """Read the estimators that a step gives away."""
    readings = {}
    if probe is not None:
        truth = Truth(f, step.t, step.y)
        dy, df = step.y - probe.z, step.k[0] - probe.f
        rho, rayleigh = NormRatio()(step, probe), RayleighQuotient()(step, probe)
        readings["norm ratio"] = Reading(rho / truth.radius, None, truth.angle(df), 0)
        readings["Rayleigh quotient"] = Reading(
            abs(rayleigh) / truth.radius, truth.sign(rayleigh), truth.angle(dy), 0
        )
    truth = Truth(f, step.t_new, step.y_new)
    dy, df = step.y_new - step.probe.z, step.f_new - step.probe.f
    rho = StageRatio()(step, probe) / abs(step.h)
    share = abs(step.h) * truth.radius
    readings["stage ratio / h"] = Reading(rho / truth.radius, None, truth.angle(df), 0, share)
    # OrdinaryDiffEq.jl's eigen_est: where a component is constant it is NaN.
    with np.errstate(divide="ignore", invalid="ignore"):
        worst = float(np.max(np.abs(df / dy)))
    readings["componentwise ratio"] = Reading(worst / truth.radius, None, None, 0)
    return readings


def read_stiff(problem: Any) -> list[dict[str, Reading]]:
    f, (t0, t1) = problem.f, problem.t_span
    reference, rtol = problem.reference(1e-9), 1e-6
    times = t0 + np.geomspace(1e-5 * (t1 - t0), 0.999 * (t1 - t0), STATES)
    found = []
    for t in times.tolist():
        y = reference(t)
        truth = Truth(f, t, y)
        if truth.radius > 0:
            found.append(bought(f, t, y, truth))
        last: list[Any] = []
        count = 0

        def observe(step: sk.Step, probe: Any, last: list[Any] = last) -> None:
            last[:] = [step, probe]

        def stop(_: sk.Step) -> bool:
            nonlocal count
            count += 1
            return count >= SETTLING

        atol = rtol * np.broadcast_to(problem.atol, y.shape)
        more = {"rtol": rtol, "atol": atol, "observe": observe, "callback": stop, "detect": False}
        sk.solve(f, (t, t1), y, "tsit5", **more)
        if last:
            found.append(free(f, *last))
    return found


def read_smooth(problem: Any) -> list[dict[str, Reading]]:
    f, (t0, t1) = problem.f, problem.t_span
    found = []
    for t in np.linspace(t0, t1, STATES + 2)[1:-1].tolist():
        y = problem.trajectory(np.array([t]))[0]
        truth = Truth(f, t, y)
        if truth.radius > 0:
            found.append(bought(f, t, y, truth))
    steps: list[Any] = []
    sk.solve(
        f,
        (t0, t1),
        problem.y0,
        "tsit5",
        observe=lambda step, probe: steps.append((step, probe)),
        detect=False,
    )
    chosen = np.unique(np.linspace(1, len(steps) - 1, STATES).round().astype(int))
    found += [free(f, *steps[i]) for i in chosen]
    return found


def summary(readings: list[Reading]) -> dict[str, Any]:
    """Quantiles over the readings."""
    ratios = np.array([r.ratio for r in readings])
    usable = ratios[np.isfinite(ratios)]
    signs = [r.sign for r in readings if r.sign is not None]
    angles = [r.angle for r in readings if r.angle is not None]
    steps = [r.h_rho for r in readings if r.h_rho is not None]
    return {
        "readings": len(readings),
        "unusable": float(1 - len(usable) / len(ratios)),
        "ratio": [float(q) for q in np.quantile(usable, [0.05, 0.5, 0.95])]
        if len(usable)
        else None,
        "sign": float(np.mean(signs)) if signs else None,
        "angle": [float(q) for q in np.quantile(angles, [0.5, 0.95])] if angles else None,
        "calls": float(np.mean([r.calls for r in readings])),
        "h_rho": [float(q) for q in np.quantile(steps, [0.05, 0.5, 0.95])] if steps else None,
    }


def main() -> None:
    """Read every estimator everywhere; print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    detest = [p for name, p in PROBLEMS.items() if len(name) == 2 and name[0] in "ABCDE"]
    groups = {
        "stiff": {name: read_stiff(problem) for name, problem in STIFF.items()},
        "detest": {problem.name: read_smooth(problem) for problem in detest},
    }
    result: dict[str, Any] = {}
    for group, problems in groups.items():
        total: dict[str, list[Reading]] = defaultdict(list)
        by_problem: dict[str, Any] = {}
        for name, found in problems.items():
            own: dict[str, list[Reading]] = defaultdict(list)
            for readings in found:
                for estimator, reading in readings.items():
                    own[estimator].append(reading)
                    total[estimator].append(reading)
            by_problem[name] = {key: summary(rows) for key, rows in own.items()}
        result[group] = {
            "all": {key: summary(rows) for key, rows in total.items()},
            "problems": by_problem,
        }
        print(
            f"\n{group:27} {'5 %':>9} {'50 %':>9} {'95 %':>9}   NaN  sign   angle 50, 95 %  calls"
        )
        for estimator, row in result[group]["all"].items():
            low, middle, high = row["ratio"]
            sign = "" if row["sign"] is None else f"{row['sign']:.0%}"
            angle = "" if row["angle"] is None else "{:6.1f} {:6.1f}".format(*row["angle"])
            print(
                f"{estimator:27} {low:9.3g} {middle:9.3g} {high:9.3g} {row['unusable']:5.0%} "
                f"{sign:>5}   {angle:>14} {row['calls']:6.1f}"
            )
        print("5, 50, 95 % by problem")
        for name, rows in by_problem.items():
            line = "; ".join(
                f"{key[:12]} " + "/".join(f"{q:.2g}" for q in row["ratio"] or [np.nan])
                for key, row in rows.items()
            )
            steps = "/".join(f"{q:.2g}" for q in rows["stage ratio / h"]["h_rho"])
            print(f"  {name:6} {line}; h rho {steps}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

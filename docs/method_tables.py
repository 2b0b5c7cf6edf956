"""Tables of the pages that `method_pages` writes: every number is derived from the method."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from stiffkit import ButcherTableau
from stiffkit.solvers import stabilised, trees
from stiffkit.solvers.implicit import AdditiveTableau
from stiffkit.solvers.radau import RADAU, radau_transformation
from stiffkit.solvers.rosenbrock import RosenbrockTableau
from stiffkit.solvers.stabilised import StabilisedMethod
from stiffkit.solvers.stiff_limit import stiff_interpolant

EXACT = 1e-12
"""Residual below which an order condition counts as met, relative to the size of its terms."""

STAGES = 8
"""The stage count for which a stabilised method is shown."""


@dataclass(frozen=True)
class Facts:
    """What the overview, the text and the tables say of a method."""

    kind: str
    pair: str
    """Order, the embedded ones in brackets."""
    stages: str
    real: str
    """Stability limit on the negative real axis."""
    imaginary: str
    error_norm: float | None
    dense: str
    adaptive: bool


def facts(method: Any) -> Facts:
    """Collect them."""
    if isinstance(method, AdditiveTableau):
        left, right = facts(method.implicit), facts(method.explicit)
        return replace(
            left,
            kind="additive",
            real=f"{left.real}; {right.real}",
            imaginary=f"{left.imaginary}; {right.imaginary}",
            error_norm=None,
            dense=_additive_dense(method),
        )
    if isinstance(method, StabilisedMethod):
        a, b = method.degrees[0], method.max_stages
        longest = f"{method.beta(b):.0f} ({b} stages)"
        q = method.error_order
        pair = f"{method.order}" + (f"({q})" if q < method.order else "")
        return Facts("stabilised", pair, f"{a} to {b}", longest, "", None, "3 H", True)
    hats = [q for q in (method.order_hat, getattr(method, "order_hat2", None)) if q is not None]
    if method.name in RADAU:
        hats = [method.n_stages]
    pair = f"{method.order}" + (f"({','.join(map(str, hats))})" if hats else "")
    if isinstance(method, RosenbrockTableau):
        limits = damping(method)
        norm = float(np.linalg.norm(rosenbrock_error(method)))
        dense = f"{min(1 + len(method.H), method.order)}" if len(method.H) else "3 H"
        return Facts("Rosenbrock", pair, f"{method.n_stages}", *limits, norm, dense, True)
    dense = f"{method.dense.order}" + (" H" if method.dense.reference == "cubic Hermite" else "")
    if method.dense.c:
        dense += f", +{len(method.dense.c)}"
    stages = f"{method.n_stages}" + (" FSAL" if method.fsal else "")
    norm = method.principal_error_norm
    if not method.explicit:
        kind = "collocation" if method.name in RADAU else "ESDIRK"
        dense += ", collocation" if method.name in RADAU else ""
        return Facts(kind, pair, stages, *damping(method), norm, dense, True)
    limits = (method.real_stability_limit, method.imaginary_stability_limit)
    shown = [f"{x:.3f}" for x in limits]
    return Facts("explicit", pair, stages, *shown, norm, dense, bool(hats))


def _additive_dense(pair: AdditiveTableau) -> str:
    found = stiff_interpolant(pair.implicit, pair.explicit)
    return "3 H" if found is None else f"{found.order}"


# Stability of implicit methods --------------------------------------------------------------------


def damping(method: Any) -> tuple[str, str]:
    """Return how far the stability region reaches on both axes: to infinity, if A-stable."""
    y = np.logspace(-3, 8, 4001)
    real, imaginary = np.abs(method.R(-y)), np.abs(method.R(1j * y))
    return tuple(
        "∞" if modulus.max() <= 1 + 1e-9 else f"{y[np.argmax(modulus > 1 + 1e-9)]:.3f}"
        for modulus in (real, imaginary)
    )


def widest_angle(method: Any) -> float:
    """Largest α, in degrees, with |R| ≤ 1 in the sector |arg(−z)| ≤ α: 90 if A-stable."""
    rho = np.logspace(-3, 8, 2001)
    for alpha in np.arange(90.0, 0.0, -0.25):
        ray = -rho * np.exp(1j * math.radians(alpha))
        if np.abs(method.R(ray)).max() <= 1 + 1e-9:
            return float(alpha)
    return 0.0


def at_infinity(method: Any, row: str = "b") -> str:
    """R(∞): from a z so large that 1/z is less than what is printed."""
    value = float(method.R(-1e7, row).real)
    if abs(value) > 1e3:
        return "∞"
    return "0" if abs(value) < 5e-4 else f"{value:.3f}".replace("-", "−")


def linear_error(method: Any) -> tuple[int, float]:
    """q and C of y' = λy: the error of a step is C z^(q+1), z = hλ, and q may exceed the order."""
    if isinstance(method, AdditiveTableau):
        return linear_error(method.explicit)
    if isinstance(method, StabilisedMethod):
        A, b, _ = butcher(method, STAGES)
    elif isinstance(method, RosenbrockTableau):
        A, b = method.alpha + method.Gamma, method.b
    else:
        A, b = method.A, method.b
    v, q = np.ones(len(b)), 0
    while abs(1 / math.factorial(q + 1) - b @ v) <= EXACT * max(1.0, abs(b) @ abs(v)):
        v, q = A @ v, q + 1
    return q, 1 / math.factorial(q + 1) - float(b @ v)


# Order conditions ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """Order conditions of one number of nodes."""

    met: int
    count: int
    worst: float


def order_rows(method: Any) -> dict[str, list[Row]]:
    """Label of the weights to its order conditions, one entry per number of nodes."""
    if isinstance(method, AdditiveTableau):
        top = method.implicit.order + 1
        labels = {"b": method.implicit.b, "b̂": method.implicit.b_hat}
        matrices = [method.implicit.A, method.explicit.A]
        return {
            label: [
                _count(
                    (b @ u - 1 / trees.density(tree), 1.0)
                    for tree in trees.rooted_trees(p)
                    for u in trees.coloured_weights(tree, matrices)
                )
                for p in range(1, top + 1)
            ]
            for label, b in labels.items()
        }
    if isinstance(method, StabilisedMethod):
        A, b, b_hat = butcher(method, STAGES)
        return {
            "b": [_rk_row(A, b, p) for p in range(1, method.order + 2)],
            "b̂": [_rk_row(A, b_hat, p) for p in range(1, method.order + 2)],
        }
    top = min(max(method.order, method.order_hat or 0) + 1, trees.MAX_ORDER)
    if isinstance(method, RosenbrockTableau):
        return {
            label: [
                _count((r, 1.0) for r in method.order_conditions(p, row).values())
                for p in range(1, top + 1)
            ]
            for label, row in (("b", "b"), ("b̂", "b_hat"))
        }
    rows = {"b": method.b, "b̂": method.b_hat, "b̂₂": method.b_hat2}
    return {
        label: [_rk_row(method.A, row, p) for p in range(1, top + 1)]
        for label, row in rows.items()
        if row is not None
    }


def _rk_row(A: Any, b: Any, p: int) -> Row:
    u, size = trees.weights(A, p), trees.weights(np.abs(A), p)
    return _count(
        (b @ u[tree] - 1 / trees.density(tree), np.abs(b) @ size[tree])
        for tree in trees.rooted_trees(p)
    )


def _count(residuals: Iterator[tuple[float, float]]) -> Row:
    pairs = [(abs(float(r)), max(1.0, float(size))) for r, size in residuals]
    met = sum(r <= EXACT * size for r, size in pairs)
    return Row(met, len(pairs), max(r for r, _ in pairs))


def order_table(method: Any) -> str:
    """Conditions met, by number of nodes and row of weights."""
    rows = order_rows(method)
    names = list(rows)
    head = "| nodes | conditions | " + " | ".join(f"met by {n} | residual" for n in names) + " |"
    lines = [head, "|--:|--:|" + "--:|--:|" * len(names)]
    for p, entries in enumerate(zip(*rows.values(), strict=True), 1):
        cells = [f"{p}", f"{entries[0].count}"]
        for row in entries:
            cells += ["all" if row.met == row.count else f"{row.met}", scientific(row.worst)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def butcher(method: StabilisedMethod, s: int) -> tuple[Any, Any, Any]:
    """A, b and b̂ of a stabilised method of s stages: the kernel is run on the slopes' symbols.

    Component i of the state counts how much of h k_i is in it: f returns the unit vector of its
    call, and the states that it is called with are the rows of A.
    """
    n = s + 2
    unit = np.eye(n)
    rows = [np.zeros(n)]

    def f(_: float, state: np.ndarray) -> np.ndarray:
        rows.append(state.copy())
        return unit[len(rows) - 1].copy()

    b, err, _ = method.step(f, 0.0, np.zeros(n), 1.0, unit[0].copy(), s)
    m = len(rows)
    return np.array(rows)[:, :m], b[:m].copy(), (b - err)[:m]


def rosenbrock_error(method: RosenbrockTableau) -> Any:
    """Coefficients of the principal error's differentials, with the exact Jacobian."""
    p = method.order + 1
    residuals = method.order_conditions(p).values()
    sigma = map(trees.symmetry, trees.rooted_trees(p))
    return np.array([r / s for r, s in zip(residuals, sigma, strict=True)])


# Numbers ------------------------------------------------------------------------------------------


def scientific(x: float) -> str:
    """Write 1.2·10⁻³ as people do; 0 as it is."""
    if x == 0:
        return "0"
    mantissa, exponent = f"{x:.1e}".split("e")
    return f"{mantissa}·10{superscript(int(exponent))}".replace("-", "−")


def short(x: float) -> str:
    """Three digits."""
    return f"{x:.3g}" if x >= 0.01 else scientific(x)


def superscript(n: int) -> str:
    """Write an integer as an exponent."""
    return str(n).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Two columns: what, and its value."""
    return "\n".join(["| | |", "|:--|:--|", *(f"| {a} | {b} |" for a, b in rows)]) + "\n"


def numbers(method: Any) -> str:
    """Return the table of what is derived from the coefficients."""
    if isinstance(method, AdditiveTableau):
        rows = _additive_numbers(method)
    elif isinstance(method, StabilisedMethod):
        rows = _stabilised_numbers(method)
    elif isinstance(method, RosenbrockTableau):
        rows = _rosenbrock_numbers(method)
    else:
        rows = _butcher_numbers(method)
    return table(rows)


def _butcher_numbers(method: ButcherTableau) -> list[tuple[str, str]]:
    f = facts(method)
    rows = [
        ("order p", f"{method.order}"),
        ("embedded order", _embedded(method)),
        ("stages s", f"{method.n_stages}"),
        ("first same as last", "yes" if method.fsal else "no"),
        ("calls of f in a step", _calls(method)),
        ("stage order", f"{method.stage_order}"),
        error_constant(method),
        ("principal error norm", scientific(method.principal_error_norm)),
    ]
    if method.explicit:
        per_call = method.real_stability_limit / (method.n_stages - method.fsal)
        rows += [
            ("limit on the negative real axis", f"{f.real} ({per_call:.3f} per call)"),
            ("limit on the imaginary axis", f.imaginary),
            ("probe: a second slope at t + h", "no" if method.probe is None else "yes"),
        ]
    else:
        rows += _damping_rows(method)
        rows.append(("stiffly accurate", "yes" if method.stiffly_accurate else "no"))
        if method.name not in RADAU:
            rows.append(("γ", f"{method.A[-1, -1]:.6g}"))
    quality = method.pair_quality
    if quality is not None:
        rows.append(("pair quality Â", scientific(quality.A_hat)))
        rows += [(f"pair quality {n}", short(getattr(quality, n))) for n in "BCDE"]
    return rows


def error_constant(method: Any) -> tuple[str, str]:
    """C, and the power of z where it is not the one that the order promises."""
    q, C = linear_error(method)
    more = "" if q == method.order else f", of z{superscript(q + 1)}: R is of order {q}"
    return "error constant C", scientific(C) + more


def _embedded(method: ButcherTableau) -> str:
    if method.name in RADAU:
        return f"{method.n_stages}, by the weight of f(t, y)"
    if method.order_hat is None:
        return "none: no error estimate"
    second = "" if method.order_hat2 is None else f" and {method.order_hat2}"
    return f"{method.order_hat}{second}"


def _calls(method: ButcherTableau) -> str:
    if method.explicit:
        return f"{method.n_stages - method.fsal}"
    if method.name in RADAU:
        return f"{method.n_stages} in each iteration, 1 for the error estimate"
    return f"1 in each iteration, for each of {method.n_stages - 1} stages"


def _damping_rows(method: Any) -> list[tuple[str, str]]:
    alpha = widest_angle(method)
    real, imaginary = damping(method)
    stable = "yes" if alpha == 90.0 else f"no, but A(α) with α = {alpha:g}°"
    rows = [
        ("limit on the negative real axis", real),
        ("limit on the imaginary axis", imaginary),
        ("A-stable", stable),
        ("R(∞)", at_infinity(method)),
    ]
    if method.order_hat is not None:
        rows.append(("R(∞) of the embedded method", at_infinity(method, "b_hat")))
    return rows


def _rosenbrock_numbers(method: RosenbrockTableau) -> list[tuple[str, str]]:
    return [
        ("order p", f"{method.order}"),
        ("embedded order", f"{method.order_hat}"),
        ("stages s", f"{method.n_stages}"),
        ("linear solves in a step", f"{method.n_stages}, with one matrix"),
        ("calls of f in a step", f"{_rosenbrock_calls(method)}, and a Jacobian"),
        ("holds with any matrix for J", "yes" if method.w_method else "no"),
        error_constant(method),
        ("principal error norm", scientific(float(np.linalg.norm(rosenbrock_error(method))))),
        *_damping_rows(method),
        ("stiffly accurate", "yes" if method.stiffly_accurate else "no"),
        ("γ", f"{method.gamma:.6g}"),
    ]


def _rosenbrock_calls(method: RosenbrockTableau) -> int:
    """Stages that differ from the one before in time or state."""
    rows = [
        (c, tuple(np.pad(a, (0, method.n_stages - len(a)))))
        for c, a in zip(method.c, method.A, strict=True)
    ]
    return len(dict.fromkeys(rows))


def _stabilised_numbers(method: StabilisedMethod) -> list[tuple[str, str]]:
    A, b, _ = butcher(method, STAGES)
    u, p = trees.weights(A, method.order + 1), method.order + 1
    tau = [(b @ u[t] - 1 / trees.density(t)) / trees.symmetry(t) for t in trees.rooted_trees(p)]
    inside = np.linspace(0.1, 0.95, 4001) * method.beta(20)
    return [
        ("order p", f"{method.order}"),
        ("order of the error estimate", f"{method.error_order}"),
        ("stage counts", f"{len(method.degrees)}, from {method.degrees[0]} to {method.max_stages}"),
        (f"error constant C, {STAGES} stages", scientific(linear_error(method)[1])),
        (f"principal error norm, {STAGES} stages", scientific(float(np.linalg.norm(tau)))),
        ("largest ∣R∣ inside, 20 stages", f"{np.abs(method.R(-inside, 20)).max():.2f}"),
        ("limit on the imaginary axis", "0: for spectra along the negative real axis"),
    ]


def _additive_numbers(pair: AdditiveTableau) -> list[tuple[str, str]]:
    left, right = pair.implicit, pair.explicit
    return [
        ("order p, both halves and coupling", f"{pair.implicit.order}"),
        ("embedded order", f"{pair.implicit.order_hat}"),
        ("stages s", f"{left.n_stages}"),
        (
            "error constant C",
            f"implicit {error_constant(left)[1]}, explicit {error_constant(right)[1]}",
        ),
        (
            "principal error norm",
            f"implicit {scientific(left.principal_error_norm)}, explicit "
            f"{scientific(right.principal_error_norm)}",
        ),
        (
            "implicit half",
            f"[{left.name}]({left.name}.md): A-stable: "
            f"{'yes' if widest_angle(left) == 90.0 else 'no'}, R(∞) = {at_infinity(left)}",
        ),
        ("explicit half, limit on the negative real axis", f"{right.real_stability_limit:.3f}"),
        ("explicit half, limit on the imaginary axis", f"{right.imaginary_stability_limit:.3f}"),
    ]


# Coefficients -------------------------------------------------------------------------------------


def coefficients(method: Any) -> str:
    """Return tableau, or recurrence, as a block of text."""
    if isinstance(method, AdditiveTableau):
        halves = (("Implicit half", method.implicit), ("Explicit half", method.explicit))
        return "\n".join(f"{title}:\n\n{block(str(half))}" for title, half in halves)
    if isinstance(method, RosenbrockTableau):
        return _rosenbrock_coefficients(method)
    if isinstance(method, StabilisedMethod):
        return _stabilised_coefficients(method)
    return block("\n".join(str(method).splitlines()[1:]))


def block(text: str) -> str:
    """Return text as it stands."""
    return f"```text\n{text}\n```\n"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Columns, to the right."""
    widths = [max(len(row[j]) for row in rows if j < len(row)) for j in range(max(map(len, rows)))]
    lines = ["  ".join(f"{x:>{w}}" for x, w in zip(row, widths, strict=False)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _rosenbrock_coefficients(method: RosenbrockTableau) -> str:
    head = [[f"γ = {method.gamma:.10g}"]]
    body = [
        ("A", [[f"{x:.6g}" for x in row] or ["0"] for row in method.A]),
        ("C", [[f"{x:.6g}" for x in row] or ["0"] for row in method.C]),
        (
            "c, d, m, m̂ (columns)",
            [
                [f"{x:.6g}" for x in row]
                for row in zip(method.c, method.d, method.m, method.m_hat, strict=True)
            ],
        ),
    ]
    if len(method.H):
        body.append(("H", [[f"{x:.6g}" for x in row] for row in method.H]))
    parts = [aligned(head), *(f"{title}\n{aligned(rows)}" for title, rows in body)]
    return block("\n\n".join(parts))


def _stabilised_coefficients(method: StabilisedMethod) -> str:
    s = STAGES
    scheme = {
        "rkc2": stabilised.rkc2_recurrence,
        "rkl2": stabilised.rkl2_recurrence,
        "rock2": stabilised.rock2_scheme,
        "rock4": stabilised.rock4_scheme,
    }[method.name](s)
    recurrence = getattr(scheme, "recurrence", scheme)
    rows = [["j", "μ_j", "ν_j", "μ̃_j", "γ̃_j", "c_(j−1)"]]
    rows.append(["1", "", "", f"{recurrence.first:.6g}", "", "0"])
    for j, (_, mu, nu, mu_h, gamma_h, c) in enumerate(recurrence.rows, 2):
        rows.append([f"{j}", *(f"{x:.6g}" for x in (mu, nu, mu_h, gamma_h, c))])
    parts = [aligned(rows)]
    if scheme is not recurrence:
        A, b, b_hat = butcher(method, s)
        m = len(recurrence.rows) + 1
        last = [["i", "c_i", "b_i", "b̂_i"]]
        last += [
            [f"{i + 1}", *(f"{x:.6g}" for x in (A[i].sum(), b[i], b_hat[i]))]
            for i in range(m, len(b))
        ]
        parts.append("The last stages:\n" + aligned(last))
    betas = [s for s in method.degrees if s in (2, 3, 5, 10, 20, 50, 100, 200)]
    extent = [["s", *(f"{s}" for s in betas)], ["β(s)", *(f"{method.beta(s):.2f}" for s in betas)]]
    parts.append(f"Stable on [−β(s), 0]:\n{aligned(extent)}")
    return block("\n\n".join(parts))


def radau_error(method: ButcherTableau) -> str:
    """Return the weights of a Radau method's error estimate."""
    data = radau_transformation(method)
    e = ", ".join(f"{x:.6g}" for x in data.e)
    return f"γ₀ = {1 / data.eigenvalues[0].real:.6g}, e = ({e})"

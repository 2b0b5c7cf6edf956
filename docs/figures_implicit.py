"""Table and figure of theory/implicit-tableaus.md."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from method_tables import at_infinity

from stiffkit import ButcherTableau
from stiffkit.solvers import implicit, radau, rosenbrock
from stiffkit.solvers.rosenbrock import RosenbrockTableau

METHODS: dict[str, Any] = {
    tableau.name: tableau
    for module in (implicit, radau, rosenbrock)
    for tableau in vars(module).values()
    if isinstance(tableau, (ButcherTableau, RosenbrockTableau))
}


# Prothero and Robinson's problem y' = λ(y − φ) + φ', whose solution is φ for every λ -------------


def phi(t: Any, derivative: int = 0) -> Any:
    return np.sin(math.pi / 4 + t + derivative * math.pi / 2)


def prothero_robinson(tableau: Any, n: int, lam: np.ndarray) -> np.ndarray:
    """Largest error of n steps over [0, 1], one for each λ."""
    step = _butcher_step if isinstance(tableau, ButcherTableau) else _rosenbrock_step
    y, worst = np.full(lam.shape, phi(0.0)), np.zeros(lam.shape)
    for t in np.arange(n) / n:
        y = step(tableau, t, y, 1 / n, lam)
        worst = np.maximum(worst, np.abs(y - phi(t + 1 / n)))
    return worst


def _butcher_step(tab: Any, t: float, y: Any, h: float, lam: Any) -> Any:
    times = t + tab.c * h
    g = phi(times, 1) - lam[:, None] * phi(times)
    system = np.eye(tab.n_stages) - h * lam[:, None, None] * tab.A
    states = np.linalg.solve(system, (y[:, None] + h * g @ tab.A.T)[..., None])[..., 0]
    return states[:, -1]  # stiffly accurate


def _rosenbrock_step(tab: Any, t: float, y: Any, h: float, lam: Any) -> Any:
    u = np.zeros((tab.n_stages, len(lam)))
    for i, (c, d, a, e) in enumerate(zip(tab.c, tab.d, tab.A, tab.C, strict=True)):
        slope = lam * (y + np.array(a) @ u[:i] - phi(t + c * h)) + phi(t + c * h, 1)
        f_t = phi(t, 2) - lam * phi(t, 1)
        u[i] = (slope + np.array(e) @ u[:i] / h + d * h * f_t) / (1 / (h * tab.gamma) - lam)
    return y + np.array(tab.m) @ u


# Table --------------------------------------------------------------------------------------------


def implicit_table() -> str:
    """One row per method: what its tableau says, and the orders measured on the stiff problem."""
    head = (
        "| | order | stages | γ | R(∞) | embedded | stage order | any J | worst λ | λ = −10⁶ |",
        "|:--|:--|--:|--:|--:|--:|--:|--:|--:|--:|",
    )
    lines, lam = [*head], -np.logspace(-1, 6, 57)
    for tableau in METHODS.values():
        hat = "" if tableau.order_hat is None else f"({tableau.order_hat})"
        butcher = isinstance(tableau, ButcherTableau)
        coarse, fine = (prothero_robinson(tableau, n, lam) for n in (32, 64))
        cells = [
            f"`{tableau.name}`",
            f"{tableau.order}{hat}",
            f"{tableau.n_stages}",
            _diagonal(tableau),
            at_infinity(tableau, "b"),
            "" if tableau.order_hat is None else at_infinity(tableau, "b_hat"),
            f"{tableau.stage_order}" if butcher else "",
            "" if butcher else f"{_w_order(tableau)}",
            f"{np.log2(coarse.max() / fine.max()):.1f}",
            f"{np.log2(coarse[-1] / fine[-1]):.1f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _diagonal(tableau: Any) -> str:
    if isinstance(tableau, RosenbrockTableau):
        return f"{tableau.gamma:.4f}"
    return f"{tableau.A[-1, -1]:.4f}" if not np.triu(tableau.A, 1).any() else ""


def _w_order(tableau: Any) -> int:
    p = 0
    while max(map(abs, tableau.order_conditions(p + 1, w=True).values())) < 1e-9:
        p += 1
    return p


# Figure -------------------------------------------------------------------------------------------


def implicit_methods() -> Any:
    """|R| along the negative real axis, and errors on the stiff problem against λ."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained")
    x = np.logspace(-1, 6, 400)
    rows = [
        ("radau5", "b", "-"),
        ("kencarp4", "b", "-"),
        ("kencarp4", "b_hat", "--"),
        ("kvaerno4", "b", "-"),
        ("trbdf2", "b", "-"),
        ("trbdf2", "b_hat", "--"),
    ]
    colours: dict[str, str] = {}
    for name, row, line in rows:
        colour = colours.setdefault(name, f"C{len(colours)}")
        label = name if row == "b" else f"{name}, embedded"
        modulus = np.abs(METHODS[name].R(-x, row))
        left.loglog(x, modulus, line, color=colour, lw=1.2, label=label)
    left.set(xlabel="−z", title="|R(z)|, z real and negative", ylim=(1e-4, 1e6))
    left.legend(fontsize=7, loc="upper left")
    for name in ("kencarp3", "kencarp5", "radau5", "rodas4", "rodas5p", "ros34pw2"):
        errors = prothero_robinson(METHODS[name], 32, -x)
        label = f"{name}, order {METHODS[name].order}"
        right.loglog(x, np.maximum(errors, 1e-16), lw=1.2, label=label)
    right.set(xlabel="−λ", title="error, Prothero and Robinson, h = 1/32", ylim=(1e-14, 1e-2))
    right.legend(fontsize=7, loc="upper left", ncols=2)
    return figure

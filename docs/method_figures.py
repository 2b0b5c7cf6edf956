"""Pictures of the pages that `method_pages` writes: stability regions, and work over precision."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from method_tables import STAGES

import stiffkit as sk
from stiffkit.solvers.implicit import AdditiveTableau
from stiffkit.solvers.radau import RADAU
from stiffkit.solvers.stabilised import StabilisedMethod

SIZE = (4.4, 3.5)


def kind(method: Any) -> str:
    """Which problem measures it: the orbit, or the Brusselator."""
    explicit = isinstance(method, sk.ButcherTableau) and method.explicit
    return "orbit" if explicit else "brusselator"


# Stability ----------------------------------------------------------------------------------------


def stability_region(method: Any) -> Any:
    """Where ``|R| ≤ 1``, and the boundary of the order star, ``|R| = |e^z|``."""
    figure, ax = plt.subplots(figsize=SIZE, layout="constrained")
    if isinstance(method, AdditiveTableau):
        _draw_region(ax, method.explicit.R, *_explicit_window(method.explicit))
        ax.set_title(f"{method.name}, explicit half")
    elif isinstance(method, StabilisedMethod):
        beta = method.beta(STAGES)
        reach = (-1.08 * beta, 0.08 * beta, 0.13 * beta)
        _draw_region(ax, lambda z: method.R(z, STAGES), *reach, equal=False)
        ax.set_title(f"{method.name}, {STAGES} stages")
    elif isinstance(method, sk.ButcherTableau) and method.explicit:
        _draw_region(ax, method.R, *_explicit_window(method))
        ax.set_title(method.name)
    else:
        gamma = method.gamma if hasattr(method, "gamma") else method.A[-1, -1]
        reach = 2.4 * method.n_stages if method.name in RADAU else min(4.0 / gamma, 20.0)
        _draw_region(ax, method.R, -0.6 * reach, 1.4 * reach, reach)
        ax.set_title(method.name)
    return figure


def _explicit_window(tableau: Any) -> tuple[float, float, float]:
    limit = max(tableau.real_stability_limit, 2.0)
    height = 1.25 * max(tableau.imaginary_stability_limit, 0.9 * limit, 2.2)
    return -1.25 * limit, 0.6 * limit, height


def _draw_region(
    ax: Any, R: Any, left: float, right: float, top: float, *, equal: bool = True
) -> None:
    # An even number of lines: none lies on the real axis, where the poles of R are.
    x, y = np.meshgrid(np.linspace(left, right, 200), np.linspace(-top, top, 200))
    modulus = np.abs(R(x + 1j * y))
    ax.contourf(x, y, modulus, levels=[0.0, 1.0], colors=["C0"], alpha=0.25)
    ax.contour(x, y, modulus, levels=[1.0], colors=["C0"], linewidths=1.4)
    if equal:
        star = np.log(np.maximum(modulus, 1e-300)) - x
        ax.contour(x, y, star, levels=[0.0], colors=["C1"], linewidths=0.8, linestyles="--")
    ax.axhline(0, lw=0.6, color="0.4")
    ax.axvline(0, lw=0.6, color="0.4")
    ax.set(xlabel="Re z", ylabel="Im z", xlim=(left, right), ylim=(-top, top))
    if equal:
        ax.set_aspect("equal")


# Work and precision -------------------------------------------------------------------------------

ECCENTRICITY = 0.5
N = 48
"""Points of the Brusselator on a line."""


def kepler(_: float, y: np.ndarray) -> np.ndarray:
    """Slope of a body on an ellipse."""
    a, b, u, v = y.tolist()
    pull = math.hypot(a, b) ** -3
    return np.array([u, v, -a * pull, -b * pull])


def brusselator() -> tuple[Any, Any, np.ndarray]:
    """Reaction and diffusion apart, and the start: u and v alternate, as in the guide."""
    c = 0.02 * (N + 1) ** 2

    def diffusion(_: float, y: np.ndarray) -> np.ndarray:
        w = np.pad(y.reshape(N, 2), ((1, 1), (0, 0)))
        w[0] = w[-1] = 1.0, 3.0
        return (c * (w[2:] - 2 * w[1:-1] + w[:-2])).ravel()

    def reaction(_: float, y: np.ndarray) -> np.ndarray:
        u, v = y[::2], y[1::2]
        fast = u * u * v
        return np.column_stack([1 + fast - 4 * u, 3 * u - fast]).ravel()

    x = np.arange(1, N + 1) / (N + 1)
    start = np.column_stack([1 + np.sin(2 * np.pi * x), np.full(N, 3.0)]).ravel()
    return reaction, diffusion, start


@cache
def brusselator_end() -> np.ndarray:
    """State at t = 10, to 1e-12."""
    reaction, diffusion, start = brusselator()
    tight = {"rtol": 1e-12, "atol": 1e-13, "detect": False}
    return sk.solve(
        lambda t, y: reaction(t, y) + diffusion(t, y), (0.0, 10.0), start, "vern8", **tight
    ).y[-1]


@cache
def curve(name: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Errors at the end, and calls of f that they took, from loose to tight."""
    from stiffkit.solvers.methods import ADDITIVE

    method = {**sk.METHODS, **ADDITIVE}[name]
    measure = _orbit if kind(method) == "orbit" else _brusselator
    points = [point for point in measure(method) if 0 < point[0] < 1]
    errors, calls = zip(*points, strict=True)
    return errors, calls


def _orbit(method: Any) -> list[tuple[float, int]]:
    """Two revolutions: the exact end is the start."""
    e = ECCENTRICITY
    y0 = np.array([1 - e, 0.0, 0.0, math.sqrt((1 + e) / (1 - e))])
    span, points = (0.0, 4 * math.pi), []
    if method.error_order is None:
        ways: list[dict[str, Any]] = [
            {"grid": 50 * 2**k} for k in range(11 if method.order == 1 else 7)
        ]
    else:
        last = {1: 5, 2: 7, 3: 8, 4: 10}.get(method.order_hat, 12)
        ways = [{"rtol": 10.0**-k, "atol": 10.0**-k} for k in range(2, last + 1)]
    for how in ways:
        solution = sk.solve(kepler, span, y0, method, detect=False, **how)
        points.append((float(np.abs(solution.y[-1] - y0).max()), solution.stats["nfev"]))
    return points


def _brusselator(method: Any) -> list[tuple[float, int]]:
    reaction, diffusion, start = brusselator()
    additive = isinstance(method, AdditiveTableau)
    split = (reaction, diffusion)
    f = split if additive else (lambda t, y: reaction(t, y) + diffusion(t, y))
    order = method.implicit.order if additive else method.order
    how: dict[str, Any] = {} if isinstance(method, StabilisedMethod) else {"bandwidth": (2, 2)}
    points = []
    for k in range(2, {2: 5, 3: 7, 4: 8}.get(order, 9) + 1):
        solution = sk.solve(
            f, (0.0, 10.0), start, method, rtol=10.0**-k, atol=10.0**-k, detect=False, **how
        )
        error = float(np.abs(solution.y[-1] - brusselator_end()).max())
        points.append((error, solution.stats["nfev"]))
    return points


def work_precision(method: Any, names: list[str]) -> Any:
    """The method among all that run the same problem."""
    figure, ax = plt.subplots(figsize=SIZE, layout="constrained")
    for name in names:
        ax.loglog(*curve(name), color="0.75", lw=0.8, zorder=1)
    ax.loglog(*curve(method.name), "C0o-", ms=4, lw=1.6, zorder=2)
    title = {"orbit": "Kepler's orbit, two revolutions", "brusselator": "Brusselator on a line"}
    ax.set(xlabel="error at the end", ylabel="calls of f", title=title[kind(method)])
    ax.invert_xaxis()
    return figure

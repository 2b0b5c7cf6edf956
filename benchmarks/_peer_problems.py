"""The problems of peers.py, each from one text in the forms that the solvers take.

A small system is a function of its components that returns their slopes. From it follow f in Python
(on Python's numbers, which is faster than on NumPy's scalars), compiled by numba, in JAX, and for
batches in torch.

References
----------
E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., Springer (1996),
chapter IV, doi:10.1007/978-3-642-05221-7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from _measure import digits, peer  # first: it sets the number of threads

# isort: split
import ivp_problems
import numpy as np
import stiff_problems
from scipy.integrate import solve_ivp

import stiffkit as sk

Array = np.ndarray
Slopes = Callable[..., tuple[Any, ...]]


@dataclass(frozen=True, eq=False)
class Case:
    """y' = f(t, y), y(t0) = y0 on t_span, with f in several forms."""

    name: str
    python: Callable[[float, Array], Array]
    t_span: tuple[float, float]
    y0: Sequence[float]
    rtols: Sequence[float]
    """Tolerances to run at."""
    wanted: Sequence[float]
    """Digits at which times are compared."""
    atol: Sequence[float] | float = 1.0
    """Absolute tolerance for rtol = 1."""
    compilable: Callable[[float, Array], Array] | None = None
    """What numba can compile; None if nothing."""
    writes: Callable[[float, Array, Array], None] | None = None
    """The same, which writes its result to a third argument."""
    jax: Callable[[], Callable[..., Any]] | None = None
    """Returns f in JAX."""
    end: Sequence[float] | Callable[[], Array] | None = None
    """y(t1), or what computes it; by default SciPy's DOP853 at its tightest."""
    componentwise: bool = True
    """Relative errors are those of each component, not those of the largest."""
    bandwidth: tuple[int, int] | None = None
    """Diagonals of the Jacobian below and above the main one, where it is banded."""

    @cached_property
    def compiled(self) -> Callable[[float, Array], Array] | None:
        """What numba made of f, None where that is not possible."""
        if self.compilable is None or peer("numba") is None:
            return None
        return sk.jit(self.compilable)

    @cached_property
    def written(self) -> Callable[..., Any] | None:
        """What numba made of f that writes its result, where there is such, else `compiled`."""
        if self.writes is None or self.compiled is None:
            return self.compiled
        return sk.jit(self.writes)

    @cached_property
    def in_jax(self) -> Callable[..., Any] | None:
        """What JAX takes, f(t, y, args); None where there is none."""
        return None if self.jax is None else self.jax()

    @cached_property
    def y_end(self) -> Array:
        """Reference for y(t1)."""
        if self.end is None:
            tight = {"rtol": 3e-14, "atol": 1e-14}
            return solve_ivp(self.python, self.t_span, self.y0, "DOP853", **tight).y[:, -1]
        return np.asarray(self.end() if callable(self.end) else self.end, dtype=float)

    def tolerances(self, rtol: float) -> dict[str, Any]:
        """Return rtol and atol as solvers take them."""
        atol = rtol * np.asarray(self.atol, dtype=float)
        return {"rtol": rtol, "atol": atol if atol.ndim else float(atol)}

    def digits(self, y: Array) -> float:
        """Return the correct digits of y(t1)."""
        return digits(y, self.y_end, componentwise=self.componentwise)


def forms(slopes: Slopes, n: int) -> dict[str, Any]:
    """Return f in Python, for numba and in JAX from the slopes of n components."""
    compilable, writes = _compilable(slopes, n)
    return {
        "python": lambda _, y: np.array(slopes(*y.tolist())),
        "compilable": compilable,
        "writes": writes,
        "jax": lambda: _jax(slopes),
    }


def _compilable(slopes: Slopes, n: int) -> tuple[Any, Any]:
    """Return f for numba in two forms: that which returns its result, and that which writes it."""
    numba = peer("numba")
    if numba is None:
        return None, None
    from numba.np.unsafe.ndarray import to_fixed_tuple

    components = numba.njit(slopes)

    def f(t: float, y: Array) -> Array:  # noqa: ARG001
        return np.array(components(*to_fixed_tuple(y, n)))

    def writes(t: float, y: Array, dy: Array) -> None:  # noqa: ARG001
        values = components(*to_fixed_tuple(y, n))
        for i in range(n):
            dy[i] = values[i]

    return f, writes


def _jax(slopes: Slopes) -> Callable[..., Any]:
    from jax import numpy as jnp

    return lambda _t, y, _args: jnp.stack(slopes(*y))


def in_torch(slopes: Slopes) -> Callable[..., Any]:
    """Return f(t, y, *args) of a batch, y of shape (B, n)."""
    import torch

    return lambda _t, y, *args: torch.stack(slopes(*y.unbind(1), *args), 1)


# Explicit methods ---------------------------------------------------------------------------------

_TIGHT = tuple(10.0**-i for i in range(4, 12))


def explicit() -> list[Case]:
    """Problems that are not stiff."""
    prey, orbit = ivp_problems.PROBLEMS["lotka_volterra"], ivp_problems.PROBLEMS["arenstorf"]
    stars = ivp_problems.PROBLEMS["pleiades"]
    small = forms(ivp_problems.lotka_volterra_slopes, 2)
    common = {"rtols": _TIGHT, "componentwise": False}
    return [
        Case(
            "Lotka-Volterra, t = 20",
            t_span=(0.0, 20.0),
            y0=prey.y0,
            wanted=(4, 8),
            **common,
            **small,
        ),
        Case(
            "Lotka-Volterra, t = 500",
            t_span=(0.0, 500.0),
            y0=prey.y0,
            wanted=(3, 5),
            **common | {"rtols": _TIGHT[1:-1:2]},
            **small,
        ),
        Case(
            "Arenstorf",
            t_span=orbit.t_span,
            y0=orbit.y0,
            wanted=(3, 6),
            end=orbit.y_end,
            **common,
            **forms(ivp_problems.arenstorf_slopes, 4),
        ),
        Case(
            # Long beside the call. A deviation grows some seventyfold in a period: rounding leaves
            # eight digits of three.
            "Arenstorf, three periods",
            t_span=(0.0, 3 * orbit.t_span[1]),
            y0=orbit.y0,
            wanted=(3, 4),
            end=orbit.y_end,
            **common | {"rtols": _TIGHT[2:]},
            **forms(ivp_problems.arenstorf_slopes, 4),
        ),
        Case(
            "Pleiades",
            stars.f,
            stars.t_span,
            stars.y0,
            wanted=(4, 8),
            **common | {"rtols": _TIGHT[::2]},
        ),
    ]


# Stiff problems -----------------------------------------------------------------------------------


def stiff() -> list[Case]:
    """Small stiff systems."""
    slopes = {
        "ROBER": stiff_problems.robertson_slopes,
        "HIRES": stiff_problems.hires_slopes,
        "VDPOL": stiff_problems.van_der_pol_slopes,
    }
    cases = []
    for name, g in slopes.items():
        p = stiff_problems.STIFF[name]
        cases.append(
            Case(
                name,
                t_span=(p.t_span[0], p.t_end),
                y0=p.y0,
                rtols=(1e-3, 1e-4, 1e-6, 1e-8, 1e-10),
                wanted=(4, 7),
                atol=p.atol,
                end=p.y_end,
                **forms(g, len(p.y0)),
            )
        )
    return cases


# Diffusion ----------------------------------------------------------------------------------------

_ALPHA = 0.02


def brusselator(N: int) -> Case:
    """Return the Brusselator with diffusion on a line (HW II, section IV.1), 2N unknowns.

    u' = 1 + u²v − 4u + α u_xx, v' = 3u − u²v + α v_xx with u = 1, v = 3 at both ends, N points
    inside, u and v interleaved.
    """
    c = _ALPHA * (N + 1) ** 2

    def f(t: float, y: Array) -> Array:  # noqa: ARG001
        w = np.empty(2 * N + 4)
        w[2:-2] = y
        w[0], w[1], w[-2], w[-1] = 1.0, 3.0, 1.0, 3.0
        slopes = c * (w[4:] - 2 * y + w[:-4])
        u, v = y[::2], y[1::2]
        reaction = u * u * v
        slopes[::2] += 1 + reaction - 4 * u
        slopes[1::2] += 3 * u - reaction
        return slopes

    def jax() -> Callable[..., Any]:
        from jax import numpy as jnp

        def g(_t: Any, y: Any, _args: Any) -> Any:
            ends = jnp.array([1.0, 3.0])
            w = jnp.concatenate([ends, y, ends])
            u, v = y[::2], y[1::2]
            reaction = u * u * v
            both = jnp.stack([1 + reaction - 4 * u, 3 * u - reaction], 1)
            return c * (w[4:] - 2 * y + w[:-4]) + both.ravel()

        return g

    x = np.arange(1, N + 1) / (N + 1)
    y0 = np.column_stack([1 + np.sin(2 * np.pi * x), np.full(N, 3.0)]).ravel()
    span = (0.0, 10.0)

    def end() -> Array:
        tight = {"rtol": 1e-10, "atol": 1e-12, "bandwidth": (2, 2)}
        return sk.solve(f, span, y0, "radau5", **tight).y[-1]

    return Case(
        f"Brusselator, n = {2 * N}",
        f,
        span,
        y0,
        rtols=(1e-3, 1e-4, 1e-5, 1e-6, 1e-7),
        wanted=(3, 5),
        compilable=f,
        jax=jax,
        end=end,
        componentwise=False,
        bandwidth=(2, 2),
    )


# Batches ------------------------------------------------------------------------------------------


def van_der_pol_slopes(a: Any, b: Any, mu: Any) -> tuple[Any, ...]:
    """Van der Pol's oscillator in the scaling of the fast time."""
    return b, mu * (1 - a * a) * b - a

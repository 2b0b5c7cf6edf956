"""The classic stiff equations, with right-hand sides written from their formulae.

Published end values are checked by ``python benchmarks/stiff_problems.py``.

References
----------
E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., Springer (1996),
sections IV.1 and IV.10, doi:10.1007/978-3-642-05221-7. F. Mazzia, C. Magherini, Test Set for
Initial Value Problem Solvers, release 2.4, University of Bari (2008).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp

__all__ = ["DAE", "LONG", "STIFF", "StiffProblem"]

Array = np.ndarray


@dataclass(frozen=True)
class StiffProblem:
    """y' = f(t, y), or M y' = f(t, y), y(t0) = y0 on t_span."""

    name: str
    f: Callable[[float, Array], Array]
    t_span: tuple[float, float]
    y0: Sequence[float]
    atol: Sequence[float] | float
    """Absolute tolerance for rtol = 1: below the size of the smallest component that matters."""
    t_end: float
    """Where the published value is."""
    y_end: Sequence[float]
    mass: Sequence[float] | None = None
    """The diagonal of M; None where it is the identity."""

    def digits(self, y: Array) -> float:
        """Return scd, −log10 of the largest relative error of `y` at the published end value."""
        error = float(np.abs(np.asarray(y) / np.asarray(self.y_end) - 1).max())
        return float(-np.log10(max(error, 1e-16)))

    def reference(self, rtol: float = 1e-9) -> Callable[[float], Array]:
        """Return an accurate solution of an ODE as a function of time (SciPy's Radau)."""
        tiny = np.maximum(np.asarray(self.atol) * rtol * 1e-3, 1e-40)
        run = solve_ivp(
            self.f, self.t_span, self.y0, "Radau", rtol=rtol, atol=tiny, dense_output=True
        )
        return run.sol


def robertson_slopes(a: Any, b: Any, c: Any) -> tuple[Any, ...]:
    """Autocatalytic reaction, rates from 0.04 to 3e7."""
    slow, fast = 0.04 * a - 1e4 * b * c, 3e7 * b * b
    return -slow, slow - fast, fast


def robertson(t: float, y: Array) -> Array:  # noqa: ARG001
    """Return `robertson_slopes` as an array."""
    return np.array(robertson_slopes(*y.tolist()))


def oregonator(t: float, y: Array) -> Array:  # noqa: ARG001
    """Belousov-Zhabotinskii reaction, a relaxation oscillator."""
    a, b, c = y
    return np.array(
        [
            77.27 * (b + a * (1 - 8.375e-6 * a - b)),
            (c - (1 + a) * b) / 77.27,
            0.161 * (a - c),
        ]
    )


def hires_slopes(a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, h: Any) -> tuple[Any, ...]:
    """Photomorphogenesis: high irradiance response of seedlings."""
    fh = 280 * f * h
    return (
        -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
        1.71 * a - 8.75 * b,
        -10.03 * c + 0.43 * d + 0.035 * e,
        8.32 * b + 1.71 * c - 1.12 * d,
        -1.745 * e + 0.43 * (f + g),
        -fh + 0.69 * d + 1.71 * e - 0.43 * f + 0.69 * g,
        fh - 1.81 * g,
        -fh + 1.81 * g,
    )


def hires(t: float, y: Array) -> Array:  # noqa: ARG001
    """Return `hires_slopes` as an array."""
    return np.array(hires_slopes(*y.tolist()))


def e5(t: float, y: Array) -> Array:  # noqa: ARG001
    """Chemical pyrolysis: components from 1e-3 down to 1e-20."""
    A, B, C, M = 7.89e-10, 1.1e7, 1.13e3, 1e6
    a, b, c, d = y
    p, q, r = A * a, B * a * c, M * C * b * c
    dd = q - C * d
    return np.array([-p - q, p - r, p - r - dd, dd])


def van_der_pol_slow(t: float, y: Array) -> Array:  # noqa: ARG001
    """Van der Pol's oscillator in the scaling of the fast time, mu = 1000."""
    a, b = y
    return np.array([b, 1e3 * (1 - a * a) * b - a])


def robertson_dae(t: float, y: Array) -> Array:
    """Robertson's reaction with the conservation of mass in place of its third equation."""
    slopes = robertson(t, y)
    return np.array([slopes[0], slopes[1], y.sum() - 1])


_AKZO_KS = 115.83


def chemical_akzo(t: float, y: Array) -> Array:  # noqa: ARG001
    """Chemical Akzo Nobel's two species in a closed reactor, with the equilibrium of the sixth."""
    a, b, c, d, e, f = y
    # Newton's iteration may try b < 0, where a step cannot be taken.
    root = np.sqrt(b) if b.real >= 0 else np.nan
    r1, r2, r3 = 18.7 * a**4 * root, 0.58 * c * d, 0.58 / 34.4 * a * e
    r4, r5 = 0.09 * a * d * d, 0.42 * f * f * root
    inflow = 3.3 * (0.9 / 737 - b)
    return np.array(
        [
            -2 * r1 + r2 - r3 - r4,
            -0.5 * r1 - r4 - 0.5 * r5 + inflow,
            r1 - r2 + r3,
            -r2 + r3 - 2 * r4,
            r2 - r3 + r5,
            _AKZO_KS * a * d - f,
        ]
    )


def chemical_akzo_ode(t: float, y: Array) -> Array:
    """Return the slopes of the same without its algebraic component, which is eliminated."""
    return chemical_akzo(t, np.append(y, _AKZO_KS * y[0] * y[3]))[:5]


def van_der_pol_slopes(a: Any, b: Any) -> tuple[Any, ...]:
    """Van der Pol's oscillator in the scaling of the limit cycle, eps = 1e-6."""
    return b, ((1 - a * a) * b - a) / 1e-6


def van_der_pol(t: float, y: Array) -> Array:  # noqa: ARG001
    """Return `van_der_pol_slopes` as an array."""
    return np.array(van_der_pol_slopes(*y.tolist()))


_K = np.array(
    [
        *(0.35, 26.6, 1.23e4, 8.6e-4, 8.2e-4, 1.5e4, 1.3e-4, 2.4e4, 1.65e4, 9e3),
        *(2.2e-2, 1.2e4, 1.88, 1.63e4, 4.8e6, 3.5e-4, 1.75e-2, 1e8, 4.44e11, 1.24e3),
        *(2.1, 5.78, 4.74e-2, 1.78e3, 3.12),
    ]
)
# First and second reactant of each of the 25 reactions (-1: none), and net stoichiometry.
_FIRST = np.array(
    [1, 2, 5, 7, 7, 7, 9, 9, 11, 11, 13, 10, 14, 1, 3, 4, 4, 16, 16, 17, 19, 19, 1, 19, 20]
)
_SECOND = np.array([0, 4, 2, 0, 0, 6, 0, 6, 2, 1, 0, 2, 0, 6, 0, 0, 0, 0, 0, 6, 0, 0, 4, 1, 0])
_NET = {
    1: "-1 -10 -14 -23 -24 +2 +3 +9 +11 +12 +22 +25",
    2: "-2 -3 -9 -12 +1 +21",
    3: "-15 +1 +17 +19 +22",
    4: "-2 -16 -17 -23 +15",
    5: "-3 +4 +4 +6 +7 +13 +20",
    6: "-6 -8 -14 -20 +3 +18 +18",
    7: "-4 -5 -6 +13",
    8: "+4 +5 +6 +7",
    9: "-7 -8",
    10: "-12 +7 +9",
    11: "-9 -10 +8 +11",
    12: "+9",
    13: "-11 +10",
    14: "-13 +12",
    15: "+14",
    16: "-18 -19 +16",
    17: "-20",
    18: "+20",
    19: "-21 -22 -24 +23 +25",
    20: "-25 +24",
}
_STOICHIOMETRY = np.zeros((20, 25))
for _species, _reactions in _NET.items():
    for _reaction in map(int, _reactions.split()):
        _STOICHIOMETRY[_species - 1, abs(_reaction) - 1] += np.sign(_reaction)


def pollution(t: float, y: Array) -> Array:  # noqa: ARG001
    """Air pollution model of RIVM: 25 reactions of 20 species."""
    second = np.where(_SECOND > 0, y[_SECOND - 1], 1.0)
    return _STOICHIOMETRY @ (_K * y[_FIRST - 1] * second)


_POLLU_Y0 = np.zeros(20)
_POLLU_Y0[[1, 3, 6, 7, 8, 16]] = 0.2, 0.04, 0.1, 0.3, 0.01, 0.007

STIFF = {
    problem.name: problem
    for problem in (
        StiffProblem(
            "ROBER",
            robertson,
            (0.0, 1e4),
            (1.0, 0.0, 0.0),
            (1e-2, 1e-8, 1e-2),
            1e4,
            (0.1073004285378040, 0.4800166972571660e-6, 0.8926990914454987),
        ),
        StiffProblem(
            "OREGO",
            oregonator,
            (0.0, 360.0),
            (1.0, 2.0, 3.0),
            1e-3,
            360.0,
            (0.1000814870318523e1, 0.1228178521549889e4, 0.1320554942846513e3),
        ),
        StiffProblem(
            "HIRES",
            hires,
            (0.0, 321.8122),
            (1.0, *[0.0] * 6, 0.0057),
            1e-4,
            321.8122,
            (
                *(0.7371312573325668e-3, 0.1442485726316185e-3, 0.5888729740967575e-4),
                *(0.1175651343283149e-2, 0.2386356198831331e-2, 0.6238968252742796e-2),
                *(0.2849998395185769e-2, 0.2850001604814231e-2),
            ),
        ),
        StiffProblem(
            "E5",
            e5,
            (0.0, 1e5),
            (1.76e-3, 0.0, 0.0, 0.0),
            1e-18,
            1e5,
            (
                *(7.4813208224292220114e-6, 2.3734781561205975019e-12),
                *(2.2123586689581663654e-12, 1.6111948716243113653e-13),
            ),
        ),
        StiffProblem(
            "VDPOL",
            van_der_pol,
            (0.0, 2.0),
            (2.0, 0.0),
            1e-2,
            2.0,
            (0.1706167732170456e1, -0.8928097010248257),
        ),
        StiffProblem(
            "POLLU",
            pollution,
            (0.0, 60.0),
            _POLLU_Y0,
            1e-8,
            60.0,
            (
                *(0.5646255480022769e-1, 0.1342484130422339, 0.4139734331099427e-8),
                *(0.5523140207484359e-2, 0.2018977262302196e-6, 0.1464541863493966e-6),
                *(0.7784249118997964e-1, 0.3245075353396018, 0.7494013383880406e-2),
                *(0.1622293157301561e-7, 0.1135863833257075e-7, 0.2230505975721359e-2),
                *(0.2087162882798630e-3, 0.1396921016840158e-4, 0.8964884856898295e-2),
                *(0.4352846369330103e-17, 0.6899219696263405e-2, 0.1007803037365946e-3),
                *(0.1772146513969984e-5, 0.5682943292316392e-4),
            ),
        ),
    )
}
"""Name to problem."""

_ROBER_END = (0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050)
_AKZO_START = (0.444, 0.00123, 0.0, 0.007, 0.0, _AKZO_KS * 0.444 * 0.007)
_AKZO_END = (
    *(0.1150794920661702, 0.1203831471567715e-2, 0.1611562887407974),
    *(0.3656156421249283e-3, 0.1708010885264404e-1, 0.4873531310307455e-2),
)

LONG = {
    problem.name: problem
    for problem in (
        StiffProblem(
            "ROBER",
            robertson,
            (0.0, 1e11),
            (1.0, 0.0, 0.0),
            (1e-8, 1e-14, 1e-2),
            1e11,
            _ROBER_END,
        ),
        StiffProblem(
            "E5",
            e5,
            (0.0, 1e9),
            (1.76e-3, 0.0, 0.0, 0.0),
            (1e-14, 1e-16, 1e-16, 1e-26),
            1e9,
            (
                *(3.1317148329356996037e-14, 1.4840957952870064294e-16),
                *(1.4840957948345691466e-16, 4.5243728279782625194e-26),
            ),
        ),
        StiffProblem(
            "VDPOLM",
            van_der_pol_slow,
            (0.0, 2000.0),
            (2.0, 0.0),
            (1e-2, 1e-5),
            2000.0,
            (0.1706167732170469e1, -0.8928097010248125e-3),
        ),
        StiffProblem(
            "CHEMAKZO-ODE",
            chemical_akzo_ode,
            (0.0, 180.0),
            _AKZO_START[:5],
            1e-4,
            180.0,
            _AKZO_END[:5],
        ),
    )
}
"""Further problems, or the same to the end of the published times. E5 ends at 1e9: beyond, double
precision leaves few digits of y_2 − y_3."""

DAE = {
    problem.name: problem
    for problem in (
        StiffProblem(
            "CHEMAKZO",
            chemical_akzo,
            (0.0, 180.0),
            _AKZO_START,
            1e-4,
            180.0,
            _AKZO_END,
            mass=(1.0, 1.0, 1.0, 1.0, 1.0, 0.0),
        ),
        StiffProblem(
            "ROBER-DAE",
            robertson_dae,
            (0.0, 1e11),
            (1.0, 0.0, 0.0),
            (1e-8, 1e-14, 1e-2),
            1e11,
            _ROBER_END,
            mass=(1.0, 1.0, 0.0),
        ),
    )
}
"""Differential-algebraic equations of index 1, by name."""


def main() -> None:
    """Print the digits to which the references agree with the published end values."""
    for problem in (*STIFF.values(), *LONG.values()):
        digits = problem.digits(problem.reference(1e-10)(problem.t_end))
        print(f"{problem.name:12} to t = {problem.t_end:<8g} {digits:.1f} digits")


if __name__ == "__main__":
    main()

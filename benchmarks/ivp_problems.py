"""Initial value problems that the benchmarks share, with reference trajectories.

DETEST's classes A to F (Hull, Enright, Fellen, Sedgwick 1972; Enright, Pryce 1987), orbits and
oscillators of Hairer, Nørsett and Wanner, and some whose step size is limited by stability.

Run as a script, it compares the references with published end values.

References
----------
T. E. Hull, W. H. Enright, B. M. Fellen, A. E. Sedgwick, Comparing numerical methods for ordinary
differential equations, SIAM J. Numer. Anal. 9 (1972) 603-637, doi:10.1137/0709052.
W. H. Enright, J. D. Pryce, Two FORTRAN packages for assessing initial value methods, ACM TOMS 13
(1987) 1-27, doi:10.1145/23002.27645.
E. Hairer, S. P. Nørsett, G. Wanner, Solving Ordinary Differential Equations I, Springer 1993,
doi:10.1007/978-3-540-78862-1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.integrate import solve_ivp
from scipy.interpolate import BSpline, make_interp_spline

import stiffkit as sk

__all__ = ["PROBLEMS", "Problem"]

Array = np.ndarray
array = np.array


@dataclass(frozen=True)
class Problem:
    """y' = f(t, y), y(t0) = y0 on t_span."""

    name: str
    f: Callable[[float, Array], Array]
    t_span: tuple[float, float]
    y0: Sequence[float]
    kind: str = "smooth"
    """ "smooth", "stability" (explicit steps are limited by stability) or "rough" (f is not
    smooth in t)."""
    breaks: tuple[float, ...] = ()
    """Times where f is not smooth."""
    exact: Callable[[float], Sequence[float]] | None = None
    """Closed-form solution."""
    y_end: tuple[float, ...] | None = None
    """Published y(t1), its first components at least."""

    def trajectory(self, t: Array) -> Array:
        """Return y at the times `t`, shape (len(t), n): exact, or good to 1e-11 or so."""
        if self.exact is not None:
            return array([self.exact(t_i) for t_i in t.tolist()])
        ends, pieces = self._reference
        which = np.clip(np.searchsorted(ends, t, side="right") - 1, 0, len(pieces) - 1)
        if len(pieces) == 1:
            return pieces[0](t)
        y = np.empty((len(t), len(self.y0)))
        for i in np.unique(which):
            y[which == i] = pieces[i](t[which == i])
        return y

    @cached_property
    def scale(self) -> Array:
        """Largest |y_i| on the trajectory, for each component."""
        t = np.linspace(*self.t_span, 1001)
        return np.maximum(np.abs(self.trajectory(t)).max(axis=0), 1e-6)

    @cached_property
    def _reference(self) -> tuple[list[float], list[BSpline]]:
        ends = [self.t_span[0], *self.breaks, self.t_span[1]]
        pieces, y = [], array(self.y0, dtype=float)
        for a, b in pairwise(ends):
            f = self._inside(a, b) if self.breaks else self.f
            # Splines want steps that do not grow much from one to the next: none is left to start
            # tiny where y = 0, or to become long where y hardly changes.
            longest = (b - a) / 50
            coarse = solve_ivp(
                f,
                (a, b),
                y,
                method="DOP853",
                rtol=1e-13,
                atol=1e-15,
                first_step=longest / 4,
                max_step=longest,
            )
            # Two steps for each of SciPy's, in the other implementation of the method, make
            # enough points for the spline, whose error is then below that of the points.
            t = np.sort(np.concatenate([coarse.t, (coarse.t[1:] + coarse.t[:-1]) / 2]))
            fine = sk.solve(f, (a, b), y, "dop853", grid=t)
            y = fine.y[-1]
            pieces.append(make_interp_spline(t, fine.y, k=min(9, 2 * ((len(t) - 1) // 2) - 1)))
        return ends, pieces

    def _inside(self, a: float, b: float) -> Callable[[float, Array], Array]:
        """Continue f from the inside of (a, b) to its ends."""
        low, high = math.nextafter(a, b), math.nextafter(b, a)
        return lambda t, y: self.f(min(max(t, low), high), y)


PROBLEMS: dict[str, Problem] = {}
"""Name to problem."""


def _add(name: str, f: Callable[..., Array], t1: float, y0: Sequence[float], **more: Any) -> None:
    PROBLEMS[name] = Problem(name, f, (0.0, t1), tuple(y0), **more)


# DETEST A: single equations ---------------------------------------------------------------------

_add(
    "A1",
    lambda _, y: -y,
    20,
    [1],
    exact=lambda t: [math.exp(-t)],
    y_end=(2.061153353012535e-9,),
)
_add(
    "A2",
    lambda _, y: -(y**3) / 2,
    20,
    [1],
    exact=lambda t: [1 / math.sqrt(t + 1)],
    y_end=(0.2182178902359887,),
)
_add(
    "A3",
    lambda t, y: y * math.cos(t),
    20,
    [1],
    exact=lambda t: [math.exp(math.sin(t))],
    y_end=(2.491650271850414,),
)
_add(
    "A4",
    lambda _, y: y / 4 * (1 - y / 20),
    20,
    [1],
    exact=lambda t: [20 / (1 + 19 * math.exp(-t / 4))],
    y_end=(17.73016648131483,),
)
_add("A5", lambda t, y: (y - t) / (y + t), 20, [4], y_end=(-0.7887826688964196,))


# DETEST B: small systems ------------------------------------------------------------------------


def predator_prey(_: float, y: Array) -> Array:
    a, b = y.tolist()
    return array([2 * (a - a * b), a * b - b])


def b2(_: float, y: Array) -> Array:
    a, b, c = y.tolist()
    return array([b - a, a - 2 * b + c, b - c])


def b3(_: float, y: Array) -> Array:
    a, b, _c = y.tolist()
    return array([-a, a - b * b, b * b])


def torus(_: float, y: Array) -> Array:
    a, b, c = y.tolist()
    r = math.hypot(a, b)
    return array([-b - a * c / r, a - b * c / r, a / r])


def rigid_body(_: float, y: Array) -> Array:
    a, b, c = y.tolist()
    return array([b * c, -a * c, -0.51 * a * b])


_add("B1", predator_prey, 20, [1, 3], y_end=(0.6761876008576667, 0.1860816099640036))
_add("B2", b2, 20, [2, 0, 1], y_end=(1.000000001030576, 1.0, 0.9999999989694235))
_add(
    "B3", b3, 20, [1, 0, 0], y_end=(2.061153488557776e-9, 5.257228022048349e-2, 0.9474277177183630)
)
_add("B4", torus, 20, [3, 0, 0], y_end=(0.9826950928005993, 2.198447081694832, 0.9129452507276399))
_add(
    "B5",
    rigid_body,
    20,
    [0, 1, 1],
    y_end=(-0.9396570798729192, -0.3421177754000779, 0.7414126596199957),
)


# DETEST C: moderate systems ---------------------------------------------------------------------


def _linear(matrix: Array) -> Callable[[float, Array], Array]:
    return lambda _, y: matrix @ y


def _chain(rates: Sequence[float]) -> Array:
    """Radioactive decay: species i turns into i + 1 at its rate; the last is stable."""
    return np.diag(rates, -1) - np.diag([*rates, 0.0])


def _second_difference(n: int) -> Array:
    return np.eye(n, k=1) + np.eye(n, k=-1) - 2 * np.eye(n)


# The Sun with the inner planets, Jupiter, Saturn, Uranus, Neptune, Pluto; 100 days, astronomical
# units and solar masses.
_SUN, _GRAVITY = 1.00000597682, 2.95912208286
# fmt: off
_PLANETS = array([
    9.54786104043e-4, 2.85583733151e-4, 4.37273164546e-5, 5.17759138449e-5, 2.77777777778e-6,
])
_PLANETS_Y0 = [
    3.42947415189, 3.35386959711, 1.35494901715,
    6.64145542550, 5.97156957878, 2.18231499728,
    11.2630437207, 14.6952576794, 6.27960525067,
    -30.1552268759, 1.65699966404, 1.43785752721,
    -21.1238353380, 28.4465098142, 15.3882659679,
    -0.557160570446, 0.505696783289, 0.230578543901,
    -0.415570776342, 0.365682722812, 0.169143213293,
    -0.325325669158, 0.189706021964, 0.0877265322780,
    -0.0240476254170, -0.287659532608, -0.117219543175,
    -0.176860753121, -0.216393453025, -0.0148647893090,
]
# fmt: on


def outer_planets(_: float, y: Array) -> Array:
    x = y[:15].reshape(5, 3)
    towards = x[None] - x[:, None]
    distance_3 = (towards**2).sum(axis=2) ** 1.5 + np.eye(5)
    pull = (_PLANETS[:, None] * towards / distance_3[:, :, None]).sum(axis=1)
    fall = x / (x**2).sum(axis=1, keepdims=True) ** 1.5
    # The frame falls with the Sun, which every planet pulls.
    others = (_PLANETS[:, None] * fall).sum(axis=0) - _PLANETS[:, None] * fall
    acceleration = _GRAVITY * (pull - others - (_SUN + _PLANETS[:, None]) * fall)
    return np.concatenate([y[15:], acceleration.ravel()])


_add(
    "C1",
    _linear(_chain([1.0] * 9)),
    20,
    [1] + [0] * 9,
    y_end=(2.061153622240064e-9, 4.122307244619555e-8, 4.122307244716968e-7),
)
_add(
    "C2",
    _linear(_chain(list(range(1, 10)))),
    20,
    [1] + [0] * 9,
    y_end=(2.061153577984930e-9, 2.061153573736588e-9, 2.061153569488245e-9),
)
_add(
    "C3",
    _linear(_second_difference(10)),
    20,
    [1] + [0] * 9,
    y_end=(2.948119211022058e-3, 5.635380154844266e-3, 7.829072515926013e-3),
)
_add(
    "C4",
    _linear(_second_difference(51)),
    20,
    [1] + [0] * 50,
    y_end=(3.124111453721466e-3, 6.015416842150318e-3, 8.470021834842650e-3),
)
_add(
    "C5",
    outer_planets,
    20,
    _PLANETS_Y0,
    y_end=(-4.792730224323733, -2.420550725448973, -0.9212509306014886, -4.217310404035213),
)


# DETEST D: orbits of growing eccentricity -------------------------------------------------------


def kepler(_: float, y: Array) -> Array:
    a, b, u, v = y.tolist()
    r = math.hypot(a, b)
    return array([u, v, -a / (r * r * r), -b / (r * r * r)])


_D_END = (
    (0.2198835352008397, 0.9427076846341813, -0.9787659841058176, 0.3287977990962036),
    (-0.1777027357140412, 0.9467784719905892, -1.030294163192969, 0.1211074890053952),
    (-0.5780432953035361, 0.8633840009194193, -0.9595083730380727, -0.06504915126712089),
    (-0.9538990293416394, 0.6907409024219432, -0.8212674270877433, -0.1539574259125825),
    (-1.295266250987574, 0.4003938963792321, -0.6775390924707566, -0.1270838154278686),
)
for _i, _end in enumerate(_D_END, 1):
    _e = 0.2 * _i - 0.1
    _add(f"D{_i}", kepler, 20, [1 - _e, 0, 0, math.sqrt((1 + _e) / (1 - _e))], y_end=_end)


# DETEST E: higher order equations ---------------------------------------------------------------


def bessel(t: float, y: Array) -> Array:
    a, b = y.tolist()
    return array([b, -(b / (t + 1) + (1 - 0.25 / (t + 1) ** 2) * a)])


def van_der_pol(mu: float) -> Callable[[float, Array], Array]:
    def f(_: float, y: Array) -> Array:
        a, b = y.tolist()
        return array([b, mu * (1 - a * a) * b - a])

    return f


def duffing(t: float, y: Array) -> Array:
    a, b = y.tolist()
    return array([b, a * a * a / 6 - a + 2 * math.sin(2.78535 * t)])


def falling_body(_: float, y: Array) -> Array:
    b = float(y[1])
    return array([b, 0.032 - 0.4 * b * b])


def pursuit(t: float, y: Array) -> Array:
    b = float(y[1])
    return array([b, math.sqrt(1 + b * b) / (25 - t)])


_ROOT = math.sqrt(2 / math.pi)
_add(
    "E1",
    bessel,
    20,
    [_ROOT * math.sin(1), _ROOT * (math.cos(1) - math.sin(1) / 2)],  # J½(1) and its slope
    y_end=(0.1456723600728308, -0.09883500195574063),
)
_add("E2", van_der_pol(1.0), 20, [2, 0], y_end=(2.008149762174948, -0.04250887527320057))
_add("E3", duffing, 20, [0, 0], y_end=(-0.1004178858647128, 0.2411400132095954))
_add("E4", falling_body, 20, [30, 0], y_end=(33.95091444646555, 0.2767822659672869))
_add("E5", pursuit, 20, [0, 0], y_end=(14.11797390542629, 2.400000000000002))


# DETEST F: right-hand sides that are not smooth in t --------------------------------------------

_WHOLE = tuple(float(_t) for _t in range(1, 20))
_KINKS = np.arange(1.0, 20.0)
_KINKS_SUM = float((_KINKS ** (4 / 3)).sum())


def square_wave(t: float, y: Array) -> Array:
    a, b = y.tolist()
    push = -1 if int(t) % 2 else 1
    return array([b, 0.2 * b - (math.pi**2 + 0.01) * a + push])


def switched_decay(t: float, y: Array) -> Array:
    return 55 - (0.5 if int(t) % 2 else 1.5) * y


def rectified(t: float, y: Array) -> Array:
    a, b = y.tolist()
    return array([b, 0.01 * b * (1 - a * a) - a - abs(math.sin(math.pi * t))])


def one_jump(t: float, y: Array) -> Array:
    if t > 10:
        return -2 * y
    return array([-2 / 21 - 120 * (t - 5) / (1 + 4 * (t - 5) ** 2) ** 16])


def cube_roots(t: float, y: Array) -> Array:
    return 4 / (3 * _KINKS_SUM) * float(np.cbrt(t - _KINKS).sum()) * y


def _cube_roots_exact(t: float) -> list[float]:
    return [math.exp(float((np.abs(t - _KINKS) ** (4 / 3)).sum()) / _KINKS_SUM - 1)]


_add("F1", square_wave, 20, [0, 0], kind="rough", breaks=_WHOLE, y_end=(-12.94460621213470,))
_add("F2", switched_decay, 20, [110], kind="rough", breaks=_WHOLE, y_end=(70.03731057008607,))
_add(
    "F3",
    rectified,
    20,
    [0, 0],
    kind="rough",
    breaks=_WHOLE,
    y_end=(-0.3726957553088175, -0.6230137949234190),
)
_add("F4", one_jump, 20, [1], kind="rough", breaks=(10.0,), y_end=(9.815017249707434e-11,))
_add("F5", cube_roots, 20, [1], kind="rough", breaks=_WHOLE, exact=_cube_roots_exact, y_end=(1.0,))


# Orbits and oscillators -------------------------------------------------------------------------

_MOON = 0.012277471


def arenstorf_slopes(a: Any, b: Any, u: Any, v: Any) -> tuple[Any, ...]:
    """Slopes of a satellite's place and velocity, for numbers, arrays and tensors alike."""
    r, s = (a + _MOON) ** 2 + b * b, (a - 1 + _MOON) ** 2 + b * b
    earth, moon = r * r**0.5, s * s**0.5
    x = a + 2 * v - (1 - _MOON) * (a + _MOON) / earth - _MOON * (a - 1 + _MOON) / moon
    y = b - 2 * u - (1 - _MOON) * b / earth - _MOON * b / moon
    return u, v, x, y


def arenstorf(_: float, y: Array) -> Array:
    return array(arenstorf_slopes(*y.tolist()))


def lotka_volterra_slopes(a: Any, b: Any) -> tuple[Any, ...]:
    """Slopes of prey and predators, for numbers, arrays and tensors alike."""
    return 1.5 * a - a * b, a * b - 3 * b


def lotka_volterra(_: float, y: Array) -> Array:
    return array(lotka_volterra_slopes(*y.tolist()))


_STARS = np.arange(1.0, 8.0)


def pleiades(_: float, y: Array) -> Array:
    x = y[:14].reshape(2, 7)
    towards = x[:, None, :] - x[:, :, None]
    distance_3 = (towards**2).sum(axis=0) ** 1.5 + np.eye(7)
    return np.concatenate([y[14:], (towards * (_STARS / distance_3)).sum(axis=2).ravel()])


_add(
    "arenstorf",
    arenstorf,
    17.0652165601579625588917206249,
    [0.994, 0, 0, -2.00158510637908252240537862224],
    y_end=(0.994, 0, 0, -2.00158510637908252240537862224),
)
_add("lotka_volterra", lotka_volterra, 10, [1, 1])
_add("van_der_pol_5", van_der_pol(5.0), 20, [2, 0])
_add(
    "pleiades",
    pleiades,
    3,
    [
        *(3, 3, -1, -3, 2, -2, 2, 3, -3, 2, 0, 0, -4, 4),
        *(0, 0, 0, 0, 0, 1.75, -1.5, 0, 0, 0, -1.25, 1, 0, 0),
    ],
    # IVP test set of Bari.
    y_end=(0.3706139143970502, 3.237284092057233, -3.222559032418324, 0.6597091455775310),
)


# Steps limited by stability ---------------------------------------------------------------------


def stiff_scalar(t: float, y: Array) -> Array:
    """Prothero and Robinson: around y = cos t, everything decays as exp(−100 t)."""
    return -100 * (y - math.cos(t)) - math.sin(t)


def stiff_spiral(t: float, y: Array) -> Array:
    """Around y = (cos t, sin t), everything decays as exp((−50 ± 50i) t)."""
    c, s = math.cos(t), math.sin(t)
    a, b = float(y[0]) - c, float(y[1]) - s
    return array([-50 * a + 50 * b - s, -50 * a - 50 * b + c])


_HEAT = 13.0**2 * _second_difference(12)
_HEAT_X = np.arange(1, 13) / 13


def heat(t: float, y: Array) -> Array:
    """u_t = u_xx + a source that moves to and fro, on 12 points between two cold ends."""
    return _HEAT @ y + 50 * np.exp(-50 * (_HEAT_X - 0.5 - 0.3 * math.sin(5 * t)) ** 2)


def hires(_: float, y: Array) -> Array:
    a, b, c, d, e, g, h, k = y.tolist()
    r = 280 * g * k
    return array(
        [
            -1.71 * a + 0.43 * b + 8.32 * c + 0.0007,
            1.71 * a - 8.75 * b,
            -10.03 * c + 0.43 * d + 0.035 * e,
            8.32 * b + 1.71 * c - 1.12 * d,
            -1.745 * e + 0.43 * (g + h),
            -r + 0.69 * d + 1.71 * e - 0.43 * g + 0.69 * h,
            r - 1.81 * h,
            1.81 * h - r,
        ]
    )


_add("stiff_scalar", stiff_scalar, 10, [1.5], kind="stability", y_end=(math.cos(10),))
_add(
    "stiff_spiral",
    stiff_spiral,
    10,
    [1.5, 0],
    kind="stability",
    y_end=(math.cos(10), math.sin(10)),
)
_add("heat", heat, 2, [0] * 12, kind="stability")
_add("van_der_pol_50", van_der_pol(50.0), 20, [2, 0], kind="stability")
_add("hires", hires, 50, [1, 0, 0, 0, 0, 0, 0, 0.0057], kind="stability")


def main() -> None:
    print(f"{'problem':<16}{'n':>4}  error of the reference's end against the published one")
    for problem in PROBLEMS.values():
        y = problem.trajectory(array([problem.t_span[1]]))[0]
        if problem.y_end is None:
            error = "none published"
        else:
            m = len(problem.y_end)
            error = f"{np.max(np.abs(y[:m] - problem.y_end) / problem.scale[:m]):.1e}"
        print(f"{problem.name:<16}{len(problem.y0):>4}  {error}")


if __name__ == "__main__":
    main()

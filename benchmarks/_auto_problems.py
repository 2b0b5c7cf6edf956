"""More problems for ``method="auto"``: those its constants were chosen by, and others, held out.

References
----------
A1 to D5 and E3 of stiff DETEST: Enright, Hull and Lindberg (1975). The Brusselator with diffusion
and CUSP: E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., Springer
(1996), doi:10.1007/978-3-642-05221-7. The squid's axon is Hodgkin and Huxley's (1952), the
repressilator Elowitz and Leibler's (2000).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["CHOSEN_BY", "HELD_OUT"]

Array = np.ndarray
Case = tuple[Any, tuple[float, float], Any, float]
"""f, the span, y(t0), and the absolute tolerance for rtol = 1."""

CHOSEN_BY: dict[str, Case] = {}
HELD_OUT: dict[str, Case] = {}


def _linear(J: Any, y0: Any, t_end: float) -> Case:
    J = np.array(J, dtype=float)
    J = np.diag(J) if J.ndim == 1 else J
    return lambda t, y: J @ y, (0.0, t_end), np.array(y0, dtype=float), 1e-2


def _second_difference(n: int) -> Array:
    return np.diag(np.full(n, -2.0)) + np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1)


def _van_der_pol(mu: float, t_end: float) -> Case:
    def f(t: float, y: Array) -> Array:
        return np.array([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])

    return f, (0.0, t_end), [2.0, 0.0], 1e-2


# Stiff DETEST, and what is or is not quite stiff --------------------------------------------------


def _class_b(a: float) -> Case:
    J = np.diag([-10.0, -10.0, -4.0, -1.0, -0.5, -0.1])
    J[0, 1], J[1, 0] = a, -a
    return _linear(J, np.ones(6), 20.0)


def _c1(t: float, y: Array) -> Array:
    _, b, c, d = y**2
    return np.array(
        [-y[0] + b + c + d, -10 * y[1] + 10 * (c + d), -40 * y[2] + 40 * d, 2 - 100 * y[3]]
    )


def _class_c(beta: float) -> Case:
    def f(t: float, y: Array) -> Array:
        a, b, c, _ = y**2
        return np.array(
            [
                2 - y[0],
                -10 * y[1] + beta * a,
                -40 * y[2] + 4 * beta * (a + b),
                -100 * y[3] + 10 * beta * (a + b + c),
            ]
        )

    return f, (0.0, 20.0), np.ones(4), 1e-2


def _d1(t: float, y: Array) -> Array:
    a, b, c = y
    return np.array([0.2 * (b - a), 10 * a - (60 - 0.125 * c) * b + 0.125 * c, 1.0])


def _d3(t: float, y: Array) -> Array:
    a, b, c, d = y
    one, two = 100 * a * b, 1e4 * b * b
    return np.array([c - one, c + 2 * d - one - 2 * two, one - c, two - d])


def _d4(t: float, y: Array) -> Array:
    a, b, c = y
    one, two = 0.013 * a + 1000 * a * c, 2500 * b * c
    return np.array([-one, -two, -one - two])


def _d5(t: float, y: Array) -> Array:
    a, b = y
    s = 0.01 + a + b
    return np.array([0.01 - (1 + (a + 1000) * (a + 1)) * s, 0.01 - (1 + b * b) * s])


def _brusselator_line(n: int) -> Case:
    c, x = (n + 1) ** 2 / 50, np.arange(1, n + 1) / (n + 1)
    D = c * _second_difference(n)

    def f(t: float, y: Array) -> Array:
        u, v = y.reshape(2, n)
        du, dv = 1 + u * u * v - 4 * u + D @ u, 3 * u - u * u * v + D @ v
        du[[0, -1]] += c
        dv[[0, -1]] += 3 * c
        return np.concatenate([du, dv])

    return f, (0.0, 10.0), np.concatenate([1 + np.sin(2 * np.pi * x), np.full(n, 3.0)]), 1e-2


def _burgers(n: int, nu: float) -> Case:
    dx = 1 / (n + 1)

    def f(t: float, y: Array) -> Array:
        w = np.concatenate([[0.0], y, [0.0]])
        convected = (w[2:] ** 2 - w[:-2] ** 2) / (4 * dx)
        return nu * (w[2:] - 2 * y + w[:-2]) / dx**2 - convected

    return f, (0.0, 1.0), np.sin(2 * np.pi * dx * np.arange(1, n + 1)), 1e-2


_A3 = [[-1e4, 100, -10, 1], [0, -1e3, 10, -10], [0, 0, -1, 10], [0, 0, 0, -0.1]]
_B1 = [[-1, 1, 0, 0], [-100, -1, 0, 0], [0, 0, -100, 1], [0, 0, -10000, -100]]

CHOSEN_BY |= {
    "stiff A1": _linear([-0.5, -1, -100, -90], np.ones(4), 20.0),
    "stiff A2": _linear(100 * _second_difference(9), np.arange(9) == 4, 1.2),
    "stiff A3": _linear(_A3, np.ones(4), 20.0),
    "stiff A4": _linear(-(np.arange(1.0, 11.0) ** 5), np.ones(10), 1.0),
    "stiff B1": _linear(_B1, [1, 0, 1, 0], 20.0),
    "stiff B2": _class_b(3.0),
    "stiff B3": _class_b(8.0),
    "stiff B4": _class_b(25.0),
    "stiff B5": _class_b(100.0),
    "stiff C1": (_c1, (0.0, 20.0), np.ones(4), 1e-2),
    "stiff C2": _class_c(0.1),
    "stiff C4": _class_c(10.0),
    "stiff D1": (_d1, (0.0, 400.0), np.zeros(3), 1e-2),
    "stiff D3": (_d3, (0.0, 20.0), [1.0, 1.0, 0.0, 0.0], 1e-4),
    "stiff D4": (_d4, (0.0, 50.0), [1.0, 1.0, 0.0], 1e-2),
    "stiff D5": (_d5, (0.0, 100.0), np.zeros(2), 1e-4),
    "van der Pol 2": _van_der_pol(2.0, 20.0),
    "van der Pol 10": _van_der_pol(10.0, 40.0),
    "van der Pol 20": _van_der_pol(20.0, 80.0),
    "van der Pol 200": _van_der_pol(200.0, 600.0),
    "Brusselator 20": _brusselator_line(20),
    "Brusselator 40": _brusselator_line(40),
    "Burgers": _burgers(64, 0.02),
    "flame": (lambda t, y: y**2 - y**3, (0.0, 2e4), [1e-4], 1e-2),
    "forced": (lambda t, y: -20 * (y - math.sin(t)), (0.0, 20.0), [0.0], 1e-2),
}


# Held out -----------------------------------------------------------------------------------------


def _kaps(t: float, y: Array) -> Array:
    a, b = y
    return np.array([-1002 * a + 1000 * b * b, a - b * (1 + b)])


def _e3(t: float, y: Array) -> Array:
    a, b, c = y
    return np.array([-(55 + c) * a + 65 * b, 0.0785 * (a - b), 0.1 * a])


def _squid_axon(t: float, y: Array) -> Array:
    """Hodgkin and Huxley's equations under a constant current."""
    v, m, h, n = y
    x, z = 0.1 * (v + 40), 0.1 * (v + 55)
    rise_m, fall_m = x / -np.expm1(-x), 4 * math.exp(-(v + 65) / 18)
    rise_h, fall_h = 0.07 * math.exp(-(v + 65) / 20), 1 / (1 + math.exp(-(v + 35) / 10))
    rise_n, fall_n = 0.1 * z / -np.expm1(-z), 0.125 * math.exp(-(v + 65) / 80)
    current = 10 - 120 * m**3 * h * (v - 50) - 36 * n**4 * (v + 77) - 0.3 * (v + 54.4)
    gates = [rise_m * (1 - m) - fall_m * m, rise_h * (1 - h) - fall_h * h]
    return np.array([current, *gates, rise_n * (1 - n) - fall_n * n])


def _repressilator(t: float, y: Array) -> Array:
    m, p = y[:3], y[3:]
    return np.concatenate([216.4 / (1 + np.roll(p, 1) ** 2) + 0.2 - m, 5 * (m - p)])


def _cusp(n: int) -> Case:
    D, around = n * n / 144, 2 * np.pi * np.arange(1, n + 1) / n

    def spread(u: Array) -> Array:
        return D * (np.roll(u, 1) - 2 * u + np.roll(u, -1))

    def f(t: float, w: Array) -> Array:
        y, a, b = w.reshape(3, n)
        u = (y - 0.7) * (y - 1.3)
        v = u / (u + 0.1)
        return np.concatenate(
            [
                -1e4 * (y**3 + a * y + b) + spread(y),
                b + 0.07 * v + spread(a),
                (1 - a * a) * b - a - 0.4 * y + 0.035 * v + spread(b),
            ]
        )

    y0 = np.concatenate([np.zeros(n), -2 * np.cos(around), 2 * np.sin(around)])
    return f, (0.0, 1.1), y0, 1e-2


def _allen_cahn(n: int) -> Case:
    dx = 1 / n

    def f(t: float, u: Array) -> Array:
        w = np.concatenate([u[:1], u, u[-1:]])
        return 1e-3 * (w[2:] - 2 * u + w[:-2]) / dx**2 + u - u**3

    return f, (0.0, 20.0), 0.1 * np.cos(3 * np.pi * (np.arange(n) + 0.5) * dx) + 0.02, 1e-2


def _upwind(n: int) -> Case:
    x = np.arange(n) / n
    y0 = np.exp(-100 * (x - 0.3) ** 2)
    return lambda t, y: n * (np.roll(y, 1) - y), (0.0, 1.0), y0, 1e-2


def _ladder(n: int) -> Case:
    """Resistors and capacitors in a row, driven at one end."""
    J, rates = _second_difference(n), np.logspace(0, 3, n)
    J[-1, -1] = -1.0

    def f(t: float, y: Array) -> Array:
        out = rates * (J @ y)
        out[0] += rates[0] * math.sin(t)
        return out

    return f, (0.0, 20.0), np.zeros(n), 1e-2


HELD_OUT |= {
    "Kaps": (_kaps, (0.0, 5.0), np.ones(2), 1e-2),
    "stiff E3": (_e3, (0.0, 500.0), [1.0, 1.0, 0.0], 1e-2),
    "squid axon": (_squid_axon, (0.0, 50.0), [-65.0, 0.05, 0.6, 0.32], 1e-2),
    "repressilator": (_repressilator, (0.0, 50.0), [0.0, 0, 0, 2, 1, 3], 1e-2),
    "CUSP": _cusp(12),
    "Allen-Cahn": _allen_cahn(50),
    "upwind": _upwind(40),
    "ladder": _ladder(20),
    "pendulum": (lambda t, y: np.array([y[1], -math.sin(y[0])]), (0.0, 30.0), [3.0, 0.0], 1e-2),
    "van der Pol 7": _van_der_pol(7.0, 30.0),
    "van der Pol 500": _van_der_pol(500.0, 1500.0),
    "Prothero 1e4": (
        lambda t, y: -1e4 * (y - math.sin(t)) + math.cos(t), (0.0, 10.0), [0.1], 1e-2,
    ),
}  # fmt: skip

"""Small problems that several test files share, and a right-hand side that counts its calls."""

import functools

import numpy as np

import stiffkit as sk

ADAPTIVE = [name for name, tableau in sk.EXPLICIT.items() if tableau.error_order is not None]
FIXED = [name for name, tableau in sk.EXPLICIT.items() if tableau.error_order is None]


def counted(f):
    """f with the attributes `calls`, and `times`: every t it was asked for."""

    @functools.wraps(f)
    def wrapper(t, y, *args):
        wrapper.calls += 1
        wrapper.times.append(float(t))
        return f(t, y, *args)

    wrapper.calls, wrapper.times = 0, []
    return wrapper


def decay(t, y):
    return -y


def oscillator(t, y):
    """Circular motion: y = (cos t, -sin t) from (1, 0)."""
    return np.array([y[1], -y[0]])


def pendulum(t, y):
    """Nonlinear, autonomous, never stiff: the work horse where no exact solution is needed."""
    return np.array([y[1], -np.sin(y[0])])


def riccati(t, y):
    """y' = 2 t y², y = 1 / (1 + t²) from y(0) = 1 with the sign below; not autonomous."""
    return -2 * t * y**2


def riccati_exact(t):
    return 1 / (1 + np.asarray(t) ** 2)


def lotka_volterra(t, y):
    return np.array([1.5 * y[0] - y[0] * y[1], y[0] * y[1] - 3 * y[1]])


def van_der_pol(t, y):
    return np.array([y[1], (1 - y[0] ** 2) * y[1] - y[0]])


def event(g, terminal=False, direction=0):
    """g with SciPy's event attributes."""

    def bound(t, y):
        return g(t, y)

    bound.terminal, bound.direction = terminal, direction
    return bound


def same_solution(a, b):
    """Assert that two solutions hold identical numbers, and took identical steps."""
    np.testing.assert_array_equal(np.asarray(a.t), np.asarray(b.t))
    np.testing.assert_array_equal(np.asarray(a.y), np.asarray(b.y))
    assert a.status is b.status


def close_solution(a, b):
    """Assert that two solves that differ by rounding alone agree as well as they must.

    While the first steps grow, their error estimates are far below the tolerance and consist of
    rounding: there the ratio, and with it h, may differ in the third digit for high orders. The
    end of the solution then differs by that part of the tolerance (1e-4 here).
    """
    assert len(a.t) == len(b.t)
    np.testing.assert_allclose(np.asarray(b.y[-1]), np.asarray(a.y[-1]), rtol=1e-6, atol=1e-6)

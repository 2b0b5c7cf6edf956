"""Compiled Rosenbrock solves are the interpreted ones: in every count and word, and to rounding."""

import numpy as np
import pytest
from compiled_pair import Interpreted, both, loops

import stiffkit as sk
from stiffkit import Status

# The first solve of a signature compiles its loop.
pytestmark = pytest.mark.timeout(600)

numba = pytest.importorskip("numba")

ROSENBROCK = ("ros23", "rodas4", "rodas5p", "ros34pw2")


@sk.jit
def robertson(t, y):
    a, b, c = 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] * y[1]
    return np.array([b - a, a - b - c, c])


@sk.jit
def robertson_jac(t, y):
    b1, b2, c = 1e4 * y[2], 1e4 * y[1], 6e7 * y[1]
    return np.array([[-0.04, b1, b2], [0.04, -b1 - c, -b2], [0.0, c, 0.0]])


@sk.jit
def hires(t, y):
    k = 280.0 * y[5] * y[7]
    return np.array(
        [
            -1.71 * y[0] + 0.43 * y[1] + 8.32 * y[2] + 0.0007,
            1.71 * y[0] - 8.75 * y[1],
            -10.03 * y[2] + 0.43 * y[3] + 0.035 * y[4],
            8.32 * y[1] + 1.71 * y[2] - 1.12 * y[3],
            -1.745 * y[4] + 0.43 * y[5] + 0.43 * y[6],
            -k + 0.69 * y[3] + 1.71 * y[4] - 0.43 * y[5] + 0.69 * y[6],
            k - 1.81 * y[6],
            -k + 1.81 * y[6],
        ]
    )


@sk.jit
def driven(t, y):
    """Stiff, and moved by t: y_0 follows cos t at the rate 2000."""
    return np.array([-2000.0 * (y[0] - np.cos(t)), y[0] - y[1]])


@sk.jit
def nan_late(t, y):
    return y * np.nan if t > 0.5 else -50.0 * y


PROBLEMS = [
    (robertson, (0.0, 1e6), [1.0, 0.0, 0.0], 1e-8),
    (hires, (0.0, 321.8122), [1.0, 0, 0, 0, 0, 0, 0, 0.0057], 1e-6),
    (driven, (0.0, 3.0), [0.5, 1.0], 1e-5),
    (driven, (3.0, 2.999), [-0.99, 1.0], 1e-5),
]


def dense(ours, theirs, options, span):
    """Return both solutions at some times, where they are functions of time."""
    times = np.linspace(*span, 5)
    return [(ours(times), theirs(times))] if "dense" in options else []


@pytest.mark.parametrize("method", ROSENBROCK)
@pytest.mark.parametrize(("f", "span", "y0", "atol"), PROBLEMS)
def test_counts_are_equal_and_states_to_rounding(f, span, y0, atol, method, monkeypatch):
    taken = loops(monkeypatch)
    t_eval = np.linspace(*span, 7)[1:-1]
    rtol = 1e-3 if method in ("ros23", "ros34pw2") else 1e-5
    tolerances = {"rtol": rtol, "atol": rtol * atol * 1e2}
    for options in ({}, {"dense": True, "t_eval": t_eval}):
        ours, theirs = both(f, span, y0, method, log=True, **tolerances, **options)
        assert ours.status is Status.success
        # J's quotients, and estimates of rounding's size, move the steps: by less than it matters.
        states = slice(None) if options else slice(-1, None)  # at the same times
        for mine, yours in (
            (ours.y[states], theirs.y[states]),
            *dense(ours, theirs, options, span),
        ):
            scale = tolerances["atol"] + rtol * np.abs(yours)
            assert (np.abs(mine - yours) / scale).max() < 1
    assert len(taken) == 2


@pytest.mark.parametrize("method", ROSENBROCK)
def test_equal_steps_give_equal_states_to_rounding(method):
    """With steps that accuracy does not set, states differ by what differences of J leave."""
    steps = {"first_step": 1e-2, "max_step": 1e-2, "rtol": 0.5, "atol": 0.5}
    ours, theirs = both(driven, (0.0, 0.5), [0.5, 1.0], method, log=True, **steps)
    np.testing.assert_array_equal(ours.t, theirs.t)
    # J's quotients have an error of 1e-8 at most, and rounding moves them by a part of that; it
    # enters a step with its local error only.
    np.testing.assert_allclose(ours.y, theirs.y, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", ["ros23", "rodas5p"])
def test_given_jacobians(method, monkeypatch):
    taken = loops(monkeypatch)
    options = {"rtol": 1e-4, "atol": 1e-8, "log": True}
    ours = sk.solve(robertson, (0.0, 1e4), [1.0, 0, 0], method, jac=robertson_jac, **options)
    theirs = sk.solve(
        Interpreted(robertson), (0.0, 1e4), [1.0, 0, 0], method, jac=robertson_jac, **options
    )
    assert ours.stats == theirs.stats
    assert ours.stats["njev"] == ours.stats["accepted"]
    np.testing.assert_allclose(ours.y, theirs.y, rtol=1e-6, atol=1e-12)
    constant = np.array([[-2000.0, 0.0], [1.0, -1.0]])
    both(driven, (0.0, 1.0), [0.0, 1.0], method, jac=constant, **options)
    assert len(taken) == 2


def test_a_wrong_jacobian_is_told():
    @sk.jit
    def infinite(t, y):
        return np.full((3, 3), np.inf)

    @sk.jit
    def small(t, y):
        return np.ones((2, 2))

    for jac, match in ((infinite, "not finite at the start"), (small, r"shape \(2, 2\)")):
        with pytest.raises(ValueError, match=match):
            sk.solve(robertson, (0.0, 1.0), [1.0, 0, 0], "rodas4", jac=jac)


def test_complex_states_and_states_of_two_axes():
    @sk.jit
    def turn(t, y):
        return -100.0j * (y - np.exp(1j * t))

    y0 = np.array([[1.0 + 0j, 0.5], [0.0, 1j]])
    ours, theirs = both(turn, (0.0, 1.0), y0, "rodas4", rtol=1e-4, atol=1e-6, dense=True)
    times = np.linspace(0.0, 1.0, 9)
    np.testing.assert_allclose(ours(times), theirs(times), rtol=1e-4, atol=1e-6)
    steps = {"first_step": 2e-3, "max_step": 2e-3, "rtol": 0.5, "atol": 0.5}
    ours, theirs = both(turn, (0.0, 0.1), y0, "rodas4", **steps)
    np.testing.assert_allclose(ours.y, theirs.y, rtol=0, atol=1e-8)  # what differences of J leave


@pytest.mark.parametrize("method", ["ros23", "rodas5p"])
def test_ends_are_the_same(method):
    ours, _ = both(nan_late, (0.0, 2.0), [1.0, 2.0], method, log=True)
    assert ours.status is Status.non_finite
    assert np.isfinite(ours.y).all()
    short, _ = both(robertson, (0.0, 1e6), [1.0, 0, 0], method, max_steps=5, log=True, dense=True)
    assert short.status is Status.max_steps


def test_singular_matrices_end_as_they_do_in_the_interpreted_loop():
    """I − hγJ is never regular where J is huge and not finite."""

    @sk.jit
    def explosive(t, y):
        return np.array([1e308 * (1.0 + y[0]) ** 3])

    ours, theirs = (
        sk.solve(f, (0.0, 1.0), [1e-3], "rodas4", first_step=0.1)
        for f in (explosive, Interpreted(explosive))
    )
    assert ours.status is theirs.status
    assert ours.stats == theirs.stats
    assert ours.message == theirs.message


def test_large_systems_are_left_to_lapack(monkeypatch):
    taken = loops(monkeypatch)

    @sk.jit
    def decay(t, y):
        return -y

    for n in (128, 129):
        assert sk.solve(decay, (0.0, 1e-3), np.ones(n), "ros23").success
    assert len(taken) == 1

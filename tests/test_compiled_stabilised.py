"""Compiled stabilised solves are the interpreted ones: in every count, and to rounding."""

import numpy as np
import pytest
from compiled_pair import Interpreted, both, loops

import stiffkit as sk
from stiffkit import Status
from stiffkit.solvers.stabilised import STABILISED

# The first solve of a signature compiles its loop.
pytestmark = pytest.mark.timeout(600)

numba = pytest.importorskip("numba")


@sk.jit
def heat(t, y):
    """u_t = u_xx + e^(−t) u² between zeros."""
    n, slope = len(y), np.empty_like(y)
    for i in range(n):
        left = y[i - 1] if i > 0 else 0.0
        right = y[i + 1] if i < n - 1 else 0.0
        slope[i] = (n + 1.0) ** 2 * (left - 2 * y[i] + right) + np.exp(-t) * y[i] ** 2
    return slope


@sk.jit
def gershgorin(t, y):
    return 4.0 * (len(y) + 1.0) ** 2


@sk.jit
def decay(t, y):
    return -y


@sk.jit
def jumping(t, y):
    """A radius that no stage count bears at the steps of before."""
    return 1.0 if t < 0.5 else 1e6


@sk.jit
def nan_late(t, y):
    return y * np.nan if t > 0.05 else -1000.0 * y


def start(n):
    x = np.arange(1, n + 1) / (n + 1)
    return np.sin(np.pi * x) + 0.3 * np.sin(7 * np.pi * x)


@pytest.mark.parametrize("method", STABILISED)
@pytest.mark.parametrize("options", [{}, {"dense": True}, {"t_eval": [0.01, 0.1, 0.2]}])
def test_counts_are_equal_and_states_to_rounding(method, options, monkeypatch):
    taken = loops(monkeypatch)
    tolerances = {"rtol": 1e-4, "atol": 1e-6}
    for given in ({}, {"radius": 4.0 * 31**2}, {"radius": gershgorin}):
        ours, theirs = both(
            heat, (0.0, 0.2), start(30), method, log=True, **tolerances, **given, **options
        )
        assert ours.status is Status.success
        # ROCK4's last stages amplify rounding by 0.01 (hρ)⁴, which moves its steps.
        loose = 0.1 if method == "rock4" else 1e-6
        np.testing.assert_allclose(ours.log["h"], theirs.log["h"], rtol=loose)
        last = slice(None) if "t_eval" in options else slice(-1, None)
        scale = tolerances["atol"] + tolerances["rtol"] * np.abs(theirs.y[last])
        assert (np.abs(ours.y[last] - theirs.y[last]) / scale).max() < loose
        if "dense" in options:
            times = np.linspace(0, 0.2, 9)
            assert (np.abs(ours(times) - theirs(times)) / tolerances["atol"]).max() < 100 * loose
    assert len(taken) == 3


def test_of_many_stages(monkeypatch):
    """Counts up to 200 come up, each learnt when it does."""
    taken = loops(monkeypatch)
    seen = set()
    for rho in np.geomspace(1.0, 2.5e4, 12):
        options = {"first_step": 1.0, "max_step": 1.0, "rtol": 0.5, "atol": 0.5}
        for method in ("rkc2", "rock2"):
            ours, theirs = both(decay, (0.0, 3.0), [1.0, 0.5], method, radius=rho, **options)
            np.testing.assert_allclose(ours.y, theirs.y, rtol=1e-9)
            seen.add(ours.stats["nfev"])
    assert len(taken) == 24
    assert len(seen) > 20


@pytest.mark.parametrize("method", ["rkc2", "rock4"])
def test_steps_that_are_too_long_are_refused(method):
    options = {"radius": jumping, "log": True, "max_step": 0.2, "rtol": 1e-2, "atol": 1e-2}
    ours, theirs = both(decay, (0.0, 0.7), [1.0, 0.5], method, **options)
    assert ours.success
    assert "stability" in ours.log["limit"]
    np.testing.assert_allclose(ours.y, theirs.y, rtol=1e-9)
    lost, _ = both(decay, (0.0, 0.7), [1.0, 0.5], method, max_steps=5, **options)
    assert lost.status is Status.max_steps


def test_ends_are_the_same():
    ours, _ = both(nan_late, (0.0, 1.0), [1.0, 2.0], "rkc2", log=True)
    assert ours.status is Status.non_finite
    short, _ = both(heat, (0.0, 1.0), start(30), "rock2", max_steps=5, log=True)
    assert short.status is Status.max_steps


def test_a_radius_that_is_none():
    @sk.jit
    def negative(t, y):
        return -1.0

    @sk.jit
    def lost(t, y):
        return np.nan

    for f in (heat, Interpreted(heat)):
        with pytest.raises(ValueError, match=r"radius was estimated as -1\.0 at t = 0\.0"):
            sk.solve(f, (0.0, 1.0), start(3), "rkc2", radius=negative)
    ours, _ = both(heat, (0.0, 1.0), start(3), "rkc2", radius=lost)
    assert "spectral radius is not finite" in ours.message


def test_a_radius_that_python_computes_is_left_to_python(monkeypatch):
    taken = loops(monkeypatch)
    ours, theirs = both(heat, (0.0, 0.1), start(9), "rkl2", radius=lambda t, y: 400.0)
    np.testing.assert_array_equal(ours.y, theirs.y)
    assert not taken


def test_pauses_change_nothing(monkeypatch):
    from compiled_pair import stretches

    options = {"log": True, "dense": True, "t_eval": np.linspace(0, 0.2, 7)}
    whole = sk.solve(heat, (0.0, 0.2), start(30), "rkc2", **options)
    monkeypatch.setattr(stretches, "_FIRST_ROOM", 1)
    monkeypatch.setattr(stretches, "_MOST_ROOM", 3)
    parts = sk.solve(heat, (0.0, 0.2), start(30), "rkc2", **options)
    np.testing.assert_array_equal(whole.y, parts.y)
    np.testing.assert_array_equal(whole.log["h"], parts.log["h"])
    assert whole.stats == parts.stats


def test_states_that_are_long_stay_compiled(monkeypatch):
    taken = loops(monkeypatch)
    both(heat, (0.0, 1e-4), start(1500), "rkc2", rtol=1e-3)
    assert taken

"""``method="auto"`` around a compiled f: stretches of compiled families, by the one choice."""

import math

import numpy as np
import pytest
from compiled_pair import loops, rounded

import stiffkit as sk
from stiffkit import Status
from stiffkit.solvers.costs import Costs


@sk.jit
def robertson(t, y):
    slow, fast = 0.04 * y[0] - 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return np.array([-slow, slow - fast, fast])


@sk.jit
def van_der_pol(t, y, mu):
    return np.array([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


@sk.jit
def at_one(t, y, mu):
    return y[0] - 1.0


@sk.jit
def lotka_volterra(t, y):
    return np.array([1.5 * y[0] - y[0] * y[1], y[0] * y[1] - 3 * y[1]])


@sk.jit
def diffusion(t, y):
    out, c = np.empty_like(y), (len(y) + 1.0) ** 2
    for i in range(len(y)):
        left, right = y[i - 1] if i > 0 else 0.0, y[i + 1] if i < len(y) - 1 else 0.0
        out[i] = c * (left - 2 * y[i] + right)
    return out


@sk.jit
def follows(t, y):
    return -100 * (y - math.cos(t)) - math.sin(t)


@sk.jit
def spirals(t, y):
    return np.array([(-1000 + 20j) * (y[0] - np.cos(t)), 1j * y[1]])


HUMP = np.sin(np.pi * np.arange(1, 41) / 41) + 0.1
CASES = {
    "not stiff": (lotka_volterra, (0.0, 20.0), [1.0, 1.0], {"rtol": 1e-8}),
    "Robertson": (robertson, (0.0, 1e5), [1.0, 0.0, 0.0], {"rtol": 1e-5, "atol": 1e-9}),
    "to and fro": (van_der_pol, (0.0, 250.0), [2.0, 0.0], {"rtol": 1e-5, "args": (100.0,)}),
    "trials": (van_der_pol, (0.0, 40.0), [2.0, 0.0], {"rtol": 1e-3, "args": (5.0,)}),
    "below the limit": (follows, (0.0, 10.0), [1.5], {"rtol": 1e-7, "atol": 1e-7}),
    "diffusion": (diffusion, (0.0, 0.1), HUMP, {"rtol": 1e-4, "atol": 1e-6}),
    "a band": (diffusion, (0.0, 0.1), HUMP, {"rtol": 1e-7, "atol": 1e-7, "bandwidth": (1, 1)}),
    "complex": (spirals, (0.0, 10.0), [1 + 1j, 1j], {"rtol": 1e-5, "atol": 1e-5}),
    "backward": (follows, (0.0, -0.05), [1.5], {"rtol": 1e-6}),
}


def both(f, span, y0, **options):
    """Solve by the compiled loop, and by the interpreted one, which a callback asks for."""
    ours = sk.solve(f, span, y0, **options)
    theirs = sk.solve(f, span, y0, callback=lambda step: False, **options)
    assert ours.status is theirs.status
    assert ours.stats == theirs.stats
    assert ours.t.shape == theirs.t.shape
    assert rounded(ours.message) == rounded(theirs.message)
    assert [(s.source, s.target) for s in ours.switches] == [
        (s.source, s.target) for s in theirs.switches
    ]
    assert [found.verdict for found in ours.stiffness] == [
        found.verdict for found in theirs.stiffness
    ]
    return ours, theirs


@pytest.mark.parametrize("name", CASES)
def test_the_steps_and_switches_of_the_interpreted_loop(name, monkeypatch):
    f, span, y0, options = CASES[name]
    taken = loops(monkeypatch)
    ours, theirs = both(f, span, y0, log=True, dense=True, **options)
    assert len(taken) == 1 + len(ours.switches)
    assert bool(ours.switches) == (name not in ("not stiff", "backward"))
    # The error control amplifies rounding where stability limits the steps.
    np.testing.assert_allclose(ours.t, theirs.t, rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(ours.y[-1], theirs.y[-1], rtol=1e-2, atol=1e-4)
    for key in ("limit", "accepted"):
        np.testing.assert_array_equal(ours.log[key], theirs.log[key])
    np.testing.assert_array_equal(ours(ours.t), ours.y)
    inside = np.linspace(*span, 57)
    scale = np.abs(theirs.y).max()
    assert np.abs(ours(inside) - theirs(inside)).max() < 2e-2 * scale


def test_times_that_are_asked_for_across_switches(monkeypatch):
    taken = loops(monkeypatch)
    t = np.linspace(0.0, 250.0, 301)
    options = {"rtol": 1e-6, "args": (100.0,), "t_eval": t}
    ours, theirs = both(van_der_pol, (0.0, 250.0), [2.0, 0.0], **options)
    assert len(taken) > 3
    np.testing.assert_array_equal(ours.t, t)
    slow = np.abs(theirs.y[:, 1]) < 1
    np.testing.assert_allclose(ours.y[slow, 0], theirs.y[slow, 0], atol=1e-2)


@pytest.mark.parametrize("terminal", [False, 3])
def test_events_across_switches(terminal, monkeypatch):
    taken = loops(monkeypatch)
    at_one.terminal = terminal
    ours, theirs = both(
        van_der_pol, (0.0, 300.0), [2.0, 0.0], rtol=1e-5, args=(60.0,), events=at_one
    )
    assert len(taken) > 1
    assert len(ours.events[0].t) == len(theirs.events[0].t) > 2
    np.testing.assert_allclose(ours.events[0].t, theirs.events[0].t, rtol=1e-3)
    assert ours.status is (Status.event if terminal else Status.success)


def test_a_failing_run_keeps_its_steps():
    ours, theirs = both(robertson, (0.0, 1e8), [1.0, 0.0, 0.0], rtol=1e-5, max_steps=40)
    assert ours.status is Status.max_steps
    assert len(ours.switches) == 1
    np.testing.assert_allclose(ours.y, theirs.y, rtol=1e-6, atol=1e-10)


def test_what_is_not_compiled_is_interpreted(monkeypatch):
    taken = loops(monkeypatch)
    M = np.eye(3)
    options = [{"mass": M}, {"jac_sparsity": np.ones((3, 3))}, {"norm": lambda x: abs(x).max()}]
    options += [{"jac": lambda t, y: np.zeros((3, 3))}, {"jvp": lambda t, y, v: 0 * v}]
    for more in options:
        sk.solve(robertson, (0.0, 1.0), [1.0, 0.0, 0.0], rtol=1e-3, **more)
    assert taken == []


def test_one_kernel_serves_methods_of_one_family():
    """Its arrays have one layout: of another one they would be misread."""
    for method in ("radau9", "radau5", "radau9"):
        options = {"method": method, "rtol": 1e-5, "atol": 1e-5}
        both(spirals, (0.0, 1.0), [1 + 1j, 1j], **options)


def test_explicit_stretches_are_timed_from_the_first_to_the_last_call(monkeypatch):
    seen = []
    monkeypatch.setattr(Costs, "stretch", lambda _, time, calls, **kw: seen.append((time, calls)))

    solution = sk.solve(lotka_volterra, (0.0, 3.0), [10.0, 5.0], rtol=1e-4, atol=1e-6)
    assert solution.switches == ()
    assert all(time > 0 for time, _ in seen)
    # All but f(t0, y0), which is called to check it.
    assert sum(calls for _, calls in seen) == solution.stats["nfev"] - 1

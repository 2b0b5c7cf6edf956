"""method="auto": right answers at about the best family's cost, and the switches told."""

import math

import numpy as np
import pytest
import scipy.sparse as sps
from hypothesis import given
from hypothesis import strategies as st
from stiff_problems import STIFF

import stiffkit as sk
from stiffkit import Status
from stiffkit.solvers.switch import Switcher


@pytest.mark.parametrize("name", STIFF)
@pytest.mark.parametrize("rtol", [1e-3, 1e-5, 1e-7])
def test_the_stiff_set_at_little_more_than_the_best_members_cost(name, rtol):
    p = STIFF[name]
    options = {"rtol": rtol, "atol": np.asarray(p.atol) * rtol}
    runs = {
        method: sk.solve(p.f, (p.t_span[0], p.t_end), p.y0, method, **options)
        for method in ("auto", "rodas5p", "radau5")
    }
    solution = runs["auto"]
    assert solution.status is Status.success
    digits = -np.log10(np.abs(solution.y[-1] / np.asarray(p.y_end) - 1).max())
    assert digits >= -math.log10(rtol) - 1.5
    calls = {name: run.stats["nfev"] for name, run in runs.items()}
    assert calls["auto"] <= 3.0 * min(calls.values())  # never much worse than the best of all
    assert solution.switches
    assert all(switch.why for switch in solution.switches)


def test_robertson_to_the_end_of_time():
    p = STIFF["ROBER"]
    solution = sk.solve(p.f, (0.0, 1e11), p.y0, rtol=1e-6, atol=1e-14)
    expected = np.array([0.2083340149701255e-07, 0.8333360770334713e-13, 0.9999999791665050])
    assert np.abs(solution.y[-1] / expected - 1).max() < 1e-4
    assert [switch.target for switch in solution.switches] == ["radau9"]
    assert solution.stats["nfev"] < 6000


@pytest.mark.parametrize("rtol", [1e-7, 1e-9])
def test_fast_modes_that_cost_accuracy_below_the_stability_limit_are_left_to_radau9(rtol):
    def f(t, y):
        return -100 * (y - math.cos(t)) - math.sin(t)

    runs = {
        method: sk.solve(f, (0.0, 10.0), [1.5], method, rtol=rtol, atol=rtol)
        for method in ("auto", "vern7", "radau9")
    }
    # The steps are far from the limit, so that no verdict of stiffness is reached; a trial is made.
    assert all(found.stability_ratio < 0.55 for found in runs["auto"].stiffness)
    assert [switch.target for switch in runs["auto"].switches] == ["radau9"]
    assert "tried" in runs["auto"].switches[0].why  # and its steps were the first to be kept
    calls = {method: run.stats["nfev"] for method, run in runs.items()}
    assert calls["auto"] < 0.5 * calls["vern7"]
    assert abs(runs["auto"].y[-1, 0] - math.cos(10.0)) < 10 * rtol


def test_what_factorisations_weigh_depends_on_what_a_call_of_f_costs():
    from stiffkit.solvers.problem import make_problem

    def algebra(n, *, compiled):
        problem = make_problem(lambda t, y: -y, (0.0, 1.0), np.ones(n), (), 1e-6, 1e-9)
        return Switcher(problem, lambda *_: None, {}, compiled=compiled).costs.algebra()

    assert algebra(3, compiled=False) < 0.1
    assert algebra(100, compiled=False) > 10 * algebra(10, compiled=False)
    assert algebra(30, compiled=True) > 10 * algebra(30, compiled=False)


def test_a_trial_that_fails_goes_back_and_its_steps_are_kept():
    # Stiff for a few steps only: what the proof promises does not last.
    def f(t, y):
        return np.array([y[1], 5 * (1 - y[0] ** 2) * y[1] - y[0]])

    solution = sk.solve(f, (0.0, 60.0), [2.0, 0.0], rtol=1e-3, atol=1e-5, log=True, dense=True)
    ways = [(switch.target, "trial cost" in switch.why) for switch in solution.switches]
    assert ("tsit5", True) in ways
    assert solution.stats["accepted"] == len(solution.t) - 1
    plain = sk.solve(f, (0.0, 60.0), [2.0, 0.0], "tsit5", rtol=1e-3, atol=1e-5)
    assert solution.stats["nfev"] < 1.5 * plain.stats["nfev"]
    tight = sk.solve(f, (0.0, 60.0), [2.0, 0.0], "vern7", rtol=1e-10, atol=1e-12, t_eval=[7.0])
    assert np.abs(solution(7.0) - tight.y[0]).max() < 0.1


def test_trials_are_counted():
    calls = 0

    def f(t, y):
        nonlocal calls
        calls += 1
        return -100 * (y - math.cos(t)) - math.sin(t)

    solution = sk.solve(f, (0.0, 10.0), [1.5], rtol=1e-8, atol=1e-8)
    assert solution.stats["nfev"] == calls


@pytest.mark.parametrize(
    ("mu", "rtol"), [(50, 1e-3), (100, 1e-5), (200, 1e-3), (500, 1e-3), (1000, 1e-3)]
)
def test_what_turns_stiff_and_back_is_cheaper_than_by_any_member(mu, rtol):
    def f(t, y):
        return np.array([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])

    def calls(method, max_steps=10**6):
        options = {"rtol": rtol, "atol": rtol / 100, "max_steps": max_steps}
        run = sk.solve(f, (0.0, 4.0 * mu), [2.0, 0.0], method, **options)
        return run.stats["nfev"], run.success

    ours, done = calls("auto")
    assert done
    for method in ("tsit5", "rodas5p", "radau5", "radau9", "kencarp4"):
        spent, _ = calls(method, max_steps=ours)  # at least a call for each attempt
        assert ours < spent


@pytest.mark.parametrize("rtol", [1e-3, 1e-4])
def test_stays_that_pay_may_come_as_often_as_they_like(rtol):
    def f(t, y):
        return np.array([y[1], 100 * (1 - y[0] ** 2) * y[1] - y[0]])

    runs = {
        method: sk.solve(f, (0.0, 1000.0), [2.0, 0.0], method, rtol=rtol, atol=rtol / 100)
        for method in ("auto", "rodas5p", "radau5")  # the explicit ones take ten times as much
    }
    calls = {method: run.stats["nfev"] for method, run in runs.items()}
    assert calls["auto"] == min(calls.values())
    jumps = np.count_nonzero(np.diff(np.sign(runs["radau5"].y[:, 0])))
    assert len(runs["auto"].switches) >= 2 * jumps


def test_who_comes_back_soon_is_looked_at_later_each_time():
    def f(t, y):  # stiffer and less stiff thirty times, and never by much
        return np.array([-10 * (1 + math.sin(math.pi * t)) * (y[0] - math.cos(t)), y[0] - y[1]])

    solution = sk.solve(f, (0.0, 60.0), [1.0, 0.0], rtol=1e-4, atol=1e-6)
    assert solution.success
    assert 2 < len(solution.switches) < 30


@pytest.mark.parametrize("method", ["tsit5", "vern7"])
def test_a_problem_that_is_not_stiff_is_solved_by_the_explicit_member_alone(method):
    def f(t, y):
        return np.array([y[1], -y[0]])

    rtol = 1e-4 if method == "tsit5" else 1e-9
    ours = sk.solve(f, (0.0, 100.0), [1.0, 0.0], rtol=rtol, atol=rtol)
    plain = sk.solve(f, (0.0, 100.0), [1.0, 0.0], method, rtol=rtol, atol=rtol)
    assert ours.switches == ()
    np.testing.assert_array_equal(ours.y, plain.y)
    assert ours.stats == plain.stats


@pytest.mark.parametrize("batched", [False, True])
def test_no_family_is_credited_with_a_step_that_max_step_forbids(batched):
    def f(t, y):
        t = t[:, None] if batched else t
        return -1000 * (y - np.cos(t)) - np.sin(t)

    y0 = np.full((2, 1), 2.0) if batched else np.array([2.0])
    runs = [
        sk.solve(f, (0.0, 3.0), y0, rtol=1e-4, atol=1e-4, batched=batched, max_step=max_step)
        for max_step in (np.inf, 0.004)
    ]
    free, bound = (run.switches[0] if batched else run.switches for run in runs)
    # Explicit steps are of 0.003, and an implicit one of 0.004 costs twice as much.
    assert free
    assert not bound


@pytest.mark.parametrize("n", [50, 400])
def test_diffusion_goes_to_the_stabilised_member(n):
    c = (n + 1.0) ** 2

    def f(t, y):
        wide = np.concatenate([[0.0], y, [0.0]])
        return c * (wide[:-2] - 2 * y + wide[2:])

    y0 = np.sin(np.pi * np.arange(1, n + 1) / (n + 1)) + 0.1
    solution = sk.solve(f, (0.0, 0.1), y0, rtol=1e-4, atol=1e-6)
    tight = sk.solve(f, (0.0, 0.1), y0, "radau5", rtol=1e-8, atol=1e-10, bandwidth=(1, 1))
    assert [switch.target for switch in solution.switches] == ["rkc2"]
    np.testing.assert_allclose(solution.y[-1], tight.y[-1], rtol=0, atol=3e-4)
    assert solution.stats["nfev"] < 0.1 * 0.1 * 4 * c / 3.5 * 6 + 500


def test_a_stiff_tensor_has_the_stabilised_member():
    torch = pytest.importorskip("torch")
    rates = torch.linspace(-2000.0, -1.0, 64, dtype=torch.float64)
    double = torch.ones(64, dtype=torch.float64)
    solution = sk.solve(lambda t, y: rates * (y - torch.cos(t)), (0.0, 3.0), double, rtol=1e-4)
    assert {switch.target for switch in solution.switches} <= {"rkc2", "tsit5"}
    assert solution.switches
    assert abs(float(solution.y[-1, 0]) - math.cos(3.0)) < 1e-2


@given(st.floats(1, 7), st.sampled_from([1e-3, 1e-6, 1e-8]))
def test_every_call_is_counted_and_interpolants_join_across_switches(power, rtol):
    lam, calls = -(10.0**power), 0

    def f(t, y):
        nonlocal calls
        calls += 1
        return lam * (y - math.cos(t)) - math.sin(t)

    solution = sk.solve(f, (0.0, 3.0), [2.0], rtol=rtol, atol=rtol, dense=True)
    assert solution.status is Status.success
    assert solution.stats["nfev"] == calls
    exact = np.cos(solution.t) + np.exp(lam * solution.t)
    assert np.abs(solution.y[:, 0] - exact).max() < 200 * rtol
    np.testing.assert_array_equal(solution(solution.t), solution.y)
    # Between the steps the error is not controlled: a stiffly accurate method's are as long as
    # those at their ends allow, and its interpolant is of lower order in a stiff component.
    bounded = sk.solve(f, (0.0, 3.0), [2.0], rtol=rtol, atol=rtol, dense=True, max_step=0.02)
    t = np.linspace(0.1, 3.0, 101)
    assert np.abs(bounded(t)[:, 0] - np.cos(t) - np.exp(lam * t)).max() < 200 * rtol + 1e-6


def test_a_grid_or_a_guide_stays_with_the_explicit_method():
    solution = sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0], grid=10)
    plain = sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0], "tsit5", grid=10)
    np.testing.assert_array_equal(solution.y, plain.y)


@pytest.mark.parametrize("batched", [False, True])
def test_the_evidence_is_finite_where_the_path_is_straight(batched):
    """Of a line the error estimate sees nothing: accuracy sets no bound that it could tell."""

    def f(t, y):
        return 2 - 1000 * (y - 2 * t)

    y0 = np.zeros((2, 1)) if batched else np.zeros(1)
    f_batch = (lambda t, y: f(t[:, None], y)) if batched else f
    solution = sk.solve(f_batch, (0.0, 100.0), y0, batched=batched)
    switch = (solution.switches[0] if batched else solution.switches)[0]
    assert "inf" not in switch.why
    assert " or more instead of " in switch.why


def test_a_large_stiff_system_is_told_that_its_jacobian_must_be_sparse():
    """Pairs of fast oscillators, strongly damped: neither explicit nor stabilised steps fit."""
    m = 700
    rate = np.linspace(100.0, 1000.0, m)

    def f(t, y):
        a, b = y[:m] - math.sin(t), y[m:] - math.sin(t)
        return np.concatenate([rate * (b - a), -rate * (a + b)])

    def solve(**options):
        return sk.solve(f, (0.0, 2.0), np.zeros(2 * m), rtol=1e-5, atol=1e-5, **options)

    plain = solve()
    assert not plain.switches
    assert "limited by stability" in plain.message
    assert "give jac_sparsity, bandwidth or jvp" in plain.message
    assert solve(detect=False).message == "reached the end of the time span"
    sparse = solve(jac_sparsity=sps.kron(np.ones((2, 2)), sps.eye_array(m)))
    assert sparse.switches
    assert sparse.message == "reached the end of the time span"
    assert sparse.stats["nfev"] < 0.2 * plain.stats["nfev"]

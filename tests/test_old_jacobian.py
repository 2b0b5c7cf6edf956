"""A W-method keeps its Jacobian while that serves: fewer calls, the same digits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stiff_problems import STIFF

import stiffkit as sk
from stiffkit.solvers.stiff_step import KEPT, LONGER, serves


@given(st.integers(0, 2 * KEPT), st.booleans(), st.floats(1e-9, 1e9), st.floats(-3, 3))
def test_a_jacobian_serves_young_and_for_steps_not_much_longer_that_were_not_refused(
    age, retry, h_known, power
):
    for h in (h_known * 10**power, -h_known * 10**power):
        assert serves(age, retry, h, h_known) == (
            not retry and age < KEPT and abs(h) <= LONGER * h_known
        )


@pytest.mark.parametrize("name", ["ROBER", "HIRES", "VDPOL"])
@pytest.mark.parametrize("rtol", [1e-4, 1e-6])
def test_it_takes_fewer_calls_than_with_one_in_every_step_and_has_the_digits(name, rtol):
    p = STIFF[name]
    options = {"rtol": rtol, "atol": np.asarray(p.atol) * rtol}
    solution = sk.solve(p.f, (p.t_span[0], p.t_end), p.y0, "ros34pw2", **options)
    stats, stages = solution.stats, 4
    attempts = stats["accepted"] + stats["rejected"]
    assert stats["njev"] < 0.5 * stats["accepted"]
    assert stats["nlu"] < attempts
    # One in every step would take n + 1 calls, ∂f/∂t's one of them, besides the stages'.
    assert stats["nfev"] < stages * attempts + 0.6 * (len(p.y0) + 1) * stats["accepted"]
    digits = -np.log10(np.abs(solution.y[-1] / np.asarray(p.y_end) - 1).max())
    assert digits >= -np.log10(rtol) - 1.5


def test_a_refused_step_gets_a_new_one():
    made, log = [], []

    def f(t, y):
        return -1e3 * (y - np.cos(40 * t) ** 5)

    def jac(t, y):
        made.append(t)
        return np.array([[-1e3]])

    def note(t, y, h, accepted):
        log.append((t, accepted, len(made)))

    sk.solve(f, (0.0, 2.0), [1.0], "ros34pw2", rtol=1e-3, atol=1e-6, jac=jac, on_attempt=note)
    refused = [(t, count) for t, accepted, count in log if accepted is False]
    assert refused
    for t, _ in refused:
        assert t in made  # at the start of the step, at the latest for its second attempt
    assert len(made) < sum(accepted is True for _, accepted, _ in log)


def test_the_steps_of_a_grid_have_one_each():
    solution = sk.solve(lambda t, y: -50 * y**3, (0.0, 1.0), [1.0], "ros34pw2", grid=30)
    assert solution.stats["njev"] == 30

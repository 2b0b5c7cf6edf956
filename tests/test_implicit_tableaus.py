"""Implicit, additive and Rosenbrock tableaus: orders sharp on both sides, stability, transforms."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stiffkit as sk
from stiffkit import ButcherTableau
from stiffkit.solvers import implicit, radau, rosenbrock, trees
from stiffkit.solvers.implicit import AdditiveTableau
from stiffkit.solvers.radau import radau_transformation
from stiffkit.solvers.rosenbrock import RosenbrockTableau


def found(kind, *modules):
    values = [v for module in modules for v in vars(module).values() if isinstance(v, kind)]
    return pytest.mark.parametrize("tab", values, ids=[v.name for v in values])


def worst(residuals):
    return max(map(abs, residuals.values()))


every_implicit = found(ButcherTableau, implicit, radau)
every_additive = found(AdditiveTableau, implicit)
every_rosenbrock = found(RosenbrockTableau, rosenbrock)


def assert_sharp(conditions, order):
    assert max(worst(conditions(p)) for p in range(1, order + 1)) < 1e-13
    assert worst(conditions(order + 1)) > 1e-6


@every_implicit
def test_orders_are_sharp(tab):
    assert_sharp(tab.order_conditions, tab.order)
    if tab.b_hat is not None:
        assert_sharp(lambda p: tab.order_conditions(p, "b_hat"), tab.order_hat)


@every_implicit
def test_stage_order_and_stability(tab):
    assert tab.stiffly_accurate
    assert tab.stage_order == (tab.n_stages if tab.name in radau.RADAU else 2)
    assert np.abs(tab.R(1j * np.logspace(-3, 6, 4001))).max() <= 1 + 1e-12
    eigenvalues = np.linalg.eigvals(tab.A)  # poles are their inverses
    assert (eigenvalues[np.abs(eigenvalues) > 1e-12].real > 0).all()
    assert abs(tab.R(-1e9)) < 1e-6


@found(ButcherTableau, implicit)
def test_estimates_without_a_filter_vanish_with_the_error_or_have_no_error_stage(tab):
    z, vanishes = -1e6, []
    for k in range(3, 7):  # φ = t^k / k!, with y right at the start
        slope = tab.c ** (k - 1) / math.factorial(k - 1)
        defect = tab.c**k / math.factorial(k) - tab.A @ slope
        stages = slope - z * np.linalg.solve(np.eye(len(slope)) - z * tab.A, defect)
        vanishes.append(abs(tab.e @ stages) < 1 / abs(z))
    assert all(vanishes) == (tab.error_stage is not None)


def test_error_stage():
    found = {name: tab.error_stage for name, tab in vars(implicit).items() if "kvaerno" in name}
    assert found == {"kvaerno3": 2, "kvaerno4": 3, "kvaerno5": 5}
    tab = implicit.kvaerno3
    assert np.array_equal(tab.A[tab.error_stage], tab.b_hat)
    assert radau.radau5.error_stage is None  # without an embedded row
    # Where y_new is no stage the difference is of no use.
    weights = {"order": 2, "b": tab.b_hat.tolist(), "order_hat": 3, "b_hat": tab.b.tolist()}
    swapped = ButcherTableau("swapped", c=tab.c.tolist(), A=tab.A.tolist(), **weights)
    assert swapped.error_stage is None


@every_additive
def test_coupling_conditions(tab):
    matrices = tab.implicit.A, tab.explicit.A
    for p in range(1, tab.implicit.order + 1):
        for tree in trees.rooted_trees(p):
            for u in trees.coloured_weights(tree, matrices):
                assert tab.implicit.b @ u == pytest.approx(1 / trees.density(tree), abs=1e-13)
                if p <= tab.implicit.order_hat:
                    assert tab.implicit.b_hat @ u == pytest.approx(
                        1 / trees.density(tree), abs=1e-13
                    )


def test_additive_refuses_strangers():
    with pytest.raises(ValueError, match="'x': order differs"):
        AdditiveTableau("x", implicit.kencarp3, implicit.ark4.explicit)
    with pytest.raises(ValueError, match="'x': the explicit method is implicit"):
        AdditiveTableau("x", implicit.kencarp3, implicit.kencarp3)


def test_radau_transformation_is_that_of_radau5_f():
    r = radau_transformation(radau.radau5)
    T = [
        [9.1232394870892942792e-2, -0.14125529502095420843, -3.0029194105147424492e-2],
        [0.24171793270710701896, 0.20412935229379993199, 0.38294211275726193779],
        [0.96604818261509293619, 1, 0],
    ]
    ours = np.column_stack([r.S[:, 0].real, r.S[:, 1].real, -r.S[:, 1].imag])
    np.testing.assert_allclose(ours, T, rtol=0, atol=1e-14)
    root = np.sqrt(6)
    e = [-(13 + 7 * root) / 3, (-13 + 7 * root) / 3, -1 / 3]
    np.testing.assert_allclose(r.e, e, rtol=1e-13)


@pytest.mark.parametrize("tab", radau.RADAU.values(), ids=radau.RADAU)
def test_radau_transformations_are_diagonal(tab):
    r = radau_transformation(tab)
    full, A_inv = r.full(), np.linalg.inv(tab.A)
    rebuilt = full.S @ np.diag(full.eigenvalues) @ full.S_inv
    np.testing.assert_allclose(rebuilt, A_inv, rtol=0, atol=1e-14 * np.linalg.cond(tab.A))
    Z = np.cos(np.arange(2.0 * tab.n_stages)).reshape(-1, 2)
    np.testing.assert_allclose((r.S @ (r.S_inv @ Z)).real, Z, rtol=0, atol=1e-13)
    assert r.eigenvalues[0].imag == 0
    assert (r.eigenvalues[1:].imag > 0).all()


def test_radau9_is_that_of_radau_f():
    r = radau_transformation(radau.radau9)
    # DD of its subroutine for five stages
    e = [-27.78093394406463730479, 3.641478498049213152712, -1.252547721169118720491]
    e += [0.5920031671845428725662, -0.2]
    np.testing.assert_allclose(r.e, e, rtol=1e-12)


@every_rosenbrock
def test_rosenbrock_orders_are_sharp(tab):
    for row, order in (("b", tab.order), ("b_hat", tab.order_hat)):
        if tab.name == "ros23" and row == "b_hat":
            assert max(worst(tab.order_conditions(p, row)) for p in (1, 2, 3)) < 1e-13
            assert worst(tab.order_conditions(4, row)) > 1e-5
            continue
        assert_sharp(lambda p, row=row: tab.order_conditions(p, row, w=tab.w_method), order)


@every_rosenbrock
def test_rosenbrock_stability(tab):
    assert tab.a_stable
    assert tab.l_stable
    assert abs(tab.R(-1e9)) < 1e-6
    assert tab.stiffly_accurate == (tab.name != "ros23")


def test_rodas4_is_no_w_method():
    assert worst(rosenbrock.rodas4.order_conditions(2, w=True)) > 1e-2


changes = st.builds(lambda size, sign: sign * size, st.floats(1e-6, 1.0), st.sampled_from([-1, 1]))


@every_rosenbrock
@given(where=st.sampled_from(["c", "d", "m", "m_hat"]), i=st.integers(0, 2), change=changes)
def test_broken_rosenbrock_is_refused(tab, where, i, change):
    # The last m_hat of a stiffly accurate method is not among these: it scales the error estimate,
    # and no order condition knows how.
    row = list(getattr(tab, where))
    row[i] += change
    with pytest.raises(ValueError, match=f"Rosenbrock tableau '{tab.name}'"):
        dataclasses.replace(tab, **{where: row})


@every_rosenbrock
@given(where=st.sampled_from("AC"), i=st.integers(0), j=st.integers(0), change=changes)
def test_broken_rosenbrock_matrix_is_refused(tab, where, i, j, change):
    rows = [list(row) for row in getattr(tab, where)]
    row = rows[1 + i % (tab.n_stages - 1)]
    row[j % len(row)] += change
    with pytest.raises(ValueError, match=f"Rosenbrock tableau '{tab.name}'"):
        dataclasses.replace(tab, **{where: rows})


@every_rosenbrock
@given(m=st.integers(0), i=st.integers(0), change=changes)
def test_broken_rosenbrock_dense_output_is_refused(tab, m, i, change):
    if not tab.H:
        pytest.skip("none is published")
    # The last u of a stiffly accurate method is its error estimate: it is of higher order.
    H, free = [list(row) for row in tab.H], tab.n_stages - tab.stiffly_accurate
    H[m % len(H)][i % free] += change
    with pytest.raises(ValueError, match=f"'{tab.name}': H misses the order condition"):
        dataclasses.replace(tab, H=H)


@every_rosenbrock
def test_an_estimate_of_zero_is_refused(tab):
    with pytest.raises(ValueError, match="m_hat is m"):
        dataclasses.replace(tab, m_hat=list(tab.m), order_hat=tab.order)


def test_stability_functions_of_embedded_rows():
    z = np.array([[-2.0 + 1j, 0.3], [1e-3, -50.0]])
    for tab in (implicit.trbdf2, implicit.kvaerno4, sk.METHODS["dopri5"]):
        np.testing.assert_array_equal(tab.R(z), tab.R(z, "b"))
        swapped = dataclasses.replace(
            tab, b=tab.b_hat, b_hat=None, order=tab.order_hat, order_hat=None, interpolant=None
        )
        np.testing.assert_allclose(tab.R(z, "b_hat"), swapped.R(z), rtol=1e-13)
    with pytest.raises(ValueError, match="'radau5' has no row 'b_hat'"):
        radau.radau5.R(z, "b_hat")


# A run on y' = f(t, y), nonautonomous and nonlinear, with y = (cos t, sin t) as exact solution.


def f(t, y):
    return np.array([-y[1] + y[0] ** 2 - np.cos(t) ** 2, y[0] - 3 * (y[1] ** 3 - np.sin(t) ** 3)])


def jacobian(y):
    return np.array([[2 * y[0], -1.0], [1.0, -9 * y[1] ** 2]])


def f_t(t):
    return np.array([np.sin(2 * t), 9 * np.sin(t) ** 2 * np.cos(t)])


def exact(t):
    return np.array([np.cos(t), np.sin(t)])


def rosenbrock_step(tab, t, y, h, J):
    """All u_i of a step, shape (s, 2)."""
    u = np.zeros((tab.n_stages, 2))
    for i in range(tab.n_stages):
        rhs = f(t + tab.c[i] * h, y + np.array(tab.A[i]) @ u[:i] if i else y)
        rhs = rhs + (np.array(tab.C[i]) @ u[:i] / h if i else 0) + tab.d[i] * h * f_t(t)
        u[i] = np.linalg.solve(np.eye(2) / (h * tab.gamma) - J, rhs)
    return u


def rosenbrock_run(tab, n, J_of=jacobian, row="m", lag=0):
    """Error at t = 1 after n steps, with the Jacobian of `lag` steps before."""
    y, h, m = np.array([1.0, 0.0]), 1 / n, np.array(getattr(tab, row))
    for step in range(n):
        J = J_of(exact((step - lag) * h) if lag else y)
        y = y + m @ rosenbrock_step(tab, step * h, y, h, J)
    return np.linalg.norm(y - exact(1))


def implicit_run(tab, n, row="b"):
    y, h, s = np.array([1.0, 0.0]), 1 / n, tab.n_stages
    for step in range(n):
        k = np.tile(f(step * h, y), (s, 1))
        for _ in range(8):
            Y = y + h * tab.A @ k
            times = (step + tab.c) * h
            gap = k - np.array([f(t, x) for t, x in zip(times, Y, strict=True)])
            D = np.eye(2 * s) - h * np.block(
                [[tab.A[i, j] * jacobian(Y[i]) for j in range(s)] for i in range(s)]
            )
            k = k - np.linalg.solve(D, gap.ravel()).reshape(s, 2)
        y = y + h * getattr(tab, row) @ k
    return np.linalg.norm(y - exact(1))


def rate(run, tab, n, **options):
    return np.log2(run(tab, n, **options) / run(tab, 2 * n, **options))


@every_implicit
def test_observed_order(tab):
    steps = 16 if tab.order < 9 else 4  # more, and rounding is all that is left
    assert rate(implicit_run, tab, steps) == pytest.approx(tab.order, abs=0.5)


@every_implicit
def test_observed_embedded_order(tab):
    if tab.b_hat is None:
        return
    observed = rate(implicit_run, tab, 32, row="b_hat")
    # kencarp5's first error term is so small (4.9e-5) that the next one is what a run sees.
    assert observed == pytest.approx(tab.order_hat + (tab.name == "kencarp5"), abs=0.4)


@every_rosenbrock
def test_observed_rosenbrock_order(tab):
    assert rate(rosenbrock_run, tab, 32) == pytest.approx(tab.order, abs=0.5)
    assert rate(rosenbrock_run, tab, 32, row="m_hat") == pytest.approx(tab.order_hat, abs=0.5)


WITHOUT_EXACT_JACOBIAN = {"ros23": (2, 2), "rodas4": (2, 1), "rodas5p": (3, 2), "ros34pw2": (3, 3)}


@every_rosenbrock
def test_order_with_an_old_and_with_a_wrong_jacobian(tab):
    old, wrong = WITHOUT_EXACT_JACOBIAN[tab.name]

    def shifted(y):
        return 0.5 * jacobian(y) + np.array([[-1.0, 0.5], [0.0, -2.0]])

    assert rate(rosenbrock_run, tab, 64, J_of=shifted) == pytest.approx(wrong, abs=0.3)
    assert rate(rosenbrock_run, tab, 128, lag=1) == pytest.approx(old, abs=0.2)
    if tab.w_method:
        embedded = rate(rosenbrock_run, tab, 64, J_of=shifted, row="m_hat")
        assert embedded == pytest.approx(tab.order_hat, abs=0.3)


@every_rosenbrock
def test_rosenbrock_dense_output_has_its_order(tab):
    if not tab.H:
        return
    t, theta = 0.3, np.linspace(0.1, 0.9, 9)[:, None]

    def error(h):
        y = exact(t)
        u = rosenbrock_step(tab, t, y, h, jacobian(y))
        bubble = sum(theta**m * (np.array(row) @ u) for m, row in enumerate(tab.H))
        dense = (1 - theta) * y + theta * (y + tab.m @ u) + theta * (1 - theta) * bubble
        return np.abs(dense - exact(t + theta[:, 0] * h).T).max()

    # Of one step the error is O(h^(q+1)). Each row of H adds one to the order of a straight line.
    assert np.log2(error(0.02) / error(0.01)) - 1 == pytest.approx(1 + len(tab.H), abs=0.3)

"""ButcherTableau: what construction refuses, what follows from the data, and how it is shown."""

import dataclasses
import itertools
import math
import pickle
from fractions import Fraction

import matplotlib.pyplot as plt
import numpy as np
import pytest
from _tolerance import condition_bounds, gamma, worst_ratio
from hypothesis import assume, given
from hypothesis import strategies as st

import stiffkit as sk
from stiffkit import EXPLICIT, ButcherTableau, Interpolant

every_method = pytest.mark.parametrize("tab", EXPLICIT.values(), ids=list(EXPLICIT))

# A 2(1) pair that is not first same as last; its interpolant is the quadratic through y, f and
# y_new, with one row for f(t + h, y_new) and one for an extra stage, both unused.
PAIR = {
    "order": 2,
    "c": [0, 1],
    "A": [[], [1]],
    "b": [1 / 2, 1 / 2],
    "b_hat": [1, 0],
    "order_hat": 1,
    "b_hat2": [0, 1],
    "order_hat2": 1,
}
DENSE = {
    "order": 2,
    "P": [[1, -1 / 2], [0, 1 / 2], [0, 0], [0, 0]],
    "c": [1 / 2],
    "A": [[1 / 4, 1 / 4, 0]],
}
KINDS = {
    "lobatto-iiia": ([0, 1], [[0, 0], [1 / 2, 1 / 2]], [1 / 2, 1 / 2], 2),
    "backward-euler": ([1], [[1]], [1], 1),
    "implicit-midpoint": ([1 / 2], [[1 / 2]], [1], 2),
}


def pair(dense=None, **changes):
    interpolant = None if dense is None else Interpolant(**{**DENSE, **dense})
    return ButcherTableau("a pair", **{**PAIR, "interpolant": interpolant, **changes})


def implicit(name):
    c, A, b, order = KINDS[name]
    return ButcherTableau(name, order=order, c=c, A=A, b=b)


# Construction -------------------------------------------------------------------------------------


def test_the_consistent_pair_is_accepted():
    assert pair(dense={}).interpolant.order == 2


@pytest.mark.parametrize(
    ("changes", "condition"),
    [
        ({"c": [0, 1, 1]}, "A must have 3 rows of at most 3 entries"),
        ({"A": [[]]}, "A must have 2 rows of at most 2 entries"),
        ({"A": [[], [1, 0, 0]]}, "A must have 2 rows of at most 2 entries"),
        ({"b": [1]}, "b has 1 entries for 2 stages"),
        ({"b_hat": [1, 0, 0]}, "b_hat has 3 entries for 2 stages"),
        ({"b_hat2": [1]}, "b_hat2 has 1 entries for 2 stages"),
        ({"order_hat": None}, "b_hat and its order must be given together"),
        ({"b_hat": None}, "b_hat and its order must be given together"),
        ({"order_hat2": None}, "b_hat2 and its order must be given together"),
        ({"b_hat2": None}, "b_hat2 and its order must be given together"),
        ({"order": 0}, "order must be a whole number, at least 1, not 0"),
        ({"c": [0, 0.5]}, r"row 2 of A sums to .*1\.0.*, not to c = .*0\.5"),
        ({"c": [0.5, 1]}, r"row 1 of A sums to .*0\.0.*, not to c = .*0\.5"),
        ({"b": [0.5, 0.25]}, r"b sums to .*0\.75.* instead of 1"),
        ({"b_hat": [1, 0.125]}, r"b_hat sums to .*1\.125.* instead of 1"),
        ({"b_hat2": [0, 0.5]}, r"b_hat2 sums to .*0\.5.* instead of 1"),
        ({"b": [math.nan, 1]}, r"b sums to .*nan.* instead of 1"),
        ({"A": [[], [math.nan]]}, r"row 2 of A sums to .*nan"),
    ],
)
def test_inconsistent_coefficients_are_refused_by_name_and_condition(changes, condition):
    with pytest.raises(ValueError, match=f"^tableau 'a pair': {condition}"):
        pair(**changes)


@pytest.mark.parametrize(
    ("dense", "condition"),
    [
        ({"P": DENSE["P"][:3]}, "the interpolant needs 4 rows in P and 1 in A"),
        ({"P": [*DENSE["P"], [0]]}, "the interpolant needs 4 rows in P and 1 in A"),
        ({"A": []}, "the interpolant needs 4 rows in P and 1 in A"),
        ({"A": [[1 / 4, 1 / 4, 0, 0]]}, "a row of the interpolant's A reaches past its own stage"),
        ({"c": [1 / 4]}, r"row 1 of interpolant\.A sums to .*0\.5.*, not to c = .*0\.25"),
        (
            {"P": [[1, -1 / 4], [0, 1 / 4], [0, 0], [0, 0]]},
            "the interpolant at θ = 1 is not y_new",
        ),
        (
            {"P": [[1, -1 / 2], [0, 1 / 2], [0, 0], [0, 1e-9]]},
            "the interpolant at θ = 1 is not y_new",
        ),
    ],
)
def test_inconsistent_interpolants_are_refused_by_name_and_condition(dense, condition):
    with pytest.raises(ValueError, match=f"^tableau 'a pair': {condition}"):
        pair(dense=dense)


def test_a_first_same_as_last_method_needs_no_row_for_f_new():
    fsal = {"c": [0, 1], "A": [[], [1]], "b": [1, 0], "b_hat": None, "order_hat": None}
    dense = {"P": [[1], [0]], "c": [], "A": [], "order": 1}
    tab = pair(**fsal, b_hat2=None, order_hat2=None, order=1, dense=dense)
    assert tab.fsal
    assert tab.dense_A.shape == (2, 2)


def test_short_rows_are_filled_up_with_zeros():
    tab = ButcherTableau("short", order=1, c=[0, 0.5, 0], A=[[], [0.5], []], b=[1, 0, 0])
    np.testing.assert_array_equal(tab.A, [[0, 0, 0], [0.5, 0, 0], [0, 0, 0]])


def slot(draw, tab):
    """Choose one coefficient; return its field, its index and the size of its neighbours."""
    s = tab.n_stages
    fields = [f for f in ("c", "A", "b", "b_hat", "b_hat2") if getattr(tab, f) is not None]
    if s == 1:
        fields.remove("A")
    field = draw(st.sampled_from(fields))
    if field == "A":
        i = draw(st.integers(1, s - 1))
        return field, (i, draw(st.integers(0, i - 1))), np.abs(tab.A).max()
    size = np.abs(tab.A).max() if field == "c" else np.abs(getattr(tab, field)).max()
    return field, draw(st.integers(0, s - 1)), size


methods = st.sampled_from(list(EXPLICIT.values()))
# Of the size of the coefficients themselves. Sums are checked to 1e-11 of their terms, at most
# 16 of them, so that the smallest change here is at least six times the slack.
slips = st.builds(
    lambda exponent, sign: sign * 10.0**exponent, st.floats(-9, 0), st.sampled_from([-1, 1])
)


@given(st.data(), methods, slips)
def test_one_wrong_coefficient_is_refused(data, tab, slip):
    field, index, size = slot(data.draw, tab)
    wrong = getattr(tab, field).copy()
    wrong[index] += slip * (1 + size)
    with pytest.raises(ValueError, match=f"^tableau '{tab.name}': .* (sums|is not|needs)"):
        dataclasses.replace(tab, **{field: wrong})


@given(
    st.data(), st.sampled_from([t for t in EXPLICIT.values() if t.interpolant is not None]), slips
)
def test_one_wrong_coefficient_of_an_interpolant_is_refused(data, tab, slip):
    dense = tab.interpolant
    field = data.draw(st.sampled_from(["P", "A"] if len(dense.A) else ["P"]))
    rows = [list(row) for row in getattr(dense, field)]
    i = data.draw(st.integers(0, len(rows) - 1))
    j = data.draw(st.integers(0, len(rows[i]) - 1))
    rows[i][j] += slip * (1 + max(abs(x) for row in rows for x in row))
    with pytest.raises(ValueError, match=f"^tableau '{tab.name}': "):
        dataclasses.replace(tab, interpolant=dataclasses.replace(dense, **{field: rows}))


@given(st.data(), methods, st.floats(-3, 0))
def test_two_wrong_coefficients_whose_sum_is_right_break_an_order_condition(data, tab, exponent):
    rows = {"b": tab.order, "b_hat": tab.order_hat, "b_hat2": tab.order_hat2}
    # Conditions of order 1 and 2 see no more of A than the sums of its rows.
    fields = ["A"] * (tab.n_stages > 2 and tab.order > 2)
    # Every row that sums to 1 has order 1, so that only rows of higher order can break.
    fields += [row for row, p in rows.items() if p is not None and p > 1]
    assume(fields)
    field = data.draw(st.sampled_from(fields))
    wrong = getattr(tab, field).copy()
    i = data.draw(st.integers(2, tab.n_stages - 1)) if field == "A" else tab.n_stages
    j, k = data.draw(st.sampled_from(list(itertools.combinations(range(i), 2))))
    slip = 10.0**exponent * (1 + np.abs(wrong).max())
    target = wrong[i] if field == "A" else wrong
    target[j] += slip
    target[k] -= slip
    try:
        moved = dataclasses.replace(tab, **{field: wrong})
    except ValueError:  # it was part of an interpolant too
        return
    broken = any(
        worst_ratio(moved.order_conditions(q, row), condition_bounds(moved.A, moved._row(row), q))
        > 1
        for row, p in rows.items()
        for q in range(1, (p or 0) + 1)
    )
    # In the row that only y_new and the embedded method used, a slip may leave another pair.
    assert broken or tab.fsal > moved.fsal


# Immutability -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "what",
    ["c", "A", "b", "b_hat", "b_hat2", "e", "e2", "stability_polynomial", "bubble", "dense_A"],
)
def test_arrays_are_read_only(what):
    array = getattr(pair(dense={}), what)
    with pytest.raises(ValueError, match="read-only"):
        array[...] = 0


def test_fields_cannot_be_set():
    with pytest.raises(dataclasses.FrozenInstanceError):
        pair().order = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        del pair().b


def test_arrays_given_to_the_constructor_are_copied():
    c, A, b = np.array([0.0, 1.0]), np.array([[0.0, 0.0], [1.0, 0.0]]), np.array([0.5, 0.5])
    tab = ButcherTableau("copied", order=2, c=c, A=A, b=b)
    for array in (c, A, b):
        array[...] = 7
    np.testing.assert_array_equal(tab.A, [[0, 0], [1, 0]])
    np.testing.assert_array_equal(tab.c, [0, 1])
    np.testing.assert_array_equal(tab.b, [0.5, 0.5])


@every_method
def test_a_tableau_made_of_its_own_fields_is_the_same_one(tab):
    again = dataclasses.replace(tab)
    assert str(again) == str(tab)
    assert again.fsal == tab.fsal
    np.testing.assert_array_equal(again.A, tab.A)


@every_method
def test_a_tableau_survives_pickling(tab):
    again = pickle.loads(pickle.dumps(tab))
    assert again.name == tab.name
    np.testing.assert_array_equal(again.A, tab.A)
    np.testing.assert_array_equal(again.b, tab.b)


# Structure ----------------------------------------------------------------------------------------


def test_structure_of_explicit_and_implicit_tableaus():
    assert pair().explicit
    assert not any(implicit(name).explicit for name in KINDS)
    assert implicit("backward-euler").stiffly_accurate
    assert implicit("lobatto-iiia").stiffly_accurate
    assert not implicit("implicit-midpoint").stiffly_accurate


def test_first_same_as_last_is_claimed_for_explicit_methods_alone():
    assert not any(implicit(name).fsal for name in KINDS)
    assert EXPLICIT["bosh3"].fsal
    # One stage with row () and b = (1,) is no second evaluation.
    assert not EXPLICIT["euler"].fsal


def test_probe_is_the_last_stage_at_the_end_of_the_step_that_is_not_y_new():
    A = [[], [1], [1 / 2, 1 / 2], [1 / 4, 0], [1 / 2, 1 / 2, 0, 0]]
    two = ButcherTableau("two", order=1, c=[0, 1, 1, 1 / 4, 1], A=A, b=[1 / 2, 1 / 2, 0, 0, 0])
    # Stages 3 and 5 are y_new itself; stage 2 is an Euler step.
    assert two.probe == 1
    assert pair().probe == 1
    assert EXPLICIT["midpoint"].probe is None


@pytest.mark.parametrize(
    ("name", "known"), [("midpoint", True), ("ralston", True), ("bosh3", False)]
)
def test_the_slope_of_the_error_is_what_the_stages_tell_of_it(name, known):
    tableau = EXPLICIT[name]
    assert (tableau.error_slope is not None) == known
    if known:
        J, y, h = np.random.default_rng(0).standard_normal((3, 3)), np.array([1.0, 2.0, -1.0]), 0.3
        k = []
        for row in [*tableau.A, tableau.b]:
            k.append(J @ (y + h * sum((a * k_j for a, k_j in zip(row, k, strict=False)), 0 * y)))
        err = h * sum(e_i * k_i for e_i, k_i in zip(tableau.e, k, strict=False))
        np.testing.assert_allclose(tableau.error_slope @ k, J @ err, atol=1e-13)
        # It is exact for no function of time, but of one order more: f = t adds nothing.
        assert abs(tableau.error_slope @ [*tableau.c, 1.0]) < 1e-14


def test_error_rows_are_differences_to_the_embedded_rows():
    np.testing.assert_array_equal(pair().e, [-1 / 2, 1 / 2])
    np.testing.assert_array_equal(pair().e2, [1 / 2, -1 / 2])
    plain = EXPLICIT["rk4"]
    assert plain.e is plain.e2 is plain.error_order is plain.pair_quality is None


def test_error_order_is_the_lower_order_of_the_pair():
    assert pair(b_hat2=None, order_hat2=None).error_order == 1
    # With order_hat above the order the estimate still sees the error of the method itself.
    higher = ButcherTableau(
        "3(2) reversed",
        order=1,
        c=[0, 1],
        A=[[], [1]],
        b=[1, 0],
        b_hat=[1 / 2, 1 / 2],
        order_hat=2,
    )
    assert higher.error_order == 1


def test_error_order_of_two_estimates_is_that_of_hairers_quotient():
    # |err|² / |err2| with err ~ h^6 and err2 ~ h^4 is ~ h^8.
    assert EXPLICIT["dop853"].error_order == 7


@pytest.mark.parametrize("row", ["b_hat", "b_hat2", "b_tilde"])
def test_order_conditions_of_a_row_that_is_not_there_are_refused(row):
    with pytest.raises(ValueError, match=f"tableau 'rk4' has no row '{row}'"):
        EXPLICIT["rk4"].order_conditions(3, row)


@pytest.mark.parametrize(
    ("name", "stage_order"), [("lobatto-iiia", 2), ("backward-euler", 1), ("implicit-midpoint", 1)]
)
def test_stage_order_of_implicit_methods(name, stage_order):
    assert implicit(name).stage_order == stage_order


def test_largest_coefficient_of_a_pair_counts_the_embedded_row():
    # D = max(|a_ij|, |b_i|, |b̂_i|, |c_i|) in C. A. Kennedy, M. H. Carpenter, R. M. Lewis, Appl.
    # Numer. Math. 35 (2000) 177-219, doi:10.1016/S0168-9274(99)00141-5.
    assert EXPLICIT["ralston"].pair_quality.D == 1.0
    assert EXPLICIT["dopri5"].pair_quality.D == 25360 / 2187


# Linear stability ---------------------------------------------------------------------------------


@given(st.complex_numbers(max_magnitude=20, allow_nan=False))
def test_stability_functions_of_implicit_methods_are_the_known_fractions(z):
    # Away from the poles at z = 1 and z = 2 the quotients are as accurate as their denominators.
    assume(abs(1 - z) > 0.1)
    assume(abs(1 - z / 2) > 0.1)
    slack = 10 * gamma(20) * (1 + abs(z)) ** 2
    assert abs(implicit("backward-euler").R(z) - 1 / (1 - z)) <= slack
    fraction = (1 + z / 2) / (1 - z / 2)
    assert abs(implicit("implicit-midpoint").R(z) - fraction) <= slack
    assert abs(implicit("lobatto-iiia").R(z) - fraction) <= slack


def test_stability_function_keeps_the_shape_of_its_points():
    z = np.zeros((2, 3, 4), dtype=complex)
    np.testing.assert_array_equal(EXPLICIT["rk4"].R(z), np.ones((2, 3, 4)))
    assert EXPLICIT["rk4"].R(0.0).shape == ()


@pytest.mark.parametrize("what", ["real_stability_limit", "imaginary_stability_limit"])
def test_stability_limits_of_an_implicit_method_are_refused(what):
    with pytest.raises(ValueError, match=f"'implicit-midpoint': {what} is defined for explicit"):
        getattr(implicit("implicit-midpoint"), what)


def chain(name, r):
    """Make the explicit method with R(z) = Σ r_j z^j whose stages use their predecessor alone."""
    s = len(r) - 1
    a = [r[j + 1] / r[j] for j in range(s - 1, 0, -1)]
    A = [[], *([0.0] * i + [a_i] for i, a_i in enumerate(a))]
    return ButcherTableau(name, order=1, c=[0, *a], A=A, b=[0] * (s - 1) + [1])


@pytest.mark.parametrize("s", [2, 3, 5, 8, 11, 13])
@pytest.mark.parametrize("damping", [0.05, 0.5])
def test_real_limit_of_damped_chebyshev_methods_is_the_known_one(s, damping):
    """R(z) = T_s(w0 + w1 z) / T_s(w0): |R| ≤ 1 until w0 + w1 z = −w0, so at z = −2 w0 / w1.

    J. G. Verwer, Appl. Numer. Math. 22 (1996) 359-379, doi:10.1016/S0168-9274(96)00022-0.
    """
    T = np.polynomial.Chebyshev.basis(s)
    w0 = 1 + damping / s**2
    w1 = T(w0) / T.deriv()(w0)
    r = [1.0, *(T.deriv(j)(w0) * w1**j / math.factorial(j) / T(w0) for j in range(1, s + 1))]
    limit = 2 * w0 / w1
    # dR/dz = ±1 at the limit, so that the limit moves as much as R does. Each r_j is a product of
    # up to s ratios, of three roundings each, and costs as many again when R is evaluated.
    slack = gamma(8 * s) * sum(abs(r_j) * limit**j for j, r_j in enumerate(r))
    assert abs(chain(f"rkc{s}", r).real_stability_limit - limit) <= slack


def test_real_limit_passes_a_point_where_the_modulus_only_touches_one():
    # R(z) = 1 + z + z²/8 = T_2(1 + z/4) touches −1 at z = −4; in doubles too, for all is dyadic.
    # At the limit |dR/dz| = 1, and the terms of R are 1, 8 and 8.
    assert abs(chain("touching", [1, 1, 1 / 8]).real_stability_limit - 8) <= gamma(8 * 2) * 17


def test_real_limit_ends_at_the_first_exit_though_the_method_is_stable_beyond():
    # R(z) = 1 + z (1 + z/2) (1 + z/3) exceeds 1 between z = −2 and −3 alone.
    tab = chain("island", [1, 1, 5 / 6, 1 / 6])
    assert abs(tab.R(-2.5)) > 1 > abs(tab.R(-3.5))
    # dR/dz = 1/3 at the limit; six terms of R, of three roundings each.
    assert abs(tab.real_stability_limit - 2) <= 3 * gamma(18) * (1 + 2 + 4 * 5 / 6 + 8 / 6)


# Pictures -----------------------------------------------------------------------------------------


def test_repr_names_method_orders_and_stages():
    assert repr(EXPLICIT["dopri5"]) == "<ButcherTableau dopri5, order 5(4), 7 stages>"
    assert repr(EXPLICIT["rk4"]) == "<ButcherTableau rk4, order 4, 4 stages>"


def test_drawn_tableau_shows_fractions_as_printed():
    drawn = str(EXPLICIT["dopri5"])
    for fraction in ("19372/6561", "-25360/2187", "-5103/18656", "-92097/339200", "187/2100"):
        assert fraction in drawn
    assert [line.rstrip() for line in str(EXPLICIT["rk4"]).splitlines() if "┼" not in line] == [
        "ButcherTableau rk4, order 4, 4 stages",
        "  0 │",
        "1/2 │ 1/2",
        "1/2 │   0  1/2",
        "  1 │   0    0    1",
        "  b │ 1/6  1/3  1/3  1/6",
    ]


@every_method
def test_drawn_tableau_holds_every_coefficient(tab):
    title, *lines = str(tab).splitlines()
    assert title == repr(tab)[1:-1]
    assert "┼" in lines.pop(tab.n_stages)
    feet = [("b", tab.b), ("b̂", tab.b_hat), ("b̂₂", tab.b_hat2)]
    rows = [(c, row[:i]) for i, (c, row) in enumerate(zip(tab.c, tab.A, strict=True))]
    rows += [(label, row) for label, row in feet if row is not None]
    assert len(lines) == len(rows)
    for line, (head, row) in zip(lines, rows, strict=True):
        left, right = line.split("│")
        if isinstance(head, str):
            assert left.strip() == head
        else:
            assert_shown([left.strip()], [head])
        assert_shown(right.split(), row)


def assert_shown(cells, coefficients):
    """A fraction is exact to rounding; what is none is given to six digits."""
    assert len(cells) == len(coefficients)
    for cell, x in zip(cells, coefficients, strict=True):
        decimal = "." in cell or "e" in cell
        slack = 5e-6 if decimal else 8 * np.finfo(float).eps
        assert abs(float(cell if decimal else Fraction(cell)) - x) <= slack * abs(x)


@pytest.mark.parametrize("name", ["euler", "rk4", "dopri5"])
def test_plot_draws_a_boundary_that_crosses_the_real_axis_at_the_limit(name):
    tab = EXPLICIT[name]
    ax = tab.plot()
    try:
        assert name in ax.get_title()
        (boundary,) = (drawn for drawn in ax.collections if not drawn.filled)
        points = np.concatenate([path.vertices for path in boundary.get_paths()])
        distance = np.hypot(points[:, 0] + tab.real_stability_limit, points[:, 1])
        # Within one cell of the grid that the region is drawn on.
        assert distance.min() < 0.02 * tab.real_stability_limit
    finally:
        plt.close(ax.figure)


def test_plot_draws_into_given_axes_in_a_given_style():
    figure, axes = plt.subplots()
    try:
        assert EXPLICIT["rk4"].plot(axes, colors="red") is axes
        assert any(np.allclose(c.get_edgecolor()[:, :3], (1, 0, 0)) for c in axes.collections)
    finally:
        plt.close(figure)


def test_the_names_are_public():
    assert sk.METHODS.items() >= EXPLICIT.items()
    assert {"ButcherTableau", "EXPLICIT", "Interpolant", "METHODS"} <= set(sk.__all__)


def test_a_claimed_order_is_checked_at_construction():
    with pytest.raises(ValueError, match=r"tableau 'false': b misses .* order 3"):
        ButcherTableau("false", order=3, c=[0, 1], A=[[], [1]], b=[0.5, 0.5])
    with pytest.raises(ValueError, match=r"b_hat misses .* order 2"):
        ButcherTableau(
            "false", order=2, c=[0, 1], A=[[], [1]], b=[0.5, 0.5], b_hat=[1, 0], order_hat=2
        )
    with pytest.raises(ValueError, match="whole number"):
        ButcherTableau("false", order=1.5, c=[0, 1], A=[[], [1]], b=[0.5, 0.5])
    with pytest.raises(TypeError, match="name must be a string"):
        ButcherTableau(5, order=1, c=[0], A=[[]], b=[1])

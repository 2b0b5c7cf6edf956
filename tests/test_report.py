"""diagnose(): right numbers, and the right verdict where the answer is known."""

import html
import math
import re

import matplotlib.colors
import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.integrate
from hypothesis import given
from hypothesis import strategies as st
from problems import counted, decay, oscillator

import stiffkit as sk
from stiffkit.solvers.radau import radau_transformation
from stiffkit.solvers.stabilised import ROCK4
from stiffkit.stiffness import report as report_module

torch = pytest.importorskip("torch")


def robertson(t, y):
    a, b, c = y
    slow, fast = 0.04 * a - 1e4 * b * c, 3e7 * b * b
    return np.array([-slow, slow - fast, fast])


def robertson_jacobian(y):
    _, b, c = y
    top = np.array([-0.04, 1e4 * c, 1e4 * b])
    return np.array([top, -top - [0, 6e7 * b, 0], [0, 6e7 * b, 0]])


def robertson_state(t):
    run = scipy.integrate.solve_ivp(
        robertson, (0, t), [1.0, 0, 0], "Radau", rtol=1e-9, atol=[1e-9, 1e-13, 1e-9]
    )
    return run.y[:, -1]


def heat(n):
    A = (n + 1) ** 2 * (np.eye(n, k=1) + np.eye(n, k=-1) - 2 * np.eye(n))
    k = np.arange(1, n + 1)
    values = -4 * (n + 1) ** 2 * np.sin(k * np.pi / (2 * (n + 1))) ** 2
    return A, values, np.sin(np.pi * k / (n + 1))


# Numbers ------------------------------------------------------------------------------------------


def test_eigenvalues_of_robertson_are_those_of_its_jacobian():
    y = robertson_state(100.0)
    report = sk.diagnose(robertson, 100.0, y)
    J = robertson_jacobian(y)
    exact = np.linalg.eigvals(J)
    exact = exact[np.argsort(-np.abs(exact))]
    assert report.exact
    assert report.n == len(report.eigenvalues) == 3
    # Rounding of the products, in units of the largest eigenvalue.
    np.testing.assert_allclose(report.eigenvalues, exact, atol=1e-8 * abs(exact[0]))
    assert report.spectral_radius == pytest.approx(abs(exact[0]), rel=1e-8)
    assert report.log_norm == pytest.approx(sk.stiffness.logarithmic_norm(J), rel=1e-6)
    square = np.linalg.norm(J) ** 2
    departure = math.sqrt(1 - (np.abs(exact) ** 2).sum() / square)
    assert report.departure == pytest.approx(departure, rel=1e-6)


def test_a_species_that_is_not_there_yet_is_not_seen():
    report = sk.diagnose(robertson, 0.0, [1.0, 0.0, 0.0])
    assert report.spectral_radius == pytest.approx(0.04, rel=1e-6)


def van_der_pol(t, y):
    return np.array([y[1], 1000.0 * (1 - y[0] ** 2) * y[1] - y[0]])


def relaxation(t, y):
    return -1000.0 * (y - np.cos(t))


@pytest.mark.parametrize(("f", "y0"), [(van_der_pol, [2.0, 0.0]), (relaxation, [0.0])])
def test_a_transient_says_when_to_ask_again_and_then_it_is_stiff(f, y0):
    verdict = sk.diagnose(f, 0.0, y0).verdict
    assert verdict.startswith("Not stiff here")
    assert "a transient" in verdict
    wait = float(re.search(r"at t \+ (\S+) or later", verdict)[1])
    # No earlier than the fastest mode needs, ρ = 3000 and 1000, and no later than the slow path.
    assert 1e-3 < wait < 0.1
    then = sk.solve(f, (0.0, wait), y0, "radau5").y[-1]
    later = sk.diagnose(f, wait, then)
    assert later.costs[0].limited_by == "stability"
    assert later.accuracy_step > 5 * later.costs[0].step


@pytest.mark.parametrize(("f", "y0"), [(oscillator, [1.0, 0.0]), (lambda t, y: y, [1.0])])
def test_a_path_that_oscillates_or_grows_is_no_transient(f, y0):
    verdict = sk.diagnose(f, 0.0, y0).verdict
    assert verdict.endswith("An explicit method fits.")


def test_krylov_branch():
    A, values, y = heat(60)
    exact = sk.diagnose(lambda t, y: A @ y, 0.0, y)
    some = sk.diagnose(lambda t, y: A @ y, 0.0, y, exact=False, k=30)
    np.testing.assert_allclose(np.sort(exact.eigenvalues.real), np.sort(values), rtol=1e-8)
    assert not some.exact
    assert len(some.eigenvalues) == 30
    assert some.spectral_radius == pytest.approx(np.abs(values).max(), rel=1e-3)
    assert math.isnan(some.departure)
    assert some.log_norm <= exact.log_norm + 1e-8 * exact.spectral_radius
    assert "30 Ritz values" in str(some)
    assert "≥" in str(some)


def test_what_a_krylov_space_does_not_know_is_no_eigenvalue():
    """Modes near zero come last: here the space sees decay at 350 where solutions grow at 40."""
    A, values, y = heat(400)
    report = sk.diagnose(lambda t, y: A @ y + 50 * y, 0.0, y, exact=False, k=30)
    assert values.max() + 50 > 0 > report.spectral_abscissa
    told = dict(report.rows())
    assert "rightmost eigenvalue" not in told
    residual = float(re.search(r"residual (\S+)\)", told["rightmost Ritz value"])[1])
    assert residual > abs(report.spectral_abscissa - (values.max() + 50))
    assert told["stiffness ratio"].endswith("of Ritz values")


def test_large_states_take_the_krylov_branch():
    def f(t, y):
        return -np.arange(1.0, 202.0) * y

    assert sk.diagnose(f, 0.0, np.ones(201)).exact is False
    assert sk.diagnose(lambda t, y: -y, 0.0, np.ones(200)).exact is True


def test_scales_of_a_circle():
    # |y| = |f| = |f'| for the unit circle.
    report = sk.diagnose(oscillator, 0.0, [1.0, 0.0], atol=1e-6, rtol=1e-30)
    assert report.slope_time == pytest.approx(1, rel=1e-5)
    assert report.fastest_time == pytest.approx(1, rel=1e-8)
    assert report.departure == pytest.approx(0, abs=1e-4)


def test_accuracy_step_scales_with_the_tolerance():
    order = sk.METHODS["tsit5"].error_order + 1
    loose, tight = (
        sk.diagnose(oscillator, 0.0, [1.0, 0.0], rtol=1e-30, atol=atol).accuracy_step
        for atol in (1e-4, 1e-8)
    )
    assert loose / tight == pytest.approx(1e4 ** (1 / order), rel=1e-3)


def test_accuracy_step_is_near_what_a_solve_takes():
    report = sk.diagnose(oscillator, 0.0, [1.0, 0.5])
    log = sk.solve(oscillator, (0.0, 20.0), [1.0, 0.5], log=True).log
    assert 0.3 < report.accuracy_step / np.median(log["h"]) < 3


def heated_rod():
    A, _, y = heat(50)
    return (lambda t, y: A @ y), y + np.sin(3 * np.pi * np.arange(1, 51) / 51)


def cooled_reaction():
    return robertson, robertson_state(10.0)


@pytest.mark.parametrize(
    ("problem", "method"),
    [
        (heated_rod, "tsit5"),
        (heated_rod, "rock4"),
        (heated_rod, "radau5"),
        (cooled_reaction, "tsit5"),
        (cooled_reaction, "radau5"),
    ],
)
def test_steps_and_costs_are_near_what_a_solve_takes(problem, method):
    """Each class by its own error estimate: one of order 2 or 3 does not have the steps of 5."""
    f, y = problem()
    family = {"tsit5": "explicit", "rock4": "stabilised", "radau5": "implicit"}[method]
    (cost,) = (c for c in sk.diagnose(f, 0.0, y).costs if c.name.startswith(family))
    span = (40 if cost.limited_by == "stability" else 10) * cost.step
    run = sk.solve(f, (0.0, span), y, method, first_step=cost.step / 2, log=True, detect=False)
    assert 0.5 < cost.step / np.median(run.log["h"]) < 2
    assert 0.5 < cost.calls * span / run.stats["nfev"] < 2
    assert cost.factorisations * span <= 4 * run.stats["nlu"]


def test_the_error_constants_of_rock4_and_radau5_are_theirs():
    h, y = 1e-2, np.ones(1)
    err = ROCK4.step(lambda t, y: -y, 0.0, y, h, -y, 20)[1]
    A, q = report_module.STABILISED_ERROR
    assert q == ROCK4.error_order
    assert abs(err[0]) == pytest.approx(A * h ** (q + 1), rel=0.05)
    radau = radau_transformation(sk.METHODS["radau5"])
    gamma_0 = 1 / radau.eigenvalues[0].real
    z = -h
    Z = np.linalg.solve(np.eye(3) - z * sk.METHODS["radau5"].A, z * sk.METHODS["radau5"].A.sum(1))
    A, q = report_module.IMPLICIT_ERROR
    assert gamma_0 * abs(z + radau.e @ Z) == pytest.approx(A * h ** (q + 1), rel=0.05)


def test_calls_are_counted():
    f = counted(robertson)
    assert sk.diagnose(f, 0.0, [1.0, 0.0, 0.0]).nfev == f.calls == 2 * 3 + 2


def test_args_and_jvp():
    A = np.array([[-1000.0, 0.0], [1.0, -1.0]])
    by_hand = sk.diagnose(
        lambda t, y, A: A @ y, 0.0, [1.0, 1.0], args=(A,), jvp=lambda t, y, v, A: A @ v
    )
    np.testing.assert_allclose(by_hand.eigenvalues.real, [-1000, -1])


# Verdicts -----------------------------------------------------------------------------------------


def test_oscillator_and_decay_are_not_stiff():
    for f, y in ((oscillator, [1.0, 0.0]), (decay, [1.0])):
        report = sk.diagnose(f, 0.0, y)
        assert report.verdict.startswith("Not stiff")
        assert report.costs[0].limited_by == "accuracy"


def test_fast_oscillation_beside_a_slow_path():
    A = np.array([[-1.0, 1000.0, 0.0], [-1000.0, -1.0, 0.0], [0.0, 0.0, -1.0]])
    report = sk.diagnose(lambda t, y: A @ y, 0.0, [0.0, 0.0, 1.0])
    assert "oscillates" in report.verdict
    assert not any("RKC" in cost.name for cost in report.costs)


@pytest.mark.parametrize("growth", [0.0, 1e-3, -1e-3, 0.9])
def test_a_fast_oscillation_limits_whether_or_not_it_dies_out(growth):
    """The limit is that of the imaginary axis, and no matter of the sign of a rounding error."""
    A = np.array([[growth, 1000.0, 0.0], [-1000.0, growth, 0.0], [0.0, 0.0, -1.0]])
    report = sk.diagnose(lambda t, y: A @ y, 0.0, [0.0, 0.0, 1.0])
    assert "oscillates" in report.verdict
    assert report.costs[0].limited_by == "stability"
    # With a trace of the oscillation in it: an explicit solve ends up at this limit.
    run = sk.solve(lambda t, y: A @ y - [0, 0, -np.cos(t)], (0.0, 3.0), [1e-6, 0.0, 1.0], "tsit5")
    assert 0.5 < report.costs[0].step / np.median(np.diff(run.t)) < 2


def test_a_mode_that_grows_without_oscillating_holds_no_step():
    report = sk.diagnose(lambda t, y: np.array([50.0, -1.0]) * y, 0.0, [0.0, 1.0])
    assert report.costs[0].limited_by == "accuracy"


def test_heat_equation_is_mildly_stiff():
    A, _, y = heat(50)
    report = sk.diagnose(lambda t, y: A @ y, 0.0, y)
    assert "Mildly stiff" in report.verdict
    explicit, stabilised, implicit = report.costs
    assert explicit.limited_by == "stability"
    assert explicit.step == pytest.approx(
        sk.METHODS["tsit5"].real_stability_limit / report.spectral_radius
    )
    assert stabilised.calls < explicit.calls
    assert implicit.factorisations > 0


def test_robertson_is_stiff_later_on():
    assert sk.diagnose(robertson, 0.0, [1.0, 0.0, 0.0]).verdict.startswith("Not stiff")
    report = sk.diagnose(robertson, 100.0, robertson_state(100.0))
    assert report.verdict.endswith("Stiff: an implicit method fits.")
    assert report.stiffness_ratio > 1e5


@pytest.mark.parametrize("f", [lambda t, y: 0 * y, lambda t, y: 0 * y + 1.0])
def test_nothing_moves_or_nothing_turns(f):
    report = sk.diagnose(f, 0.0, [1.0, 2.0])
    assert report.accuracy_step == math.inf
    assert report.fastest_time == math.inf
    assert report.verdict.startswith("Not stiff")
    assert str(report)


# Views --------------------------------------------------------------------------------------------


def test_text_and_html_say_the_same():
    report = sk.diagnose(robertson, 100.0, robertson_state(100.0))
    text, page = str(report), report._repr_html_()
    for label, value in report.rows():
        assert f"{label:26} {value}" in text
        assert html.escape(value) in page
    for cost in report.costs:
        assert cost.name in text
        assert cost.name in page
    assert text.endswith(report.verdict)
    assert html.escape(report.verdict) in page
    assert page.count("<tr>") == page.count("</tr>")


def test_plot():
    for y, scale in ((robertson_state(100.0), "symlog"), ([1.0, 0.0, 0.0], "linear")):
        report = sk.diagnose(robertson, 0.0, y)
        ax = report.plot()
        assert ax.get_xscale() == scale
        labels = [text.get_text() for text in ax.get_legend().get_texts()]
        assert [label.split(", ")[1] for label in labels[:3]] == ["tsit5", "vern7", "dop853"]
        plt.close(ax.figure)
    figure, ax = plt.subplots()
    assert report.plot(["rk4"], ax) is ax
    plt.close(figure)


def test_eigenvalues_are_seen_on_a_dark_ground():
    report = sk.diagnose(robertson, 0.0, robertson_state(100.0))
    for style in ("default", "dark_background"):
        with plt.style.context(style):
            ax = report.plot()
            (points,) = (line for line in ax.lines if line.get_label().startswith("hλ"))
            ink, ground = (
                matplotlib.colors.to_rgb(c) for c in (points.get_color(), ax.get_facecolor())
            )
            assert abs(np.subtract(ink, ground)).max() > 0.5
            plt.close(ax.figure)


def test_far_eigenvalues_of_either_sign_have_ticks_beside_them():
    report = sk.diagnose(lambda t, y: np.array([5000.0, -1.0]) * y, 0.0, [0.0, 1.0])
    ax = report.plot()
    far = report.accuracy_step * 5000
    assert min(abs(np.log10(tick / far)) for tick in ax.get_xticks() if tick > 0) < 1
    plt.close(ax.figure)


# torch, and errors --------------------------------------------------------------------------------


def test_torch_equals_numpy():
    A = np.array([[-100.0, 3.0], [1.0, -1.0]])
    tensor = torch.from_numpy(A)
    ours = sk.diagnose(lambda t, y: tensor @ y, 0.0, torch.tensor([1.0, 1.0], dtype=torch.float64))
    numpy = sk.diagnose(lambda t, y: A @ y, 0.0, np.ones(2))
    np.testing.assert_allclose(ours.eigenvalues, numpy.eigenvalues, rtol=1e-8)
    assert ours.accuracy_step == pytest.approx(numpy.accuracy_step, rel=1e-4)
    assert ours.verdict.split(":")[0] == numpy.verdict.split(":")[0]


def test_single_precision():
    y = torch.tensor([1.0, 1.0], dtype=torch.float32)
    report = sk.diagnose(lambda t, y: torch.stack([-500 * (y[0] - y[1]), -y[1]]), 0.0, y)
    assert report.spectral_radius == pytest.approx(500, rel=1e-5)


def test_shapes_are_flattened():
    report = sk.diagnose(decay, 0.0, np.ones((2, 3)))
    assert report.n == 6
    np.testing.assert_allclose(report.eigenvalues, -1, rtol=1e-8)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_what_is_not_finite_is_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        sk.diagnose(decay, 0.0, [1.0, bad])
    with pytest.raises(ValueError, match="finite"):
        sk.diagnose(lambda t, y: y * bad, 0.0, [1.0])


def test_a_slope_of_another_shape_is_refused():
    with pytest.raises(ValueError, match="shape"):
        sk.diagnose(lambda t, y: np.ones(3), 0.0, [1.0, 2.0])


# Bad input, and odd input -------------------------------------------------------------------------


def to_one(t, y):
    return np.where(y > 1, math.nan, -y)


def two_rates(t, y):
    return np.array([-1000 * (y[0] - y[1]), -y[1]])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"t": math.nan}, "t must be finite"),
        ({"t": "a"}, "t must be a number"),
        ({"y": []}, "y must not be empty"),
        ({"y": [1.0, math.inf]}, "y is not finite at component 1"),
        ({"f": lambda t, y: y * [1.0, math.nan]}, r"f\(t, y\) is not finite at component 1"),
        ({"f": lambda t, y: np.ones(3)}, r"\(3,\)"),
        ({"f": lambda t, y: np.where(y > 1, math.nan, -y)}, "Jacobian .* not finite"),
        (
            {"f": lambda t, y: np.where(y > 1, math.nan, -y), "exact": False},
            "Jacobian .* not finite",
        ),
        ({"jvp": lambda t, y, v: v[:1]}, "jvp"),
        ({"jvp": lambda t, y, v: v * math.nan}, "Jacobian .* not finite"),
        ({"rtol": 0}, "rtol must be finite and positive, not 0"),
        ({"rtol": math.nan}, "rtol"),
        ({"atol": -1}, "atol"),
        ({"atol": [1.0, 1.0, 1.0]}, "atol has shape"),
        ({"k": 0, "exact": False}, "k must be a positive integer, not 0"),
    ],
)
def test_bad_input_is_named(options, match):
    given = {"f": lambda t, y: -y, "t": 0.0, "y": [1.0, 1.0], **options}
    with pytest.raises(ValueError, match=match):
        sk.diagnose(**given)


@pytest.mark.parametrize(("options", "match"), [({"f": 3}, "f must"), ({"jvp": 3}, "jvp must")])
def test_what_is_no_function_is_named(options, match):
    given = {"f": lambda t, y: -y, "t": 0.0, "y": [1.0, 1.0], **options}
    with pytest.raises(TypeError, match=match):
        sk.diagnose(**given)


def test_f_cannot_change_the_state_under_diagnosis():
    with pytest.raises(ValueError, match="read-only"):
        sk.diagnose(lambda t, y: y.__imul__(-2.0), 0.0, [1.0, 2.0])


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_rates_of_any_scale(scale):
    report = sk.diagnose(
        lambda t, y: scale * np.array([-1000 * (y[0] - y[1]), -y[1]]), 0, [1.0, 1.0]
    )
    here = sk.diagnose(lambda t, y: np.array([-1000 * (y[0] - y[1]), -y[1]]), 0, [1.0, 1.0])
    assert report.spectral_radius / scale == pytest.approx(here.spectral_radius, rel=1e-6)
    assert report.departure == pytest.approx(here.departure, rel=1e-6)
    assert report.accuracy_step * scale == pytest.approx(here.accuracy_step, rel=1e-3)
    assert (
        report.verdict.split(":")[0].split("h =")[0] == here.verdict.split(":")[0].split("h =")[0]
    )


def test_a_forced_problem_that_starts_at_zero():
    """y = 0 has no size to measure a change by: the fastest mode gives the unit of time."""
    report = sk.diagnose(lambda t, y: -1000 * (y - np.cos(t)), 0.0, [0.0])
    assert report.slope_time == pytest.approx(1e-3, rel=1e-2)
    assert math.isfinite(report.accuracy_step)


def test_at_rest_the_verdict_says_so():
    report = sk.diagnose(lambda t, y: -1000 * y, 0.0, [0.0, 0.0])
    assert report.verdict.startswith("At rest")
    assert report.accuracy_step == math.inf
    assert "At rest" in report._repr_html_()


@pytest.mark.parametrize("t", [1.0, 1e6])
def test_a_slope_that_is_zero_for_a_moment_is_no_rest(t):
    """y = cos(t) is where f vanishes, and not where the solution stays."""
    report = sk.diagnose(lambda t, y: -1000 * (y - np.cos(t)), t, [np.cos(t)])
    assert "a transient" in report.verdict
    assert report.slope_time == pytest.approx(1e-3)
    assert 0 < report.accuracy_step < 0.01
    wait = float(re.search(r"at t \+ (\S+) or later", report.verdict)[1])
    assert 1e-3 < wait < 0.1


def test_structures_and_split_functions():
    def f(t, y):
        return {"a": -1000 * (y["a"] - y["b"]), "b": -y["b"]}

    tree = sk.diagnose(f, 0.0, {"a": np.array([1.0]), "b": np.array([1.0])})
    flat = sk.diagnose(two_rates, 0.0, [1.0, 1.0])
    np.testing.assert_allclose(tree.eigenvalues, flat.eigenvalues)
    assert tree.accuracy_step == pytest.approx(flat.accuracy_step)
    parts = (
        lambda t, y: np.array([0.0, -y[1]]),
        lambda t, y: np.array([-1000 * (y[0] - y[1]), 0.0]),
    )
    split = sk.diagnose(parts, 0.0, [1.0, 1.0])
    np.testing.assert_allclose(split.eigenvalues, flat.eigenvalues)


@pytest.mark.parametrize("methods", [[], ["nope"], ["radau5"]])
def test_plots_need_explicit_methods(methods):
    with pytest.raises(ValueError, match="methods"):
        sk.diagnose(lambda t, y: -y, 0.0, [1.0]).plot(methods)


@pytest.mark.parametrize("rate", [0.0, 1e150])
@pytest.mark.parametrize("y", [0.0, 1.0])
def test_plots_of_rest_and_of_extremes(rate, y):
    ax = sk.diagnose(lambda t, y: -rate * y, 0.0, [y]).plot("tsit5")
    ax.figure.canvas.draw()


@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 12))
def test_the_departure_of_a_normal_matrix_is_rounding(seed, n):
    """And that of a prescribed one is as prescribed: Henrici's, over the norm."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    N = np.triu(rng.standard_normal((n, n)), 1)
    D = np.diag(rng.uniform(-3.0, -1.0, n))
    for A in (D, D + N):
        J = Q @ A @ Q.T
        found = sk.diagnose(
            lambda t, y, J=J: J @ y, 0.0, np.ones(n), jvp=lambda t, y, v, J=J: J @ v
        )
        wanted = np.linalg.norm(np.triu(A, 1)) / np.linalg.norm(A)
        # Schur's form is that of a matrix some n roundings away; Henrici's number is a norm of it.
        assert found.departure == pytest.approx(wanted, abs=50 * n * np.finfo(float).eps)


@pytest.mark.parametrize("exact", ["no", 2])
def test_exact_is_a_choice(exact):
    with pytest.raises(ValueError, match="exact must be True, False or None"):
        sk.diagnose(lambda t, y: -y, 0.0, [1.0], exact=exact)


def test_a_tensor_that_f_changes_is_told():
    with pytest.raises(ValueError, match="f changes its argument in place"):
        sk.diagnose(lambda t, y: y.mul_(-2.0), 0.0, torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("y", [None, "ab"])
def test_a_state_of_no_numbers_is_named(y):
    with pytest.raises(ValueError, match="y has dtype"):
        sk.diagnose(lambda t, y: -y, 0.0, y)


def test_plots_need_names():
    report = sk.diagnose(lambda t, y: -y, 0.0, [1.0])
    with pytest.raises(TypeError, match="methods must be names of explicit methods, not 3"):
        report.plot(3)

"""Products with the Jacobian: right to the size of error that each method promises, and honest."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from _tolerance import gamma
from hypothesis import given
from hypothesis import strategies as st
from problems import counted

from stiffkit.solvers.jacobian import row_norm
from stiffkit.stiffness import JacobianOperator, dense_jacobian, eigenvalues

torch = pytest.importorskip("torch")

METHODS = ["jvp", "torch", "difference", "central", "complex-step"]
DTYPES = [np.float64, np.float32]
seeds = st.integers(0, 2**32 - 1)


def xp_of(y):
    return torch if isinstance(y, torch.Tensor) else np


# Problems, written once for one state (n,), a batch (B, n), NumPy and torch -----------------------
#
# Beside f and its Jacobian each has what the error bounds need: `size`, the norm of f's terms
# without cancellation, `jac_size`, the same for its Jacobian, and bounds of ‖f''‖ and ‖f'''‖.


def rober(t, y):
    a, b, c = y[..., 0], y[..., 1], y[..., 2]
    slow, fast, back = 0.04 * a, 3e7 * b * b, 1e4 * b * c
    return xp_of(y).stack([back - slow, slow - back - fast, fast], -1)


def rober_jac(t, y):
    _, b, c = y
    first = [-0.04, 1e4 * c, 1e4 * b]
    last = [0.0, 6e7 * b, 0.0]
    return np.array([first, [-first[0], -first[1] - last[1], -first[2]], last])


def brusselator(t, y):
    x, z = y[..., 0], y[..., 1]
    return xp_of(y).stack([1.0 + x * x * z - 4.0 * x, 3.0 * x - x * x * z], -1)


def brusselator_jac(t, y):
    x, z = y
    return np.array([[2 * x * z - 4.0, x * x], [3.0 - 2 * x * z, -x * x]])


def pendulum(t, y):
    """With a length that swings, so that f and its Jacobian depend on t."""
    pull = 1.0 + 0.5 * xp_of(y).cos(t)
    return xp_of(y).stack([y[..., 1], -pull * xp_of(y).sin(y[..., 0]) - 0.3 * y[..., 1]], -1)


def pendulum_jac(t, y):
    return np.array([[0.0, 1.0], [-(1.0 + 0.5 * np.cos(t)) * np.cos(y[0]), -0.3]])


PROBLEMS = {
    "rober": SimpleNamespace(
        f=rober,
        jac=rober_jac,
        state=lambda rng: np.array([rng.uniform(0.1, 1), 4e-5 * rng.uniform(), rng.uniform()]),
        size=lambda y: 3 * (0.04 * y[0] + 3e7 * y[1] ** 2 + 1e4 * y[1] * y[2]),
        jac_size=lambda y: np.linalg.norm(rober_jac(0, y)),  # its entries have no cancellation
        second=lambda y: math.hypot(6e7, 6e7 + 1e4, 1e4),  # rows, for |v| = 1
        third=0.0,
    ),
    "brusselator": SimpleNamespace(
        f=brusselator,
        jac=brusselator_jac,
        state=lambda rng: rng.uniform(0.5, 3.0, 2),
        size=lambda y: math.hypot(1 + y[0] ** 2 * y[1] + 4 * y[0], 3 * y[0] + y[0] ** 2 * y[1]),
        jac_size=lambda y: np.linalg.norm(
            [2 * y[0] * y[1] + 4, y[0] ** 2, 3 + 2 * y[0] * y[1], y[0] ** 2]
        ),
        # (x² z)'' [v, v] = 2 z v₁² + 4 x v₁ v₂ ≤ 2 (z + x), and (x² z)''' ≤ 6 v₁² v₂ ≤ 6 / √6.75.
        second=lambda y: math.sqrt(2) * 2 * (y[0] + y[1]),
        third=math.sqrt(2) * 6 / math.sqrt(6.75),
    ),
    "pendulum": SimpleNamespace(
        f=pendulum,
        jac=pendulum_jac,
        state=lambda rng: rng.uniform(-3.0, 3.0, 2),
        size=lambda y: math.hypot(y[1], 1.5 + 0.3 * abs(y[1])),
        jac_size=lambda y: math.hypot(1.0, 1.5, 0.3),
        second=lambda y: 1.5,
        third=1.5,
    ),
}
OPERATIONS = 12
"""More than any component of the f above takes."""


def error_bound(problem, method, y, dtype):
    """Bound ‖error of J v‖ for |v| = 1, to first order in u.

    With δ the increment's norm: truncation (½ δ f'', δ²/6 f'''), the rounding of y + δ v seen
    through J, and the rounding of f itself.
    """
    u = float(np.finfo(dtype).eps) / 2
    norm_y, norm_j = np.linalg.norm(y), np.linalg.norm(problem.jac(0.7, y))
    of_f = gamma(OPERATIONS, dtype) * problem.size(np.abs(y))
    if method == "difference":
        delta = math.sqrt(2 * u) * norm_y
        return 0.5 * delta * problem.second(np.abs(y)) + (u * norm_y * norm_j + 2 * of_f) / delta
    if method == "central":
        delta = (2 * u) ** (1 / 3) * norm_y
        # The Jacobian itself changes by δ f'' between y and the points where rounding is seen.
        norm_j += delta * problem.second(np.abs(y))
        return delta**2 / 6 * problem.third + (u * norm_y * norm_j + of_f) / delta
    return gamma(OPERATIONS, dtype) * problem.jac_size(np.abs(y))


def operator_for(problem, method, y, **options):
    """An operator of `method` at t = 0.7; torch states for torch, and an exact jvp for jvp."""
    if method == "torch":
        return JacobianOperator(problem.f, 0.7, torch.as_tensor(y), method="torch", **options)
    if method == "jvp":

        def jvp(t, y, v):
            return (problem.jac(t, y.astype(np.float64)) @ v).astype(v.dtype)

        options["jvp"] = jvp
    return JacobianOperator(problem.f, 0.7, y, method=method, **options)


def like(v, method):
    return torch.as_tensor(v) if method == "torch" else v


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PROBLEMS)
@given(seed=seeds)
def test_products_err_by_no_more_than_their_method_must(name, method, dtype, seed):
    problem, rng = PROBLEMS[name], np.random.default_rng(seed)
    y = problem.state(rng).astype(dtype)
    v = rng.standard_normal(len(y)).astype(dtype)
    got = np.asarray(operator_for(problem, method, y)(like(v, method)), dtype=np.float64)
    wanted = problem.jac(0.7, y.astype(np.float64)) @ v.astype(np.float64)
    bound = error_bound(problem, method, y.astype(np.float64), dtype) * np.linalg.norm(v)
    # Terms of second order in u, and the few roundings of the quotient and of v's norm.
    bound = 1.05 * bound + gamma(OPERATIONS, dtype) * np.linalg.norm(wanted)
    assert np.linalg.norm(got - wanted) <= bound


@pytest.mark.parametrize(("method", "power"), [("difference", 1 / 2), ("central", 2 / 3)])
@pytest.mark.parametrize("name", ["brusselator", "pendulum"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_error_of_a_difference_quotient_is_of_the_order_of_its_power_of_u(
    dtype, name, method, power
):
    """For problems of order 1 the bounds above are no excuse for more than a few u^power."""
    problem, rng = PROBLEMS[name], np.random.default_rng(0)
    u = float(np.finfo(dtype).eps) / 2
    errors = []
    for _ in range(200):
        y = problem.state(rng).astype(dtype)
        v = rng.standard_normal(2).astype(dtype)
        wanted = problem.jac(0.7, y.astype(np.float64)) @ v.astype(np.float64)
        error = operator_for(problem, method, y)(v) - wanted
        errors.append(np.linalg.norm(error) / np.linalg.norm(wanted))
    # Both ends: an error far below would mean that something else than a quotient was computed.
    assert u**power / 30 <= np.median(errors) <= 10 * u**power


@given(seed=seeds)
def test_central_differences_have_no_truncation_error_where_f_is_quadratic(seed):
    """And one-sided ones have: the two are told apart by a direction of strong curvature."""
    problem, rng = PROBLEMS["rober"], np.random.default_rng(seed)
    y, v = problem.state(rng), np.array([0.0, 1.0, 0.0])
    wanted = problem.jac(0.7, y) @ v
    central = operator_for(problem, "central", y)(v) - wanted
    one_sided = operator_for(problem, "difference", y)(v) - wanted
    truncation = 0.5 * math.sqrt(np.finfo(float).eps) * np.linalg.norm(y) * math.hypot(6e7, 6e7)
    assert np.linalg.norm(central) <= 1e-3 * truncation
    assert 0.9 * truncation <= np.linalg.norm(one_sided) <= 1.1 * truncation


# What it costs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "calls"), [("difference", 8), ("central", 14), ("complex-step", 7)]
)
def test_calls_of_f_are_counted_one_by_one(method, calls):
    f = counted(pendulum)
    operator = JacobianOperator(f, 0.7, np.array([0.3, 1.0]), method=method)
    assert f.calls == operator.nfev == 0  # nothing is called before the first product
    for _ in range(7):
        operator(np.array([1.0, 2.0]))
    assert f.calls == operator.nfev == calls
    assert operator.products == 7
    assert set(f.times) == {0.7}


def test_a_jvp_counts_as_one_call_and_f_is_left_alone():
    f, jvp = counted(pendulum), counted(lambda t, y, v: pendulum_jac(t, y) @ v)
    operator = JacobianOperator(f, 0.7, np.array([0.3, 1.0]), jvp=jvp)
    assert operator.method == "jvp"
    for _ in range(5):
        operator(np.array([1.0, 2.0]))
    assert (operator.nfev, operator.products, jvp.calls, f.calls) == (5, 5, 5, 0)


def test_forward_mode_counts_as_one_call():
    f = counted(pendulum)
    operator = JacobianOperator(f, 0.7, torch.tensor([0.3, 1.0]))
    assert operator.method == "torch"
    for _ in range(5):
        operator(torch.tensor([1.0, 2.0]))
    assert (operator.nfev, operator.products, f.calls) == (5, 5, 5)


def test_numpy_states_get_difference_quotients_by_default():
    assert JacobianOperator(pendulum, 0.7, np.array([0.3, 1.0])).method == "difference"


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_known_slope_saves_a_call_and_changes_nothing(backend):
    y, v = np.array([0.3, 1.0]), np.array([1.0, 2.0])
    if backend == "torch":
        y, v = torch.as_tensor(y), torch.as_tensor(v)
    t = torch.tensor(0.7, dtype=torch.float64) if backend == "torch" else 0.7
    slope = pendulum(t, y)
    fresh = JacobianOperator(pendulum, t, y, method="difference")
    f = counted(pendulum)
    given_slope = JacobianOperator(f, t, y, method="difference", f_0=slope)
    np.testing.assert_array_equal(np.asarray(given_slope(v)), np.asarray(fresh(v)))
    assert f.calls == given_slope.nfev == 1
    assert fresh.nfev == 2


@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("method", ["difference", "central", "complex-step"])
def test_f_may_return_one_and_the_same_buffer(method, known):
    """As for solve: a difference of the buffer and itself would be zero."""
    buffer = np.zeros(2, dtype=complex if method == "complex-step" else float)

    def f(t, y):
        buffer[:] = pendulum(t, y)
        return buffer

    y, v = np.array([0.3, 1.0]), np.array([1.0, 2.0])
    slope = f(0.7, y).real if known else None
    wanted = JacobianOperator(pendulum, 0.7, y, method=method)(v)
    operator = JacobianOperator(f, 0.7, y, method=method, f_0=slope)
    np.testing.assert_array_equal(operator(v), wanted)


def test_a_tensor_buffer_may_be_reused_too():
    buffer = torch.zeros(2, dtype=torch.float64)

    def f(t, y):
        return buffer.copy_(pendulum(t, y))

    y, v = torch.tensor([0.3, 1.0]).double(), torch.tensor([1.0, 2.0]).double()
    got = JacobianOperator(f, 0.7, y, method="difference")(v)
    wanted = JacobianOperator(pendulum, 0.7, y, method="difference")(v)
    assert torch.equal(got, wanted)


# Shapes, times, arguments, dtypes -----------------------------------------------------------------


def coupled(t, y):
    """Any shape of one sample: J v = v Σy + y Σv."""
    return y * y.sum()


@pytest.mark.parametrize("method", ["difference", "central", "complex-step", "torch", "jvp"])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 1, 3)])
def test_states_and_directions_of_any_shape(shape, method):
    rng = np.random.default_rng(0)
    y, v = rng.uniform(0.5, 1.5, shape), rng.standard_normal(shape)
    wanted = v * y.sum() + y * v.sum()
    if method == "torch":
        y, v = torch.as_tensor(y), torch.as_tensor(v)
    operator = JacobianOperator(
        coupled, 0.0, y, method=method, jvp=lambda t, y, v: v * y.sum() + y * v.sum()
    )
    assert operator.n == wanted.size
    # ½ δ f'' and the rest of the one-sided bound: f'' [v, v] = 2 v Σv, and all else is of order 1.
    tolerance = 60 * np.finfo(float).eps ** (0.5 if method == "difference" else 2 / 3)
    got = operator(v)
    assert tuple(got.shape) == shape
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=0, atol=tolerance)
    flat = operator(v.reshape(-1))
    assert tuple(flat.shape) == (wanted.size,)
    np.testing.assert_array_equal(np.asarray(flat), np.asarray(got).reshape(-1))


def test_extra_arguments_reach_f():
    operator = JacobianOperator(
        lambda t, y, a, b: a * y**2 + b * t * y, 2.0, np.array([1.0, 3.0]), args=(5.0, 7.0)
    )
    # J = diag(2 a y + b t); relative error of one-sided differences as above.
    np.testing.assert_allclose(operator(np.array([1.0, 0.0])), [24.0, 0.0], rtol=1e-6)
    np.testing.assert_allclose(operator(np.array([0.0, 1.0])), [0.0, 44.0], rtol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_single_precision_stays_single_and_f_sees_nothing_else(method):
    seen = []

    def f(t, y):
        seen.append(str(y.dtype).removeprefix("torch."))
        return pendulum(t, y)

    problem = SimpleNamespace(**{**vars(PROBLEMS["pendulum"]), "f": f})
    y, v = np.array([0.3, 1.0], np.float32), np.array([1.0, 2.0], np.float32)
    got = operator_for(problem, method, y)(like(v, method))
    assert str(got.dtype).removeprefix("torch.") == "float32"
    wanted = {"complex-step": {"complex64"}, "jvp": set()}.get(method, {"float32"})
    assert set(seen) == wanted


def test_time_reaches_a_torch_right_hand_side_as_solve_gives_it():
    times = []

    def f(t, y):
        times.append(t)
        return torch.sin(t) * y

    y = torch.ones(2)
    for method in ("torch", "difference"):
        np.testing.assert_allclose(
            JacobianOperator(f, 0.5, y, method=method)(y), math.sin(0.5) * np.ones(2), rtol=1e-3
        )
    assert all(t.shape == () and t.dtype == torch.float32 for t in times)


def test_a_complex_state_has_a_complex_jacobian():
    A = np.array([[1j, 2.0], [0.5, -1.0 - 1j]])
    y, v = np.array([1.0 + 1j, 2.0 - 1j]), np.array([1j, 1.0 + 2j])
    wanted = A @ v + 2 * y * v
    for method, tolerance in (("difference", 1e-6), ("central", 1e-9)):
        got = JacobianOperator(lambda t, y: A @ y + y * y, 0.0, y, method=method)(v)
        np.testing.assert_allclose(got, wanted, rtol=tolerance)
    got = JacobianOperator(
        lambda t, y: torch.as_tensor(A) @ y + y * y, 0.0, torch.as_tensor(y), method="torch"
    )(torch.as_tensor(v))
    np.testing.assert_allclose(got, wanted, rtol=1e-14)


# Scale --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("power", [660, -660])  # 2^±660 ≈ 1e±199: an exact change of scale
def test_the_length_of_the_direction_is_no_matter(method, power):
    y, v = np.array([0.3, 1.0]), np.array([1.0, -2.0])
    operator = operator_for(PROBLEMS["pendulum"], method, y)
    got = np.asarray(operator(like(np.ldexp(v, power), method)))
    np.testing.assert_array_equal(got, np.ldexp(np.asarray(operator(like(v, method))), power))


@pytest.mark.parametrize("method", METHODS)
@given(seed=seeds)
def test_products_are_linear_in_the_direction(method, seed):
    problem, rng = PROBLEMS["brusselator"], np.random.default_rng(seed)
    y, v, w = problem.state(rng), *rng.standard_normal((2, 2))
    operator = operator_for(problem, method, y)
    got = np.asarray(operator(like(2 * v - 3 * w, method)))
    parts = 2 * np.asarray(operator(like(v, method))) - 3 * np.asarray(operator(like(w, method)))
    # Each of the three products has its own error.
    norms = np.linalg.norm(2 * v - 3 * w) + 2 * np.linalg.norm(v) + 3 * np.linalg.norm(w)
    bound = error_bound(problem, method, y, np.float64) + gamma(OPERATIONS) * problem.jac_size(y)
    assert np.linalg.norm(got - parts) <= 1.05 * bound * norms


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_no_direction_no_product(method, batched):
    y = np.array([[0.3, 1.0], [0.0, 0.0]]) if batched else np.array([0.3, 1.0])
    if method == "torch":
        y = torch.as_tensor(y)
    operator = JacobianOperator(
        pendulum, 0.7, y, method=method, batched=batched, jvp=lambda t, y, v: 3.0 * v
    )
    got = np.asarray(operator(y * 0.0))
    np.testing.assert_array_equal(got, np.zeros(y.shape))


@pytest.mark.parametrize("method", ["difference", "central", "complex-step"])
@pytest.mark.parametrize("rate", [1.0, 1e-6])
@pytest.mark.parametrize(
    ("dtype", "size"),
    [(np.float64, x) for x in (0.0, 1e-320, 1e-314, 1e-310, 1e-200, 1e150)]
    + [(np.float32, x) for x in (0.0, 1e-44, 1e-40, 1e-12, 1e-9, 1e20)],
)
def test_a_linear_problem_has_its_jacobian_at_any_size_of_state(method, dtype, size, rate):
    """No increment underflows, nor is it so small that subnormal numbers make it coarse."""
    A = (rate * np.array([[-1.0, 2.0], [3.0, -4.0]])).astype(dtype)
    y = np.full(2, size, dtype)
    got = JacobianOperator(lambda t, y: A @ y, 0.0, y, method=method)(np.ones(2, dtype))
    # Rounding of y + δv and of A y, ‖A‖ being 5.4: of the order u‖A‖ ‖y‖/δ, a rounding if complex.
    eps = float(np.finfo(dtype).eps)
    relative = {"difference": eps**0.5, "central": eps ** (2 / 3), "complex-step": eps}[method]
    np.testing.assert_allclose(got / rate, [1.0, -1.0], rtol=0, atol=4 * 5.4 * relative)


SCALES = np.array([1e-8, 1.0, 1e8])


def self_similar(t, y):
    """Each sample the same problem in its own unit: s g(y/s), whose Jacobian knows nothing of s."""
    if xp_of(y) is torch:
        s = torch.as_tensor(SCALES).to(y.real.dtype)[:, None]
    else:
        s = SCALES.astype(y.real.dtype)[:, None]
    return s * brusselator(t, y / s)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", ["difference", "central", "complex-step", "torch"])
@given(seed=seeds)
def test_every_sample_of_a_batch_has_increments_of_its_own(method, dtype, seed):
    problem, rng = PROBLEMS["brusselator"], np.random.default_rng(seed)
    states = np.array([problem.state(rng) for _ in SCALES])
    y = (SCALES[:, None] * states).astype(dtype)
    v = rng.standard_normal((3, 2)).astype(dtype)
    args = (torch.as_tensor(y), torch.as_tensor(v)) if method == "torch" else (y, v)
    got = np.asarray(
        JacobianOperator(self_similar, 0.0, args[0], method=method, batched=True)(args[1])
    )
    for b, state in enumerate(states):
        wanted = brusselator_jac(0.0, state) @ v[b].astype(np.float64)
        # y/s and s g round once more each, y itself too: three units of the arguments' rounding.
        bound = 3 * error_bound(problem, method, state, dtype) * np.linalg.norm(v[b])
        bound += gamma(OPERATIONS, dtype) * problem.jac_size(state) * np.linalg.norm(v[b])
        assert np.linalg.norm(got[b] - wanted) <= bound


def test_one_increment_for_all_would_not_do():
    """The test above can fail: with one norm for the batch the small sample's product is noise."""
    y = SCALES[:, None] * np.array([[1.0, 2.0]] * 3)
    v = np.ones((3, 2))
    got = JacobianOperator(self_similar, 0.0, y, batched=False)(v)
    wanted = brusselator_jac(0.0, np.array([1.0, 2.0])) @ v[0]
    assert np.linalg.norm(got[0] - wanted) > 0.1 * np.linalg.norm(wanted)


@pytest.mark.parametrize("method", ["difference", "central", "complex-step", "torch", "jvp"])
def test_a_batch_is_its_samples_one_by_one(method):
    rng = np.random.default_rng(1)
    y, v = rng.uniform(0.5, 3.0, (4, 2)), rng.standard_normal((4, 2))

    def jvp(t, y, v):
        return brusselator(t, y) * v

    def product(y, v, *, batched):
        y, v = like(y, method), like(v, method)
        return np.asarray(
            JacobianOperator(brusselator, 0.0, y, method=method, batched=batched, jvp=jvp)(v)
        )

    together = product(y, v, batched=True)
    for b in range(4):
        alone = product(y[b], v[b], batched=False)
        # Equal but for the order of a sum of two squares.
        np.testing.assert_allclose(together[b], alone, rtol=1e-6)


@pytest.mark.parametrize("method", ["difference", "complex-step", "torch"])
def test_samples_may_be_at_times_of_their_own(method):
    t = np.array([1.0, 2.0, 3.0])
    y, v = np.full((3, 2), 2.0), np.ones((3, 2))
    if method == "torch":
        t, y, v = (torch.as_tensor(x) for x in (t, y, v))
    operator = JacobianOperator(lambda t, y: t[:, None] * y**2, t, y, method=method, batched=True)
    wanted = 4.0 * np.array([[1.0], [2.0], [3.0]]) * np.ones((3, 2))
    np.testing.assert_allclose(np.asarray(operator(v)), wanted, rtol=1e-6)


# The matrix ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_dense_jacobian_is_the_analytic_one(name, method, dtype):
    problem = PROBLEMS[name]
    y = problem.state(np.random.default_rng(3)).astype(dtype)
    operator = operator_for(problem, method, y)
    got = dense_jacobian(operator)
    assert got.dtype == np.float64
    assert operator.products == len(y)
    wanted = problem.jac(0.7, y.astype(np.float64))
    bound = 1.05 * error_bound(problem, method, y.astype(np.float64), dtype)
    assert np.linalg.norm(got - wanted, axis=0).max() <= bound + gamma(4, dtype) * np.linalg.norm(
        wanted, 2
    )


@pytest.mark.parametrize("method", ["complex-step", "torch"])
def test_the_dense_jacobian_of_a_batch_has_a_matrix_for_each(method):
    y = np.random.default_rng(0).uniform(0.5, 3.0, (4, 2))
    operator = JacobianOperator(brusselator, 0.0, like(y, method), method=method, batched=True)
    got = dense_jacobian(operator)
    wanted = np.array([brusselator_jac(0.0, row) for row in y])
    # Every entry has at most three terms below 2·3·3 + 4.
    np.testing.assert_allclose(got, wanted, rtol=0, atol=22 * gamma(OPERATIONS))
    assert operator.products == 2
    spectrum = eigenvalues(operator)
    assert spectrum.values.shape == (4, 2)
    assert spectrum.products == 2


def test_the_dense_jacobian_of_a_state_of_two_axes_is_of_the_flat_state():
    y = np.array([[1.0, 2.0], [3.0, 4.0]])
    got = dense_jacobian(JacobianOperator(coupled, 0.0, y, method="complex-step"))
    wanted = y.sum() * np.eye(4) + np.outer(y.ravel(), np.ones(4))
    np.testing.assert_allclose(got, wanted, rtol=gamma(8))


def test_the_dense_jacobian_of_a_complex_state_is_complex():
    A = np.array([[1j, 2.0], [0.5, -1.0 - 1j]])
    operator = JacobianOperator(lambda t, y: A @ y, 0.0, np.ones(2, complex), method="central")
    np.testing.assert_allclose(dense_jacobian(operator), A, rtol=0, atol=1e-9)


def test_a_tensor_that_requires_a_gradient_is_a_state_like_any():
    y = torch.tensor([1.0, 2.0], dtype=torch.float64, requires_grad=True)
    for method in ("torch", "difference"):
        got = dense_jacobian(JacobianOperator(brusselator, 0.0, y, method=method))
        np.testing.assert_allclose(got, brusselator_jac(0.0, np.array([1.0, 2.0])), atol=1e-6)


def test_row_norms_neither_overflow_nor_vanish():
    x = np.array([[3e200, 4e200], [3e-200, 4e-200], [0.0, 0.0]])
    np.testing.assert_allclose(row_norm(x, np)[:, 0], [5e200, 5e-200, 0.0], rtol=gamma(6))
    got = row_norm(torch.as_tensor(x), torch)[:, 0]
    np.testing.assert_allclose(got, [5e200, 5e-200, 0.0], rtol=gamma(6))
    assert row_norm(np.zeros((3, 0)), np).shape == (3, 1)


# Refusals -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "options"),
    [
        ("method", {"method": "simplectic"}),
        ("jvp", {"method": "jvp"}),
        ("torch", {"method": "torch"}),
        ("complex-step", {"method": "complex-step", "y": np.ones(2, complex)}),
        ("complex-step", {"method": "complex-step", "y": torch.ones(2)}),
        ("batched", {"batched": True, "y": np.array(1.0)}),
        ("f_0", {"f_0": np.ones(3)}),
        ("f_0", {"f_0": np.ones((2, 1))}),
        ("f_0", {"f_0": np.ones(2, complex)}),
        ("dtype", {"y": np.array(["a", "b"])}),
    ],
)
def test_unusable_arguments_are_refused_by_name(named, options):
    options = {"y": np.ones(2), **options}
    with pytest.raises(ValueError, match=named):
        JacobianOperator(lambda t, y: -y, 0.0, **options)


def test_arguments_that_are_no_sequence_are_refused():
    with pytest.raises(TypeError, match="args"):
        JacobianOperator(lambda t, y, a: a * y, 0.0, np.ones(2), args=5.0)


@pytest.mark.parametrize("method", METHODS)
def test_a_direction_of_another_size_is_refused_and_not_counted(method):
    operator = operator_for(PROBLEMS["pendulum"], method, np.ones(2))
    with pytest.raises(ValueError, match="v has shape"):
        operator(like(np.ones(3), method))
    assert operator.products == operator.nfev == 0


@pytest.mark.parametrize("value", [np.ones(3), 1.0, np.ones((2, 1))])
def test_a_right_hand_side_of_another_shape_is_refused(value):
    operator = JacobianOperator(lambda t, y: value, 0.0, np.ones(2))
    with pytest.raises(ValueError, match=r"f\(t, y\) has shape"):
        operator(np.ones(2))


@pytest.mark.parametrize("method", ["torch", "difference", "central", "jvp"])
def test_what_changes_its_argument_is_told(method):
    def jvp(t, y, v):
        return v.mul_(2.0)

    y = torch.ones(2, dtype=torch.float64)
    f = (lambda t, y: 2.0 * y) if method == "jvp" else (lambda t, y: y.mul_(2.0))
    operator = JacobianOperator(f, 0.0, y, method=method, jvp=jvp if method == "jvp" else None)
    name = "jvp" if method == "jvp" else "f"
    with pytest.raises(ValueError, match=f"{name} changes its argument in place"):
        operator(torch.ones(2, dtype=torch.float64))
    assert y.tolist() == [1.0, 1.0]


def test_further_arguments_go_to_the_product_too():
    operator = JacobianOperator(
        lambda t, y, a: a * y, 0.0, np.ones(2), args=(3.0,), jvp=lambda t, y, v, a: a * v
    )
    np.testing.assert_array_equal(operator([1.0, 2.0]), [3.0, 6.0])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"y": np.array([1.0, math.inf])},
            ValueError,
            "y is not finite at component 1",
        ),
        ({"y": "ab"}, ValueError, "y has dtype"),
        ({"jvp": 3}, TypeError, "jvp must be a function, not 3"),
    ],
)
def test_unusable_states_and_products_are_named(options, error, match):
    with pytest.raises(error, match=match):
        JacobianOperator(**{"f": lambda t, y: -y, "t": 0.0, "y": np.ones(2)} | options)


@pytest.mark.parametrize("ours", ["numpy", "torch"])
def test_a_direction_is_of_the_kind_of_the_state(ours):
    arrays = {"numpy": np.ones(2), "torch": torch.ones(2, dtype=torch.float64)}
    operator = JacobianOperator(lambda t, y: -y, 0.0, arrays[ours])
    (other,) = (x for name, x in arrays.items() if name != ours)
    with pytest.raises(TypeError, match="v must be of y's kind"):
        operator(other)


@pytest.mark.parametrize("value", [3.0, [1.0, 2.0]])
def test_in_torch_f_returns_a_tensor(value):
    operator = JacobianOperator(lambda t, y: value, 0.0, torch.ones(2))
    with pytest.raises(ValueError, match=r"f\(t, y\) does not fit y.*must be a tensor"):
        operator(torch.ones(2))

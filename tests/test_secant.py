"""Free estimates: equal to what a plain loop computes by hand, and true where theory is exact."""

import math

import numpy as np
import pytest
from _tolerance import gamma
from hypothesis import given
from hypothesis import strategies as st
from problems import counted, pendulum, van_der_pol

import stiffkit as sk
from stiffkit.stiffness import NormRatio, PathSecant, RayleighQuotient, StageRatio
from stiffkit.stiffness.secant import Secant, norm_ratio, rayleigh_quotient, secant_at_start

torch = pytest.importorskip("torch")

WITH_PROBE = [name for name, tableau in sk.EXPLICIT.items() if tableau.probe is not None]
WITHOUT_PROBE = [name for name, tableau in sk.EXPLICIT.items() if tableau.probe is None]
FSAL = [name for name, tableau in sk.EXPLICIT.items() if tableau.fsal]
STAGE_RATIO = [name for name in WITH_PROBE if name in FSAL]
HOOKS = [NormRatio, RayleighQuotient, StageRatio, PathSecant]
seeds = st.integers(0, 2**32 - 1)


def stages_by_hand(f, t, h, y, tableau, lipschitz, terms):
    """States and slopes of the stages, and running bounds of the rounding errors of both.

    `lipschitz(z)` bounds ‖∂f/∂y‖ near z, and `terms(z)` is the norm of f's terms without
    cancellation.
    """
    z, k, z_error, k_error = [], [], [], []
    for c_i, row in zip(tableau.c, tableau.A, strict=True):
        total, size, inherited = y, np.linalg.norm(y), 0.0
        for a_ij, k_j, error in zip(row, k, k_error, strict=False):
            total = total + h * a_ij * k_j
            size += abs(h * a_ij) * np.linalg.norm(k_j)
            inherited += abs(h * a_ij) * error
        z.append(total)
        k.append(f(t + c_i * h, total))
        z_error.append(gamma(tableau.n_stages + 3) * size + inherited)
        k_error.append(lipschitz(total) * z_error[-1] + gamma(10) * terms(total))
    return z, k, z_error, k_error


def watched(f, grid, y0, method, *hooks):
    """Steps (t, h, y, y_new, size), and what each hook says at each, None included.

    `size` is the norm of the probe's state before any cancellation.
    """

    def step_itself(step, probe):
        i = step.tableau.probe
        size = np.linalg.norm(step.y) + sum(
            abs(step.h * a) * np.linalg.norm(k)
            for a, k in zip([] if i is None else step.tableau.A[i], step.k, strict=False)
        )
        return step.t, step.h, step.y.copy(), step.y_new.copy(), size

    steps, *said = readings(f, grid, y0, method, step_itself, *hooks)
    return steps, said


def readings(f, grid, y0, method, *hooks, **options):
    """What hooks say at each step, None included."""
    said = []

    def watch(step, probe):
        said.append([hook(step, probe) for hook in hooks])

    sk.solve(f, (grid[0], grid[-1]), y0, method, grid=grid, observe=watch, **options)
    return list(zip(*said, strict=True))


def secants(f, grid, y0, method, **options):
    """The pairs (Δy, Δf) at each step's start, as arrays."""

    def pair(step, probe):
        found = secant_at_start(step, probe)
        return None if found is None else tuple(np.asarray(x) for x in found)

    return readings(f, grid, y0, method, pair, **options)[0]


# Against a plain loop -----------------------------------------------------------------------------


def van_der_pol_slope(y):
    """Frobenius norm of its Jacobian."""
    return math.sqrt(1 + (2 * y[0] * y[1] + 1) ** 2 + (1 - y[0] ** 2) ** 2)


def van_der_pol_terms(y):
    return math.hypot(y[1], (1 + y[0] ** 2) * abs(y[1]) + abs(y[0]))


def close(reading, pair, dy_error, df_error, quotient=False):
    """Assert that a reading is that of the pair, whose differences are known to some error."""
    dy, df = pair
    size = np.linalg.norm(dy)
    ratio = np.linalg.norm(df) / size
    wanted = dy @ df / size**2 if quotient else ratio
    # Both the reading and the loop above have these errors; a quotient has Δy in it twice.
    assert abs(reading - wanted) <= 2 * (df_error + 2 * ratio * dy_error) / size


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("method", sk.EXPLICIT)
def test_readings_are_those_of_a_plain_loop(method, forward):
    tableau = sk.METHODS[method]
    grid = np.linspace(0.0, 4.0 if forward else -1.0, 11)
    at_one = [
        i
        for i, c in enumerate(tableau.c)
        if c == 1.0 and not np.array_equal(tableau.A[i], tableau.b)
    ]
    steps, said = watched(
        van_der_pol, grid, np.array([2.0, 0.0]), method, *(hook() for hook in HOOKS)
    )
    assert len(steps) == 10
    before = None
    for (t, h, y, y_new, _), rho, rayleigh, stage, path in zip(steps, *said, strict=True):
        z, k, z_error, k_error = stages_by_hand(
            van_der_pol, t, h, y, tableau, van_der_pol_slope, van_der_pol_terms
        )
        if before is None:
            assert rho is None
            assert rayleigh is None
        else:
            z_b, k_b, *errors = before
            pair = (y - z_b, k[0] - k_b)
            close(rho, pair, errors[0], errors[1] + k_error[0])
            close(rayleigh, pair, errors[0], errors[1] + k_error[0], quotient=True)
        if at_one:
            i = at_one[-1]
            before = z[i], k[i], z_error[i], k_error[i]
        f_new = van_der_pol(t + h, y_new)
        f_error = gamma(10) * van_der_pol_terms(y_new)
        if method in FSAL:
            pair = (y_new - y, f_new - k[0])
            close(path, pair, gamma(2) * np.linalg.norm(y), f_error + k_error[0])
        else:
            assert path is None
        if at_one and method in FSAL:
            pair = (y_new - before[0], f_new - before[1])
            close(stage / abs(h), pair, before[2], f_error + before[3])
        else:
            assert stage is None


@pytest.mark.parametrize("method", ["euler", "midpoint", "ralston", "bosh3"])
def test_methods_without_a_second_stage_at_the_end_say_nothing(method):
    assert method in WITHOUT_PROBE
    grid = np.linspace(0.0, 1.0, 6)
    said = readings(pendulum, grid, np.array([1.0, 0.0]), method, *(hook() for hook in HOOKS[:3]))
    assert all(reading is None for column in said for reading in column)
    log = sk.solve(pendulum, (0, 1), [1.0, 0.0], method, grid=5, observe=NormRatio()).log
    assert np.isnan(log["rho"]).all()


def test_of_heun_the_predictor_of_the_step_before_is_used():
    grid, y = np.linspace(0.0, 1.0, 6), np.array([1.0, 0.5])
    (rho,) = readings(pendulum, grid, y, "heun", NormRatio())
    assert rho[0] is None
    for m, h in enumerate(np.diff(grid)[:-1]):
        predictor = y + h * pendulum(0, y)
        y = y + h / 2 * (pendulum(0, y) + pendulum(0, predictor))
        wanted = np.linalg.norm(pendulum(0, y) - pendulum(0, predictor))
        wanted /= np.linalg.norm(y - predictor)
        # ‖Δy‖ is of the order h²/2 = 0.02: a hundred roundings.
        np.testing.assert_allclose(rho[m + 1], wanted, rtol=100 * gamma(10))


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("method", ["heun", "dopri5", "vern7", "bosh3"])
def test_observing_adds_no_calls_of_f_and_changes_nothing(method, hook):
    f, g = counted(van_der_pol), counted(van_der_pol)
    options = {} if sk.METHODS[method].error_order else {"grid": 50}
    plain = sk.solve(f, (0.0, 5.0), [2.0, 0.0], method, **options)
    watched = sk.solve(g, (0.0, 5.0), [2.0, 0.0], method, observe=hook(), **options)
    assert f.calls == g.calls == watched.stats["nfev"]
    np.testing.assert_array_equal(plain.y, watched.y)
    assert hook().name in watched.log


# Linear problems: Δf = A Δy -----------------------------------------------------------------------


def linear(A):
    return lambda t, y: A @ y


@pytest.mark.parametrize("method", WITH_PROBE)
@given(seed=seeds, n=st.integers(1, 6))
def test_the_two_differences_are_related_by_the_jacobian(method, seed, n):
    rng = np.random.default_rng(seed)
    A, y0 = rng.standard_normal((n, n)), rng.standard_normal(n)
    norm, ends = np.linalg.norm(A, 2), np.linalg.eigvalsh((A + A.T) / 2)[[0, -1]]
    grid = np.linspace(0.0, 6.0 / norm, 5)
    steps, said = watched(
        linear(A), grid, y0, method, NormRatio(), RayleighQuotient(), secant_at_start
    )
    assert [x is None for x in said[2]] == [True, False, False, False]
    rounding = 4 * gamma(n + sk.METHODS[method].n_stages + 3) * np.linalg.norm(A)
    for m in range(1, 4):
        ratio, quotient, (dy, df) = (column[m] for column in said)
        # Two states are subtracted, each with roundings of its own size; so are two slopes.
        noise = rounding * (np.linalg.norm(steps[m][2]) + steps[m - 1][4])
        assert np.linalg.norm(df - A @ dy) <= noise
        noise /= np.linalg.norm(dy)
        assert ratio <= norm + noise
        assert abs(quotient) <= ratio * (1 + gamma(20))
        assert ends[0] - noise <= quotient <= ends[1] + noise


@pytest.mark.parametrize("method", WITH_PROBE)
@pytest.mark.parametrize("rate", [2.0, -2.0])
def test_for_one_mode_the_readings_are_its_rate_with_its_sign(method, rate):
    """The norm ratio cannot tell growth from decay; the Rayleigh quotient can."""
    grid = np.linspace(0.0, 4.0, 6)  # |hλ| = 1.6: Δy is not small, even at order 9
    rho, rayleigh = readings(
        lambda t, y: rate * y, grid, np.array([1.0, 0.5]), method, NormRatio(), RayleighQuotient()
    )
    np.testing.assert_allclose(rho[1:], 2.0, rtol=1e-6)
    np.testing.assert_allclose(rayleigh[1:], rate, rtol=1e-6)


@pytest.mark.parametrize("method", WITH_PROBE)
def test_a_growing_mode_beside_decaying_ones_shows_in_the_sign(method):
    """Once the growing mode dominates Δy; the others are orthogonal to it."""
    A = np.diag([1.5, -0.5, -1.0])
    grid = np.linspace(0.0, 20.0, 21)
    (rayleigh,) = readings(linear(A), grid, np.ones(3), method, RayleighQuotient())
    np.testing.assert_allclose(rayleigh[-5:], 1.5, rtol=1e-3)


@pytest.mark.parametrize("method", ["heun", "dopri5", "vern6"])
def test_a_rotation_has_a_norm_and_no_growth(method):
    """Skew A: Δf ⟂ Δy, so that the quotient is 0 whatever Δy is, and the ratio |λ|."""
    A = np.array([[0.0, 3.0], [-3.0, 0.0]])
    grid = np.linspace(0.0, 2.0, 9)
    rho, rayleigh = readings(linear(A), grid, np.ones(2), method, NormRatio(), RayleighQuotient())
    np.testing.assert_allclose(rho[1:], 3.0, rtol=1e-8)
    np.testing.assert_allclose(rayleigh[1:], 0.0, atol=1e-8)


@pytest.mark.parametrize("method", WITH_PROBE)
@given(seed=seeds)
def test_complex_states_have_real_readings(method, seed):
    """y' = λy with complex λ: the ratio is |λ|, the quotient Re λ."""
    rng = np.random.default_rng(seed)
    rate = complex(rng.uniform(-2, 1), rng.uniform(-2, 2))
    grid = np.linspace(0.0, 8.0 / abs(rate), 5)
    y0 = rng.standard_normal(3) + 1j * rng.standard_normal(3)
    rho, rayleigh = readings(
        lambda t, y: rate * y, grid, y0, method, NormRatio(), RayleighQuotient()
    )
    np.testing.assert_allclose(rho[1:], abs(rate), rtol=1e-6)
    np.testing.assert_allclose(rayleigh[1:], rate.real, rtol=0, atol=1e-6 * abs(rate))
    assert all(isinstance(x, float) for x in (*rho[1:], *rayleigh[1:]))


@pytest.mark.parametrize("method", ["heun", "dopri5", "tsit5", "rk4"])
def test_a_guide_that_moves_the_state_leaves_the_secant_true(method):
    """The start of a step is what was committed, not what was computed."""
    A = np.array([[-1.0, 2.0], [0.5, -3.0]])
    found = secants(
        linear(A),
        np.linspace(0.0, 2.0, 6),
        np.ones(2),
        method,
        guide=lambda step, probe: step.y_new + 0.1,
    )
    assert found[0] is None
    for dy, df in found[1:]:
        assert np.linalg.norm(dy) > 0.05  # the guide's shift is in it
        np.testing.assert_allclose(df, A @ dy, rtol=0, atol=100 * gamma(20))  # states are below 2


@pytest.mark.parametrize("method", WITH_PROBE)
@given(seed=seeds)
def test_a_force_in_time_is_seen_along_the_path_alone(method, seed):
    """f = A y + g(t): the two states of a secant have one time, and g cancels."""
    rng = np.random.default_rng(seed)
    A = np.diag(-rng.uniform(1.0, 2.0, 3))
    force = 1000.0 * rng.standard_normal(3)

    def f(t, y):
        return A @ y + force * np.sin(5.0 * t)

    grid, y0 = np.linspace(0.0, 2.0, 6), np.ones(3)
    hooks = [NormRatio(), StageRatio(), PathSecant()]
    rho, stage, path = readings(f, grid, y0, method, *hooks)
    found = secants(f, grid, y0, method)
    for (dy, df), ratio in zip(found[1:], rho[1:], strict=True):
        # Slopes of up to 1e4 are subtracted.
        noise = gamma(1000) * 1e4 / np.linalg.norm(dy)
        np.testing.assert_allclose(df, A @ dy, rtol=0, atol=noise * np.linalg.norm(dy))
        assert 1.0 - noise <= ratio <= 2.0 + noise
    if method in STAGE_RATIO:
        assert max(stage) <= 0.4 * 2.0 * (1 + 1e-6)  # h = 0.4
    if method in FSAL:
        assert max(path) > 4.0  # twice what A could give, for the force turns at the rate 5


# Hairer's ratio -----------------------------------------------------------------------------------


STIFF = -np.logspace(0, 4, 5)


def stiff_decay(t, y):
    """Modes from −1 to −1e4, with a slow solution."""
    return STIFF * (y - math.cos(t))


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bs5"])
def test_the_stage_ratio_sits_at_the_stability_limit_while_that_limits_the_step(method):
    solution = sk.solve(stiff_decay, (0.0, 3.0), np.ones(5), method, observe=StageRatio())
    limit = sk.METHODS[method].real_stability_limit
    readings = solution.log["h_rho"][solution.log["accepted"]]
    settled = readings[len(readings) // 5 :] / limit
    assert len(settled) > 1000
    assert 0.5 <= np.median(settled) <= 1.1
    assert (settled >= 0.5).mean() >= 0.95
    # The step itself wavers about the limit, and the reading with it.
    assert (settled <= 1.3).mean() >= 0.95


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bs5"])
def test_the_stage_ratio_stays_small_while_accuracy_limits_the_step(method):
    solution = sk.solve(pendulum, (0.0, 20.0), [1.0, 0.0], method, observe=StageRatio(), rtol=1e-8)
    limit = sk.METHODS[method].real_stability_limit
    assert np.nanmax(solution.log["h_rho"]) <= 0.25 * limit


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("method", STAGE_RATIO)
def test_the_stage_ratio_is_the_step_times_the_rate_either_way_in_time(method, sign):
    grid = sign * np.linspace(0.0, 4.0, 5)
    (stage,) = readings(lambda t, y: -2.0 * y, grid, np.ones(2), method, StageRatio())
    np.testing.assert_allclose(stage, 2.0, rtol=1e-6)


# Batches, backends, edges -------------------------------------------------------------------------


def spinners(t, y):
    """Rows (B, 2), each with its own frequency and decay."""
    rates = np.array([0.3, 1.0, 2.0, 3.0])
    if isinstance(y, torch.Tensor):
        rates = torch.as_tensor(rates).to(y.dtype)
        return torch.stack([y[:, 1], -(rates**2) * torch.sin(y[:, 0]) - 0.1 * y[:, 1]], -1)
    return np.stack([y[:, 1], -(rates**2) * np.sin(y[:, 0]) - 0.1 * y[:, 1]], -1)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("method", ["heun", "dopri5", "bs5", "rk4"])
def test_readings_of_a_batch_are_those_of_its_samples(method, backend):
    grid, rng = np.linspace(0.0, 3.0, 9), np.random.default_rng(0)
    y0 = rng.uniform(-2, 2, (4, 2))
    state = torch.as_tensor(y0) if backend == "torch" else y0
    hooks = [hook(batched=True) for hook in HOOKS]
    together = readings(spinners, grid, state, method, *hooks)
    rates = np.array([0.3, 1.0, 2.0, 3.0])
    for b, rate in enumerate(rates):

        def alone(t, y, rate=rate):
            return np.array([y[1], -(rate**2) * np.sin(y[0]) - 0.1 * y[1]])

        single = readings(alone, grid, y0[b], method, *(hook() for hook in HOOKS))
        for many, one in zip(together, single, strict=True):
            for batch, value in zip(many, one, strict=True):
                if value is None:
                    assert batch is None
                else:
                    assert isinstance(batch, np.ndarray)
                    assert batch.shape == (4,)
                    # ‖Δy‖ goes down to 1e-8 ‖y‖ for the slow one.
                    np.testing.assert_allclose(batch[b], value, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("requires_grad", [False, True])
def test_torch_reads_what_numpy_reads(requires_grad, dtype):
    grid, y0 = np.linspace(0.0, 3.0, 9), np.random.default_rng(1).uniform(-2, 2, (4, 2))
    state = torch.as_tensor(y0).to(getattr(torch, dtype)).requires_grad_(requires_grad)
    hooks = [hook() for hook in HOOKS]
    one = readings(spinners, grid, y0.astype(dtype), "heun", *hooks)
    other = readings(spinners, grid, state, "heun", *hooks)
    # ‖Δy‖ is of the order h²/2 ‖f'‖: a few hundred roundings of the dtype.
    tolerance = 1000 * np.finfo(dtype).eps
    for a, b in zip(one, other, strict=True):
        assert [x is None for x in a] == [x is None for x in b]
        values = [(x, y) for x, y in zip(a, b, strict=True) if x is not None]
        assert all(isinstance(x, float) and isinstance(y, float) for x, y in values)
        np.testing.assert_allclose(
            [x for x, _ in values], [y for _, y in values], rtol=tolerance, atol=tolerance
        )


def test_without_batched_all_axes_are_one_state():
    grid, y0 = np.linspace(0.0, 3.0, 9), np.random.default_rng(1).uniform(-2, 2, (4, 2))
    (flat,) = readings(
        lambda t, y: spinners(t, y.reshape(4, 2)).ravel(), grid, y0.ravel(), "heun", NormRatio()
    )
    (shaped,) = readings(spinners, grid, y0, "heun", NormRatio())
    np.testing.assert_allclose(shaped[1:], flat[1:], rtol=gamma(1000))


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("method", ["heun", "dopri5"])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_where_nothing_moves_every_reading_is_zero(method, batched, backend):
    y0 = np.ones((2, 3))
    y0 = torch.as_tensor(y0) if backend == "torch" else y0
    hooks = [hook(batched=batched) for hook in HOOKS]
    said = readings(lambda t, y: 0.0 * y, np.linspace(0.0, 1.0, 4), y0, method, *hooks)
    for column in said:
        for reading in column:
            assert reading is None or np.all(np.asarray(reading) == 0.0)
    assert said[0][-1] is not None


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
@given(seed=seeds, share=st.floats(-0.9, 0.9))
def test_the_size_of_the_differences_is_no_matter(backend, dtype, seed, share):
    """Powers of two scale exactly; squares of the scaled differences would vanish or overflow."""
    rng = np.random.default_rng(seed)
    power = int(share * (120 if dtype == np.float32 else 1000))
    dy, df = rng.standard_normal((2, 3, 4)).astype(dtype)

    def pair(scale):
        arrays = (dy * 2.0**scale, df * 2.0**scale)
        return Secant(*(torch.as_tensor(a) if backend == "torch" else a for a in arrays))

    for reading in (norm_ratio, rayleigh_quotient):
        for batched in (False, True):
            np.testing.assert_array_equal(
                reading(pair(power), batched=batched), reading(pair(0), batched=batched)
            )


def test_a_batch_may_hold_a_difference_of_zero():
    pair = Secant(np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[1.0, 2.0], [6.0, 8.0]]))
    np.testing.assert_array_equal(norm_ratio(pair, batched=True), [0.0, 2.0])
    np.testing.assert_array_equal(rayleigh_quotient(pair, batched=True), [0.0, 2.0])


def test_readings_go_to_the_log_under_their_names():
    log = sk.solve(
        van_der_pol, (0, 5), [2.0, 0.0], "dopri5", observe=[hook() for hook in HOOKS]
    ).log
    assert {"rho", "rayleigh", "h_rho", "path_curvature"} <= set(log)
    named = sk.solve(van_der_pol, (0, 5), [2.0, 0.0], "dopri5", observe=NormRatio(name="mine")).log
    np.testing.assert_array_equal(named["mine"], log["rho"])
    accepted = log["accepted"]
    assert np.isnan(log["rho"][~accepted]).all()
    assert np.isfinite(log["rho"][accepted][1:]).all()

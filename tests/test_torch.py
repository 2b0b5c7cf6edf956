"""The torch backend: NumPy's numbers, autograd through the solve, and no silent conversion."""

import dataclasses
import math

import numpy as np
import pytest
from problems import ADAPTIVE, FIXED, close_solution, counted, lotka_volterra, pendulum

import stiffkit as sk
from stiffkit import Status

torch = pytest.importorskip("torch")

EPS = np.finfo(float).eps


def torch_lotka(t, y):
    return torch.stack([1.5 * y[0] - y[0] * y[1], y[0] * y[1] - 3 * y[1]])


def torch_pendulum(t, y):
    return torch.stack([y[1], -torch.sin(y[0])])


def tensor(values, grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


# The same numbers as NumPy ------------------------------------------------------------------------


@pytest.mark.parametrize("method", ADAPTIVE)
def test_every_adaptive_method_gives_numpys_numbers(method):
    options = {"method": method, "rtol": 1e-4, "atol": 1e-6}
    ours = sk.solve(lotka_volterra, (0.0, 2.0), [2.0, 1.0], **options)
    tensors = sk.solve(torch_lotka, (0.0, 2.0), tensor([2.0, 1.0]), **options)
    close_solution(ours, tensors)
    assert tensors.stats == ours.stats
    assert type(tensors.y) is type(tensors.t) is torch.Tensor
    assert tensors.t.dtype == torch.float64


@pytest.mark.parametrize("method", [*ADAPTIVE, *FIXED])
def test_every_method_gives_numpys_numbers_to_rounding_on_a_grid(method):
    grid = np.array([0.0, 0.1, 0.25, 0.5, 1.0])
    ours = sk.solve(lotka_volterra, (0.0, 1.0), [2.0, 1.0], method, grid=grid, dense=True)
    tensors = sk.solve(torch_lotka, (0.0, 1.0), tensor([2.0, 1.0]), method, grid=grid, dense=True)
    # Sums run in another order: eps times the size of the coefficients, per step.
    size = (1 + np.abs(sk.METHODS[method].A).sum()) * (1 + np.abs(sk.METHODS[method].b).sum())
    tolerance = {"rtol": 64 * size * EPS, "atol": 64 * size * EPS}
    np.testing.assert_allclose(tensors.y.numpy(), ours.y, **tolerance)
    np.testing.assert_allclose(tensors([0.3, 0.7]).numpy(), ours([0.3, 0.7]), rtol=1e-9)
    assert tensors.stats == ours.stats


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.complex64, torch.complex128])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
@pytest.mark.parametrize("grad", [False, True])
def test_f_gets_a_0d_tensor_of_time_and_a_state_of_its_shape_and_dtype(shape, dtype, grad):
    def f(t, y):
        assert t.shape == ()
        assert t.dtype == y.real.dtype
        assert t.device == y.device
        assert (y.shape, y.dtype) == (shape, dtype)
        return -y * t

    y0 = torch.ones(shape, dtype=dtype, requires_grad=grad)
    for options in ({}, {"grid": 4}, {"dense": True}, {"t_eval": [0.3]}):
        solution = sk.solve(f, (0.0, 1.0), y0, rtol=1e-3, atol=1e-5, **options)
        assert solution.status is Status.success
        assert solution.y.dtype == dtype
        assert solution.y.shape[1:] == shape


@pytest.mark.parametrize("kind", [torch.int64, torch.int8, torch.bool])
def test_an_integer_state_becomes_the_default_dtype(kind):
    solution = sk.solve(lambda t, y: -y, (0.0, 1.0), torch.ones(2).to(kind))
    assert solution.y.dtype == torch.get_default_dtype()


@pytest.mark.parametrize(
    "slope",
    [
        lambda y: y.float(),
        lambda y: y.to(torch.complex128),
        lambda y: y.numpy(),
        lambda y: 1.0,
        lambda y: [1.0, 1.0],
        lambda y: y.long(),
        lambda y: y[:1],
        lambda y: y[None],
    ],
)
def test_a_slope_of_another_dtype_kind_or_shape_is_refused(slope):
    f = counted(lambda t, y: slope(y))
    with pytest.raises((TypeError, ValueError), match="f"):
        sk.solve(f, (0.0, 1.0), tensor([1.0, 2.0]))
    assert f.calls == 1


@pytest.mark.parametrize("grad", [False, True])
def test_a_slope_that_turns_to_another_dtype_later_is_not_converted_silently(grad):
    def f(t, y):
        return -y if t < 0.5 else -y.float()

    with pytest.raises((TypeError, ValueError), match=r"dtype|float32"):
        sk.solve(f, (0.0, 1.0), tensor([1.0, 2.0], grad), max_step=0.2)


@pytest.mark.parametrize("layout", ["transposed", "expanded", "strided"])
def test_a_state_that_is_not_contiguous_is_its_copy(layout):
    y0 = {
        "transposed": tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]).T,
        "expanded": tensor([1.0]).expand(3, 2),
        "strided": tensor([[1.0, 9.0, 2.0, 9.0]] * 3)[:, ::2],
    }[layout]
    solution = sk.solve(lambda t, y: torch.cos(y), (0.0, 1.0), y0)
    plain = sk.solve(lambda t, y: torch.cos(y), (0.0, 1.0), y0.contiguous().clone())
    assert torch.equal(solution.y, plain.y)


def test_inference_mode_and_no_grad_work():
    expected = sk.solve(torch_pendulum, (0.0, 2.0), tensor([1.0, 0.0]))
    with torch.inference_mode():
        assert torch.equal(sk.solve(torch_pendulum, (0.0, 2.0), tensor([1.0, 0.0])).y, expected.y)
    with torch.no_grad():
        solution = sk.solve(torch_pendulum, (0.0, 2.0), tensor([1.0, 0.0], True))
    assert torch.equal(solution.y, expected.y)
    assert not solution.y.requires_grad


def test_a_module_of_float32_is_a_right_hand_side():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
    solution = sk.solve(lambda t, y: net(y), (0.0, 1.0), torch.ones(4, 3), rtol=1e-4)
    assert solution.y.dtype == torch.float32
    solution.y[-1].sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in net.parameters())


def test_tolerances_grids_and_output_times_may_be_tensors():
    y0 = tensor([1.0, 2.0])
    plain = sk.solve(torch_pendulum, (0.0, 1.0), y0, t_eval=[0.5, 1.0])
    tensors = sk.solve(
        torch_pendulum, (torch.tensor(0.0), torch.tensor(1.0)), y0, t_eval=tensor([0.5, 1.0])
    )
    assert torch.equal(tensors.y, plain.y)
    assert sk.solve(torch_pendulum, (0.0, 1.0), y0, atol=tensor([1e-9, 1e-8])).success


# Autograd -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("options", [{}, {"dense": True}, {"t_eval": [0.5, 1.0]}], ids=str)
def test_recording_a_gradient_does_not_change_the_numbers(method, options):
    plain = sk.solve(torch_lotka, (0.0, 1.0), tensor([2.0, 1.0]), method, rtol=1e-4, **options)
    recorded = sk.solve(
        torch_lotka, (0.0, 1.0), tensor([2.0, 1.0], True), method, rtol=1e-4, **options
    )
    assert recorded.y.requires_grad
    assert recorded.stats == plain.stats
    close_solution(plain, dataclasses.replace(recorded, y=recorded.y.detach()))


@pytest.mark.parametrize("method", [*ADAPTIVE, *FIXED])
def test_the_gradient_of_a_linear_problem_is_exact(method):
    # y(1) = y0 R(a h)^n: the derivatives by y0 and a of the discrete solution, by hand.
    a, y0, n = tensor(-0.7, True), tensor([2.0], True), 4
    solution = sk.solve(lambda t, y: a * y, (0.0, 1.0), y0, method, grid=n)
    by_y0, by_a = torch.autograd.grad(solution.y[-1, 0], (y0, a))
    tableau, h = sk.METHODS[method], 1 / n
    step = 2.0**-10
    R = tableau.R(np.array([-0.7 * h]))[0].real
    slope = (tableau.R(np.array([-0.7 * h + step])) - tableau.R(np.array([-0.7 * h - step])))[
        0
    ].real / (2 * step)
    assert by_y0.item() == pytest.approx(R**n, rel=1e-11)
    # The central difference is good to step² R'''/6, some 2e-7.
    assert by_a.item() == pytest.approx(2.0 * n * R ** (n - 1) * slope * h, rel=1e-6)


@pytest.mark.parametrize("method", ["tsit5", "dop853", "bs5", "heun"])
def test_the_gradient_is_that_of_the_exact_solution_to_the_tolerance(method):
    # y = y0 exp(a t): dy/dy0 = exp(a t), dy/da = t y. Steps are constants to autograd, so that the
    # gradient converges as the solution does.
    a, y0 = tensor(-0.7, True), tensor([2.0], True)
    solution = sk.solve(lambda t, y: a * y, (0.0, 2.0), y0, method, rtol=1e-7, atol=1e-9)
    by_y0, by_a = torch.autograd.grad(solution.y[-1, 0], (y0, a))
    assert by_y0.item() == pytest.approx(math.exp(-1.4), rel=1e-4)
    assert by_a.item() == pytest.approx(2 * 2.0 * math.exp(-1.4), rel=1e-4)


@pytest.mark.parametrize("method", ["tsit5", "vern7", "rk4", "bosh3"])
@pytest.mark.parametrize("options", [{}, {"dense": True}, {"t_eval": [0.4, 1.0]}], ids=str)
def test_the_gradient_on_a_grid_passes_gradcheck(method, options):
    # On a grid the discrete solution is a smooth function: finite differences are its derivative.
    def end(y0, a):
        solution = sk.solve(
            lambda t, y: torch.stack([y[1], -a * torch.sin(y[0])]),
            (0.0, 1.0),
            y0,
            method,
            grid=4,
            **options,
        )
        return solution.y[-1] if "dense" not in options else solution(0.6)

    assert torch.autograd.gradcheck(end, (tensor([1.0, 0.3], True), tensor(1.2, True)))


def test_the_gradient_of_an_adaptive_solve_agrees_with_finite_differences():
    def end(y0):
        return sk.solve(torch_lotka, (0.0, 1.0), y0, rtol=1e-10, atol=1e-12).y[-1].sum()

    y0, delta = tensor([2.0, 1.0], True), 1e-4
    (gradient,) = torch.autograd.grad(end(y0), y0)
    for i in range(2):
        shift = torch.zeros(2, dtype=torch.float64)
        shift[i] = delta
        difference = (end(y0.detach() + shift) - end(y0.detach() - shift)) / (2 * delta)
        # δ² y'''/6 and the solves' errors over δ: 1e-8 and 1e-6.
        assert gradient[i].item() == pytest.approx(difference.item(), rel=1e-5)


def test_the_gradient_reaches_y0_args_and_every_output_time():
    y0, a = tensor([1.0, 2.0], True), tensor(0.5, True)
    solution = sk.solve(lambda t, y, a: -a * y, (0.0, 1.0), y0, t_eval=[0.0, 0.3, 1.0], args=(a,))
    for row in solution.y:
        (by_y0,) = torch.autograd.grad(row.sum(), y0, retain_graph=True)
        assert bool((by_y0 != 0).all())
    np.testing.assert_array_equal(by_y0[0].item(), by_y0[1].item())


def gradient_or_error(a, f, **options):
    """The gradient of y(1) by `a`, which f or a guide uses though nothing shows it at the start."""
    try:
        solution = sk.solve(f, (0.0, 1.0), tensor([1.0]), **options)
    except (RuntimeError, ValueError) as error:
        return str(error)
    return torch.autograd.grad(solution.y[-1, 0], a)[0].item()


def test_a_parameter_that_matters_only_later_gets_its_gradient_or_a_helpful_error():
    # f(t0, y0) does not depend on a, and y0 wants no gradient: at the start nothing shows that
    # a history will be needed.
    a = tensor(0.7, True)
    got = gradient_or_error(a, lambda t, y: -y if t < 0.5 else -a * y, grid=[0.0, 0.5, 1.0])
    if isinstance(got, str):
        assert "y0" in got  # what helps: y0.requires_grad_()
    else:
        assert got == pytest.approx(-0.5 * math.exp(-0.5 - 0.35), rel=1e-3)


def test_a_guide_that_alone_wants_a_gradient_gets_it_or_a_helpful_error():
    scale = tensor(0.9, True)
    got = gradient_or_error(
        scale, lambda t, y: -y, grid=3, guide=lambda step, probe: scale * step.y_new
    )
    if isinstance(got, str):
        assert "y0" in got
    else:
        # y = (s R)^3, and R^3 is e^-1 to the error of three steps.
        assert got == pytest.approx(3 * 0.9**2 * math.exp(-1), rel=1e-4)


def test_the_gradient_flows_through_a_guide():
    scale = tensor(0.9, True)
    solution = sk.solve(
        lambda t, y: -y,
        (0.0, 1.0),
        tensor([1.0], True),
        grid=3,
        guide=lambda step, probe: scale * step.y_new,
    )
    (by_scale,) = torch.autograd.grad(solution.y[-1, 0], scale)
    # y = (s R)^3
    assert by_scale.item() == pytest.approx(3 * solution.y[-1, 0].item() / 0.9, rel=1e-12)


def test_events_and_hooks_work_while_a_gradient_is_recorded():
    def g(t, y):
        return y[0] - 0.5

    g.terminal = True
    y0 = tensor([1.0, 1.0], True)
    solution = sk.solve(
        lambda t, y: -y, (0.0, 2.0), y0, events=g, observe=lambda s, p: s.err, dense=True
    )
    assert solution.status is Status.event
    assert float(solution.t[-1]) == pytest.approx(math.log(2), abs=1e-5)
    # At the event y_0 is 1/2 whatever it was; the time log(2 y_0) is what moves.
    (gradient,) = torch.autograd.grad(solution.y[-1, 0], y0, retain_graph=True)
    assert gradient[0].item() == pytest.approx(0.0, abs=1e-5)
    (gradient,) = torch.autograd.grad(solution.events[0].t[0], y0)
    assert gradient[0].item() == pytest.approx(1.0, abs=1e-5)


@pytest.mark.filterwarnings("ignore:rtol and atol ask for")
@pytest.mark.parametrize("grad", [False, True])
def test_a_huge_error_is_a_rejection_and_no_exception(grad):
    # Squares of norms leave the numbers long before the norms do.
    y0 = tensor([1.0, 1e200], grad)
    solution = sk.solve(lambda t, y: -y, (0.0, 1.0), y0, rtol=1e-3, atol=1e-9, max_steps=200)
    assert solution.status is Status.success
    solution = sk.solve(
        lambda t, y: -y,
        (0.0, 1.0),
        tensor([1.0, 1.0], grad),
        rtol=1e-200,
        atol=1e-200,
        max_steps=20,
    )
    assert isinstance(solution.status, Status)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_nan_is_never_accepted(method):
    def f(t, y):
        return -y if t < 0.3 else y * math.nan

    for grad in (False, True):
        solution = sk.solve(f, (0.0, 1.0), tensor([1.0, 2.0], grad), method, rtol=1e-3)
        assert not solution.success
        assert bool(solution.y.isfinite().all())


def test_numpy_problems_do_not_become_tensors():
    assert type(sk.solve(pendulum, (0.0, 1.0), [1.0, 0.0]).y) is np.ndarray

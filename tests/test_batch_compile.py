"""Batches whose steps torch.compile has made: as those without, to rounding."""

import math
import shutil
from functools import partial

import numpy as np
import pytest

import stiffkit as sk
from stiffkit.solvers.batch import fused

torch = pytest.importorskip("torch")

FLOAT = torch.float64


def van_der_pol(t, y, mu, end):
    """Van der Pol's equation, of which a sample breaks off."""
    slope = torch.stack([y[:, 1], mu * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], 1)
    return torch.where((t > end)[:, None], math.nan, slope)


def oscillators(size):
    """Return the arguments of a batch from easy to nearly stiff; one sample fails on the way."""
    mu, end = torch.linspace(0.1, 30.0, size, dtype=FLOAT), torch.full((size,), 9.0, dtype=FLOAT)
    end[1] = 1.0
    return torch.tensor([[2.0, 0.0]] * size, dtype=FLOAT), (mu, end)


def both(f, y0, method="dopri5", **options):
    given = {"rtol": 1e-6, "atol": 1e-8, "t_eval": [0.5, 2.0], "batched": True} | options
    return [sk.solve(f, (0.0, 2.0), y0, method, compile=c, **given) for c in (True, False)]


def check_same(one, two):
    assert one.status == two.status
    assert one.stats["nfev"] == two.stats["nfev"]
    for name in ("accepted", "rejected"):
        assert np.array_equal(one.stats[name], two.stats[name])
    torch.testing.assert_close(one.y, two.y, rtol=1e-9, atol=1e-9, equal_nan=True)


@pytest.fixture
def compiler(monkeypatch):
    """Count what is compiled, by a compiler that stops before any C++; return its counter."""
    yield from counting(monkeypatch, "aot_eager")


@pytest.fixture
def inductor(monkeypatch):
    """Count what is compiled, by torch's own compiler."""
    yield from counting(monkeypatch, "inductor")


def counting(monkeypatch, name):
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend(name)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    fused._compiled.cache_clear()
    yield counter
    fused._compiled.cache_clear()


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a compiler of C++")
def test_same_steps_by_the_machine(inductor):
    y0, args = oscillators(8)
    one, two = both(van_der_pol, y0, args=args)
    check_same(one, two)
    assert [status.name for status in one.status].count("non_finite") == 1
    assert inductor.frame_count == 1  # though rows have left the batch


def test_any_number_of_rows_by_one_function(compiler):
    for size in (8, 5, 12):
        y0, args = oscillators(size)
        check_same(*both(van_der_pol, y0, args=args, dense=True, log=True))
    assert compiler.frame_count == 1


@pytest.mark.parametrize("method", ["euler", "heun", "vern7"])
def test_shapes_and_methods(compiler, method):
    def f(t, y, rate):
        return (torch.cos(t) * rate)[:, None, None] * y

    y0, rate = torch.rand(4, 2, 3, dtype=FLOAT), torch.linspace(-2.0, 1.0, 4, dtype=FLOAT)
    steps = {"grid": 8, "t_eval": None} if method == "euler" else {}
    check_same(*both(f, y0, method, args=(rate,), **steps))
    assert compiler.frame_count == 1


def test_gradients_and_parameters(compiler):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    net.to(FLOAT)
    rate = torch.tensor([0.5, 2.0, 4.0], dtype=FLOAT, requires_grad=True)
    wanted = [rate, *net.parameters()]

    def f(t, y, rate):
        return net(torch.cat([y, t[:, None]], 1)) - rate[:, None] * y

    def compare():
        solutions = both(f, torch.ones(3, 2, dtype=FLOAT), args=(rate,))
        check_same(*solutions)
        one, two = (torch.autograd.grad(s.y.square().sum(), wanted) for s in solutions)
        torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)

    compare()
    with torch.no_grad():
        net[0].weight.mul_(2.0)
    compare()
    assert compiler.frame_count == 1


def test_gradients_where_the_first_slope_has_none(compiler):
    y0 = torch.ones(2, 1, dtype=FLOAT, requires_grad=True)
    limits = torch.tensor([0.5, 1.0], dtype=FLOAT)

    def f(t, y, limits):
        return limits[:, None].expand_as(y)

    solutions = both(f, y0, args=(limits,))
    check_same(*solutions)
    for s in solutions:
        assert torch.equal(torch.autograd.grad(s.y.sum(), y0)[0], torch.full_like(y0, 2.0))


def test_numbers_held_by_f(compiler):
    """A number is part of what is compiled: another number is another function."""

    def decay(rate):
        return lambda t, y: -rate * y

    y0 = torch.ones(3, 2, dtype=FLOAT)
    for rate in (1.0, 2.0, 1.0):
        check_same(*both(decay(rate), y0))
    assert compiler.frame_count == 2


def test_f_that_cannot_be_compiled(compiler):
    def f(t, y):
        return -y if y.sum() > 0 else y

    with pytest.raises(RuntimeError, match=r"compile=True, but torch\.compile makes no function"):
        both(f, torch.ones(3, 2, dtype=FLOAT))


def test_no_compiler_of_cpp():
    from torch._inductor import config

    def f(t, y):
        return -3 * y

    off = {"cpp.cxx": ("no-such-compiler",), "force_disable_caches": True}
    with config.patch(off), pytest.raises(RuntimeError, match=r"compile=True, .*"):
        both(f, torch.ones(3, 2, dtype=FLOAT))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"y0": np.ones((3, 2))}, "a batch of tensors"),
        ({"batched": False}, "a batch of tensors"),
        ({"method": "auto"}, "an explicit method"),
        ({"method": "rodas5p"}, "an explicit method"),
        ({"method": "rock4"}, "an explicit method"),
        ({"y0": torch.ones(3, 2, dtype=torch.complex128)}, "a real state"),
        ({"adjoint": "checkpoints"}, "adjoint=None"),
    ],
)
def test_what_compile_is_not_for(given, what):
    options = {"y0": torch.ones(3, 2), "method": "dopri5", "batched": True} | given
    with pytest.raises(ValueError, match=f"compile=True needs {what}"):
        sk.solve(lambda t, y: -y, (0.0, 1.0), compile=True, **options)

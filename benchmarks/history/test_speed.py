"""Our own history: a few costs that changes to the code should not raise unseen.

`make bench-history` runs these and compares with the last run on this machine; nothing is compared
with peers, which benchmarks/peers.py does.
"""

import subprocess
import sys
import time

import numpy as np
import pytest
from stiff_problems import STIFF

import stiffkit as sk


def minus(t, y):  # noqa: ARG001
    """Return −y: an f that costs next to nothing."""
    return -y


def lotka_volterra(t, y):  # noqa: ARG001
    """Return the slopes of prey and predators."""
    return np.array([1.5 * y[0] - y[0] * y[1], y[0] * y[1] - 3 * y[1]])


@pytest.mark.parametrize("n", [2, 1000, 100_000])
def test_steps_of_dopri5(benchmark, n):
    """Twenty steps: stages, error and control."""
    y0 = np.linspace(1.0, 2.0, n)
    solution = benchmark(sk.solve, minus, (0.0, 2.0), y0, "dopri5", grid=20)
    assert solution.stats["nfev"] == 121


def test_control_of_dopri5(benchmark):
    """A small problem with error control: the loop itself."""
    solution = benchmark(sk.solve, lotka_volterra, (0.0, 20.0), [1.0, 1.0], "dopri5")
    assert solution.success


def test_compiled_dopri5(benchmark):
    """The same with a compiled f: mostly what a call costs."""
    pytest.importorskip("numba")
    f = sk.jit(lotka_volterra)
    assert sk.solve(f, (0.0, 20.0), [1.0, 1.0], "dopri5").success  # compiles
    assert benchmark(sk.solve, f, (0.0, 20.0), [1.0, 1.0], "dopri5").success


@pytest.mark.parametrize("method", ["rodas5p", "auto"])
def test_hires(benchmark, method):
    """A small stiff system: Jacobians, factorisations, stages."""
    p = STIFF["HIRES"]
    solution = benchmark(sk.solve, p.f, p.t_span, p.y0, method, rtol=1e-5, atol=1e-9)
    assert p.digits(solution.y[-1]) > 3


def test_batch(benchmark):
    """256 oscillators in torch, each with its own step."""
    torch = pytest.importorskip("torch")
    mu = torch.logspace(-1, 1, 256, dtype=torch.float64)
    y0 = torch.tensor([[2.0, 0.0]], dtype=torch.float64).repeat(256, 1)

    def f(t, y):  # noqa: ARG001
        a, b = y.unbind(1)
        return torch.stack([b, mu * (1 - a * a) * b - a], 1)

    with torch.no_grad():
        solution = benchmark(sk.solve, f, (0.0, 5.0), y0, "tsit5", batched=True, t_eval=[5.0])
    assert solution.success


def test_sample(benchmark):
    """Twenty steps of Heun's method on a denoiser that costs little: the loop of `sample`."""
    torch = pytest.importorskip("torch")
    from stiffkit.diffusion import gaussian, sample

    denoiser = gaussian(torch.tensor([0.25, 0.01], dtype=torch.float64))
    noise = torch.ones((64, 2), dtype=torch.float64)
    x = benchmark(sample, denoiser, noise, steps=20, sampler="heun")
    assert torch.isfinite(x).all()


@pytest.mark.benchmark(timer=time.perf_counter)  # the processor's time is that of this process
def test_import(benchmark):
    """A new process that imports the package."""
    command = [sys.executable, "-c", "import stiffkit"]
    benchmark.pedantic(subprocess.check_call, (command,), rounds=5, warmup_rounds=1)

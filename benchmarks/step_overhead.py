"""Cost of the loop itself, as ratios against a peer running the same tableau in the same process.

NumPy: wall time per call of f against SciPy's RK45, both with Dormand and Prince's 5(4) pair and
the same step control, for a right-hand side that costs next to nothing; peak memory of one solve.
For the large system the loop is also timed alone, with only the end kept: to store every step is
the same work for both, and mostly the memory allocator's.
torch: wall time per step against torchdiffeq's dopri5, CPU, no gradients. Import: the time of
``import stiffkit`` against ``import scipy.integrate``, each in new processes.

Timings of the two sides alternate, and each figure is the minimum over the repetitions: the rest
is what else the machine was doing.

    python benchmarks/step_overhead.py [--quick] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from _measure import best_times, peak_memory, peer  # first: it sets the number of threads

# isort: split
import numpy as np
from scipy.integrate import solve_ivp

import stiffkit as sk

TARGETS = {
    "numpy n=2": 0.65,
    "numpy n=10": 0.6,
    "numpy n=100": 0.6,
    "numpy n=100000": 0.9,
    "numpy n=100000 stored": 0.9,
    "torch (2,)": 0.4,
    "torch (256, 2)": 0.4,
    "torch (64, 3, 32, 32)": 0.4,
    "memory n=100000": 1.0,
    "memory n=100000 events": 1.0,
    "import": 1.3,
}


def alternate(runs: list[Callable[[], Any]], repetitions: int) -> list[float]:
    """Return each run's least wall time in seconds, the runs taking turns."""
    named = {str(i): run for i, run in enumerate(runs)}
    return list(best_times(named, repetitions, longest=math.inf, clock=time.perf_counter).values())


def numpy_cases(repetitions: int) -> dict[str, dict[str, float]]:
    """Compare time per call of f with SciPy's RK45."""
    results = {}
    for n, stored in ((2, True), (10, True), (100, True), (100_000, False), (100_000, True)):
        y0 = np.linspace(1.0, 2.0, n)
        t1, rtol = (10.0, 1e-8) if n < 1000 else (20.0, 1e-6)
        options = {"rtol": rtol, "atol": 1e-10, "t_eval": None if stored else [t1]}
        calls = {}

        def theirs(
            y0: Any = y0, t1: float = t1, options: Any = options, calls: Any = calls
        ) -> None:
            calls["peer"] = solve_ivp(minus, (0, t1), y0, **options).nfev

        def ours(y0: Any = y0, t1: float = t1, options: Any = options, calls: Any = calls) -> None:
            solution = sk.solve(minus, (0, t1), y0, "dopri5", controller="I", **options)
            calls["ours"] = solution.stats["nfev"]

        times = alternate([ours, theirs], repetitions if n < 1000 else max(repetitions // 3, 3))
        ours_us, peer_us = (
            1e6 * t / calls[key] for t, key in zip(times, ("ours", "peer"), strict=True)
        )
        case = f"numpy n={n}" + (" stored" if stored and n > 1000 else "")
        results[case] = {"ours_us": ours_us, "peer_us": peer_us}
    return results


def minus(t: float, y: Any) -> Any:  # noqa: ARG001
    """Return -y: a right-hand side that costs as good as nothing."""
    return -y


def torch_cases(repetitions: int) -> dict[str, dict[str, float]]:
    """Compare time per step with torchdiffeq's dopri5."""
    torch, torchdiffeq = peer("torch"), peer("torchdiffeq")
    if torch is None or torchdiffeq is None:
        return {}
    torch.set_num_threads(1)
    results = {}
    for shape in ((2,), (256, 2), (64, 3, 32, 32)):
        y0 = torch.linspace(1.0, 2.0, int(np.prod(shape)), dtype=torch.float32).reshape(shape)
        t1, rtol = (40.0, 1e-5) if len(shape) < 4 else (10.0, 1e-4)
        steps = {}

        def turn(t: Any, y: Any) -> Any:
            return torch.cos(3 * t) * y

        def theirs(y0: Any = y0, t1: float = t1, rtol: float = rtol, steps: Any = steps) -> None:
            count = Counter(turn)
            torchdiffeq.odeint(
                count, y0, torch.tensor([0.0, t1]), rtol=rtol, atol=1e-8, method="dopri5"
            )
            steps["peer"] = (count.calls - 2) / 6

        def ours(y0: Any = y0, t1: float = t1, rtol: float = rtol, steps: Any = steps) -> None:
            solution = sk.solve(turn, (0.0, t1), y0, "dopri5", rtol=rtol, atol=1e-8, t_eval=[t1])
            steps["ours"] = solution.stats["accepted"] + solution.stats["rejected"]

        with torch.no_grad():
            times = alternate([ours, theirs], max(repetitions // 3, 3))
        ours_us, peer_us = (
            1e6 * t / steps[key] for t, key in zip(times, ("ours", "peer"), strict=True)
        )
        results[f"torch {shape}"] = {"ours_us": ours_us, "peer_us": peer_us}
    return results


class Counter:
    """Count the calls of a right-hand side."""

    def __init__(self, f: Callable[..., Any]) -> None:
        self.f, self.calls = f, 0

    def __call__(self, t: Any, y: Any) -> Any:
        """Call f."""
        self.calls += 1
        return self.f(t, y)


def memory_case() -> dict[str, dict[str, float]]:
    """Compare the peak of allocated memory of one solve with SciPy's."""
    y0 = np.linspace(1.0, 2.0, 100_000)

    results = {}
    for label, more in (("", {}), (" events", {"events": half, "t_eval": [4.0]})):
        options: Any = {"rtol": 1e-6, "atol": 1e-10, **more}

        def ours(options: Any = options) -> None:
            sk.solve(minus, (0, 4.0), y0, "dopri5", controller="I", **options)

        def theirs(options: Any = options) -> None:
            solve_ivp(minus, (0, 4.0), y0, **options)

        ours(), theirs()  # what is imported on the way is no memory of the solve
        results[f"memory n=100000{label}"] = {
            "ours_MB": peak_memory(ours) / 1e6,
            "peer_MB": peak_memory(theirs) / 1e6,
        }
    return results


def half(t: float, y: Any) -> float:  # noqa: ARG001
    """Cross zero where the first component is a half."""
    return float(y[0]) - 0.5


def import_case(repetitions: int) -> dict[str, dict[str, float]]:
    """Compare import times, in new processes that take turns."""

    def start(module: str) -> Callable[[], None]:
        code = (
            f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
        )

        def run() -> float:
            return float(subprocess.check_output([sys.executable, "-c", code], text=True))

        return run

    ours, peer = start("stiffkit"), start("scipy.integrate")
    pairs = [(ours(), peer()) for _ in range(max(repetitions // 2, 3))]
    best = [1e3 * min(side) for side in zip(*pairs, strict=True)]
    return {"import": {"ours_ms": best[0], "peer_ms": best[1]}}


def main() -> None:
    """Run all cases and print ratios beside their targets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--json", type=Path, help="write the figures here")
    arguments = parser.parse_args()
    repetitions = 6 if arguments.quick else 30
    results = {
        **numpy_cases(repetitions),
        **torch_cases(repetitions),
        **memory_case(),
        **import_case(repetitions),
    }
    print(f"{'case':30} {'ours':>10} {'peer':>10} {'ratio':>7} {'target':>7}")
    for case, figures in results.items():
        (unit, ours), (_, peer) = figures.items()
        figures["ratio"] = ours / peer
        verdict = "ok" if ours / peer <= TARGETS[case] else "MISSED"
        label = f"{case} [{unit.split('_')[1]}]"
        print(
            f"{label:24} {ours:10.3f} {peer:10.3f} {ours / peer:7.3f} {TARGETS[case]:7} {verdict}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

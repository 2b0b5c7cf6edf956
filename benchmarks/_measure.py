"""What the benchmarks share: clocks, turns, times at equal digits, and the state of the machine.

Importing this sets one thread for the linear algebra of NumPy, SciPy and XLA, which counts only
where none of them is imported yet: import it first.
"""

from __future__ import annotations

# ruff: noqa: E402 - the number of threads is set before NumPy is imported
import importlib
import json
import math
import os
import platform
import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
)

import numpy as np

_absent: dict[str, str] = {}


def peer(name: str) -> Any:
    """Import a peer; None, with a word the first time, where that is not possible."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if name not in _absent:
            _absent[name] = str(error)
            print(f"{name} is left out: {error}", flush=True)
        return None


def absent() -> dict[str, str]:
    """Return the peers that could not be imported, each with the reason."""
    return dict(_absent)


# Time -------------------------------------------------------------------------------------------


@dataclass
class Timing:
    """What one run took, and what it returned."""

    result: Any = None
    times: list[float] = field(default_factory=list)
    """Seconds of each repetition."""
    failure: str | None = None
    """What the first call raised."""

    @property
    def best(self) -> float:
        """The least time: what is above it is what else the machine was doing."""
        return min(self.times, default=math.inf)


def take_turns(
    runs: Mapping[str, Callable[[], Any]],
    repetitions: int,
    *,
    warm_up: Mapping[str, Callable[[], Any]] | None = None,
    shortest: float = 0.002,
    longest: float = 1.0,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, Timing]:
    """Time all runs, one after the other in each repetition.

    Parameters
    ----------
    runs : mapping of str to callable
        What is timed, by name.
    repetitions : int
        How often.
    warm_up : mapping of str to callable, optional
        What to call first instead of a run, untimed: one that counts, say. Its result is kept.
        Where it raises an exception, the run is not timed.
    shortest : float
        Seconds of a measurement: a shorter run is called several times within it.
    longest : float
        A run whose first call took longer is not repeated, and that time stands, unless it was one
        of `warm_up`; then it is timed once. What compiles is to be called before.
    clock : callable
        The processor's time by default, which other work disturbs less than wall time.

    Returns
    -------
    dict of str to Timing
    """
    timings, inner = {}, {}
    for name, run in runs.items():
        timings[name] = timing = Timing()
        start = clock()
        try:
            timing.result = (warm_up or {}).get(name, run)()
        except Exception as error:  # whatever it is, the others go on
            timing.failure = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        took = clock() - start
        if timing.failure is None and took > longest and name not in (warm_up or {}):
            timing.times.append(took)
        elif timing.failure is None and took <= longest:
            start = clock()
            run()
            inner[name] = max(1, math.ceil(shortest / max(clock() - start, 1e-7)))
    for _ in range(repetitions):
        for name, run in runs.items():
            timing = timings[name]
            if timing.failure is not None or (timing.times and timing.best > longest):
                continue
            n = inner.get(name, 1)
            start = clock()
            for _ in range(n):
                run()
            timing.times.append((clock() - start) / n)
    return timings


def best_times(
    runs: Mapping[str, Callable[[], Any]], repetitions: int, **options: Any
) -> dict[str, float]:
    """Return the least time of each run, as `take_turns` measures them; one that fails is an error.

    Raises
    ------
    RuntimeError
        If a run raises an exception.
    """
    best = {}
    for name, timing in take_turns(runs, repetitions, **options).items():
        if timing.failure is not None:
            msg = f"{name} failed: {timing.failure}"
            raise RuntimeError(msg)
        best[name] = timing.best
    return best


# Digits and ratios ------------------------------------------------------------------------------


def digits(y: Any, expected: Any, *, componentwise: bool = True) -> float:
    """Return −log10 of the largest relative error, by component or by the largest of them.

    By component this is scd, the significant correct digits of the Bari test set. 16 at most; NaN
    where y is not finite.
    """
    y, expected = np.asarray(y), np.asarray(expected)
    scale = np.abs(expected) if componentwise else np.abs(expected).max()
    error = float(np.max(np.abs(y - expected) / scale))
    return -math.log10(max(error, 1e-16)) if math.isfinite(error) else math.nan


def at_digits(points: Sequence[tuple[float | None, float]], wanted: float) -> float:
    """Return the least cost that has at least so many digits; infinite if none has.

    Parameters
    ----------
    points : sequence of (digits, cost)
        Of a solver's runs. Runs without digits (None or NaN) are left out.
    wanted : float
        Digits.

    Notes
    -----
    A run that costs more than one with more digits is left out: between the others, in the order of
    digits, the logarithm of the cost is interpolated linearly. Below the digits of the first it is
    the cost of that: the solver's cheapest run has more than was asked for.
    """
    known = sorted((d, math.log(c)) for d, c in points if d is not None and not math.isnan(d))
    front = [point for i, point in enumerate(known) if all(point[1] < q[1] for q in known[i + 1 :])]
    if not front or wanted > front[-1][0]:
        return math.inf
    return math.exp(float(np.interp(wanted, *zip(*front, strict=True))))


def ratio(a: float, b: float) -> float | None:
    """Return a / b, or None where one of them is not finite."""
    return a / b if math.isfinite(a) and math.isfinite(b) else None


def short(value: Any) -> Any:
    """Round numbers to four digits, since the rest is noise; NaN and infinity become None."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, Mapping):
        return {key: short(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [short(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.4g}") if math.isfinite(value) else None
    return value


def as_lines(value: Any, depth: int = 4) -> str:
    """Return JSON with a line for each item of the upper levels: small, and readable in a diff."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    if not depth or not inside:
        return json.dumps(value)
    items = [as_lines(item, depth - 1) for item in inside]
    if isinstance(value, dict):
        items = [f"{json.dumps(key)}: {item}" for key, item in zip(value, items, strict=True)]
        return "{\n" + ",\n".join(items) + "\n}"
    return "[\n" + ",\n".join(items) + "\n]"


# Memory, machine --------------------------------------------------------------------------------


def peak_memory(run: Callable[[], Any]) -> int:
    """Return the peak of the bytes that Python and NumPy allocate in a run."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def machine() -> dict[str, Any]:
    """Return the processor, the number of its cores that are ours, and the memory in GiB."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        load = os.getloadavg()[0]
    except (OSError, StopIteration, ValueError):  # no Linux: then without them
        memory = load = math.nan
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": model,
        "system": f"{platform.system()} {platform.machine()}",
        "cores": cores,
        "memory_GiB": memory,
        "load": load,
    }


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Return the versions of Python and of the packages that are installed."""
    found = {"Python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found

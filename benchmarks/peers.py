"""stiffkit against its peers: one run, one file, from which docs/benchmarks is made.

Peers are SciPy, torchdiffeq, torchode, diffrax (jitted), CVODE (scikit-sundae) and extensisq. Each
that cannot be imported is left out with a word. Times are of the processor, one thread, without
what compiles; all solvers take turns, and every repetition is kept. Solvers are compared at equal
digits of y(t1): log(time) is interpolated between a solver's tolerances.

* call: a solve of one step, which is what a call costs before and after its steps.
* explicit, stiff, stabilised: work and precision. stabilised is diffusion on a line, where implicit
  solvers are told the band of the Jacobian.
* n: time per call of f against the number of unknowns, by Dormand and Prince's pair everywhere.
* batch: batches of van der Pol's oscillator in torch, and by vmap.
* memory: peak of what a solve allocates.
* events: a solve without and with an event function.

    python benchmarks/peers.py [--quick] [--only SECTION ...] [--json FILE] [--add] [--note TEXT]
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import _measure  # first: it sets the number of threads

# isort: split
import _peer_problems as problems
import _peer_scaling as scaling
import _peer_solvers as solvers
from _peer_precision import measure

PACKAGES = (
    "stiffkit",
    "numpy",
    "scipy",
    "numba",
    "torch",
    "torchdiffeq",
    "torchode",
    "diffrax",
    "jax",
    "scikit-sundae",
    "extensisq",
)
Told = dict[str, Any]

SECTIONS = ("call", "explicit", "stiff", "stabilised", "n", "batch", "memory", "events")
PEERS = ("torchdiffeq", "torchode", "diffrax", "sksundae", "extensisq")


def sections(*, quick: bool) -> dict[str, Callable[[], Any]]:
    """Return what measures each section."""
    repetitions = 2 if quick else 3
    explicit = [
        case for case in problems.explicit() if not quick or case.name != "Lotka-Volterra, t = 500"
    ]
    stiff = problems.stiff()[: 1 if quick else 3]
    sizes = (2, 100, 10_000) if quick else (2, 10, 100, 1000, 10_000, 100_000, 1_000_000)
    batches = (1, 64) if quick else (1, 16, 256, 4096)
    rtols = (1e-4, 1e-6) if quick else (1e-3, 1e-5, 1e-7)
    return {
        "call": lambda: measure(
            [scaling.one_step(explicit[0])], solvers.explicit(), 2 * repetitions
        ),
        "explicit": lambda: measure(explicit, solvers.explicit(), repetitions, quick=quick),
        "stiff": lambda: measure(stiff, solvers.stiff(), repetitions, quick=quick),
        "stabilised": lambda: measure(
            [problems.brusselator(50 if quick else 200)],
            solvers.stabilised(),
            repetitions,
            quick=quick,
        ),
        "n": lambda: scaling.against_n(sizes, repetitions),
        "batch": lambda: scaling.against_batch(batches, repetitions, rtols, 4.0),
        "memory": lambda: scaling.memory(10_000 if quick else 100_000),
        "events": lambda: scaling.events(2 * repetitions),
    }


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """Return date, machine, versions and command."""
    command = ["python", "benchmarks/peers.py"]
    command += ["--quick"] * options.quick
    command += ["--only", *options.only] if options.only else []
    return {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "command": " ".join(command),
        "note": options.note,
        "machine": _measure.machine(),
        "versions": _measure.versions(PACKAGES),
    }


def run(options: argparse.Namespace) -> None:
    """Measure the sections that were asked for, and write after each what there is."""
    for name in PEERS:
        _measure.peer(name)
    every = sections(quick=options.quick)
    told = json.loads(options.json.read_text()) if options.add else {"runs": [], "sections": {}}
    this = {**conditions(options), "absent": _measure.absent(), "sections": []}
    for name in options.only or SECTIONS:
        print(f"\n== {name}", flush=True)
        found = every[name]()
        options.json.write_text(_measure.as_lines(_measure.short(merged(told, this, name, found))))


def merged(told: Told, this: Told, name: str, found: Any) -> Told:
    """Put a section that this run has measured in place of an earlier one; return the file.

    A run of which no section is left is forgotten.
    """
    for run in told["runs"]:
        run["sections"] = [other for other in run["sections"] if other != name]
    this["sections"].append(name)
    told["runs"] = [run for run in told["runs"] if run["sections"] and run is not this] + [this]
    told["sections"][name] = found
    return told


def main(arguments: list[str] | None = None) -> None:
    """Read the command line, and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="less of everything; two minutes")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="some sections alone")
    parser.add_argument("--json", type=Path, default=Path("out/benchmarks/peers.json"))
    parser.add_argument("--add", action="store_true", help="keep other sections of the file")
    parser.add_argument("--note", default="", help="what a reader should know about this run")
    options = parser.parse_args(arguments)
    if options.add and not options.json.is_file():
        parser.error(f"--add: there is no file {str(options.json)!r} to add to")
    options.json.parent.mkdir(parents=True, exist_ok=True)
    # The time to compile is measured too: nothing is to be on disk already.
    with tempfile.TemporaryDirectory() as cache:
        os.environ.setdefault("NUMBA_CACHE_DIR", cache)
        run(options)
    print(f"\nThe figures are in {options.json}.")
    print("`make docs` makes docs/benchmarks from docs/data/peers.json.")


if __name__ == "__main__":
    main()

"""The stiffness detector against the truth, on DETEST's classes and the classic stiff equations.

Truth. Around each accepted step (t, t + h) the accurate solution is fitted by a polynomial, and its
derivative of order q + 1 gives the step that accuracy alone would allow, h_acc: the local error
``Â h^(q+1) y^(q+1)`` of the embedded pair, in units of the tolerance, is 0.5 there. The exact
eigenvalues of the Jacobian on the accurate solution give the share of the method's stability
limit that the step uses. A step is labelled

* accuracy: h_acc ≤ 1.5 h, or less than half of the stability limit is used;
* stability: h_acc ≥ 2 h and at least 0.7 of the limit is used;
* between: everything else, and steps where the solve has left the accurate solution, by a tenth of
  its largest component or more: they are steps along another path.

Alarms on steps labelled accuracy are false. A stiff phase starts with 10 accepted steps labelled
stability in a row; it is found if the detector's verdict comes within 30 accepted steps of their
first. A solve is found if its first phase is, and a problem if all its solves are. The radius found
is compared with the exact one at the same state.

With ``--overhead`` the CPU time of solves that watch is compared with that of solves that do not:
where nothing is ever suspected (the free trigger), n = 100, on a ring of 50 weakly coupled
pendulums, a linear problem of damped oscillations and Lorenz' system of 1996, and on the small
problems above at rtol 1e-6, proofs and the trial of another method included.

With ``--batches`` it prints how much longer, in CPU time, batches of 256 take that are watched, the
calls that looks and proofs make, and of how many samples something is told: rings, Lorenz' system,
and van der Pol's in different phases, whose f cost next to nothing.

With ``--trials`` it prints what the message of each classic stiff solve says of another method at
rtol 1e-4, stopped after 4000 attempts, and how many calls of f the proofs took.

    python benchmarks/detector.py [--json FILE] [--methods dopri5 tsit5 ...]
                                  [--overhead | --batches | --trials]
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from ivp_problems import PROBLEMS
from stiff_problems import STIFF

import stiffkit as sk
from stiffkit.stiffness import JacobianOperator, Stiffness, StiffnessDetector, eigenvalues
from stiffkit.stiffness.indicators import as_damped, stability_ratio

MAX_STEPS = 4000
TOLERANCES = (1e-3, 1e-5, 1e-7, 1e-9)


def trace(
    problem: Any, method: str, rtol: float, atol: Any
) -> tuple[Any, StiffnessDetector, Any, list[Stiffness]]:
    """Solve; return the solution, its detector, the steps, and the verdict after each of them."""
    import stiffkit.stiffness.detect as room

    made: list[StiffnessDetector] = []
    history: list[Stiffness] = []

    def make(tableau: Any, **options: Any) -> StiffnessDetector:
        made.append(StiffnessDetector(tableau, **options))
        return made[-1]

    original, room.StiffnessDetector = room.StiffnessDetector, make  # type: ignore[misc]
    try:
        solution = sk.solve(
            problem.f,
            problem.t_span,
            problem.y0,
            method,
            rtol=rtol,
            atol=atol,
            max_steps=MAX_STEPS,
            log=True,
            callback=lambda _: history.append(made[0].state),
        )
    finally:
        room.StiffnessDetector = original  # type: ignore[misc]
    taken = solution.log["accepted"]
    steps = np.column_stack([solution.log["t"][taken], solution.log["h"][taken]])
    return solution, made[0], steps, history


def labels(
    problem: Any, reference: Any, steps: Any, states: Any, method: str, rtol: float, atol: Any
) -> tuple[list[str], list[float], list[float]]:
    """Label every step; return labels, exact shares of the stability limit, and h_acc / h."""
    tableau = sk.METHODS[method]
    q, norm = tableau.error_order, tableau.pair_quality.A_hat
    t0, t1 = problem.t_span
    nodes = np.cos(np.pi * (np.arange(q + 3) + 0.5) / (q + 3))  # Chebyshev, degree q + 2
    found, shares, rooms = [], [], []
    for (t, h), at_end in zip(steps.tolist(), states, strict=True):
        # The window is centred on the step, three steps wide where the span has room for it.
        a, b = max(t - h, t0), min(t + 2 * h, t1)
        values = np.array([reference(s) for s in a + (b - a) * (1 + nodes) / 2])
        fit = np.polynomial.chebyshev.chebfit(nodes, values, q + 2)
        slope = np.polynomial.chebyshev.chebder(fit, q + 1) * (2 / (b - a)) ** (q + 1)
        at = 2 * (t + h / 2 - a) / (b - a) - 1
        derivative = np.polynomial.chebyshev.chebval(at, slope)
        y = reference(t + h)
        scale = atol + rtol * np.abs(y)
        error = norm * abs(h) ** (q + 1) * float(np.sqrt(np.mean((derivative / scale) ** 2)))
        accuracy = (0.5 / error) ** (1 / (q + 1)) if error > 0 else np.inf  # h_acc / h
        operator = JacobianOperator(problem.f, t + h, y, method="central")
        modes = [as_damped(complex(v) * h) for v in eigenvalues(operator).values]
        share = max((stability_ratio(1.0, z, tableau) for z in modes if z.real < 0), default=0.0)
        shares.append(share)
        rooms.append(float(accuracy))
        if np.abs(at_end - y).max() > 0.1 * np.abs(y).max():
            found.append("between")
        elif accuracy <= 1.5 or share < 0.5:
            found.append("accuracy")
        elif accuracy >= 2 and share >= 0.7:
            found.append("stability")
        else:
            found.append("between")
    return found, shares, rooms


def judge(name: str, problem: Any, reference: Any, method: str, rtol: float, atol: Any) -> dict:
    """Compare verdicts with labels for one solve."""
    solution, detector, steps, history = trace(problem, method, rtol, atol)
    steps = steps[:1500]  # labels cost n calls each
    states = solution.y[1 : len(steps) + 1]
    label, shares, rooms = labels(problem, reference, steps, states, method, rtol, atol)
    alarms = [found for found in detector.evidence if found.verdict is not Stiffness.non_stiff]
    ends = steps[:, 0] + steps[:, 1]
    index = [int(np.argmin(np.abs(ends - found.t))) for found in alarms if found.t <= ends[-1]]
    false = [i for i in index if label[i] == "accuracy"]
    phases, delays, missed, at_once = 0, [], 0, True
    run = 0
    for i, kind in enumerate(label):
        run = run + 1 if kind == "stability" else 0
        if run == 10:
            start = i - 9
            # A phase counts once: a verdict that stands already covers it.
            if phases and history[start] is not Stiffness.non_stiff:
                continue
            phases += 1
            after = [j - start for j in index if j >= start]
            standing = history[min(start, len(history) - 1)]
            if standing is not Stiffness.non_stiff:
                delays.append(0)
            elif after and after[0] <= 30:
                delays.append(after[0])
            elif start + 30 < len(label) and all(
                k == "stability" for k in label[start : start + 30]
            ):
                missed += 1
                at_once = at_once and phases > 1
            else:
                phases -= 1  # over before the 30 steps were
    radii = []
    for found in detector.evidence:
        y = reference(found.t)
        exact = eigenvalues(JacobianOperator(problem.f, found.t, y, method="central")).values
        top = float(np.abs(exact).max())
        if top > 0 and found.residual <= 0.3 * abs(found.eigenvalue):
            radii.append(abs(found.eigenvalue) / top)
    return {
        "problem": name,
        "method": method,
        "rtol": rtol,
        "steps": len(steps),
        "status": solution.status.name,
        "labels": {kind: label.count(kind) for kind in ("accuracy", "between", "stability")},
        "proofs": len(detector.evidence),
        "alarms": len(alarms),
        "false": len(false),
        "false_at": [(float(ends[i]), shares[i], rooms[i]) for i in false][:5],
        "phases": phases,
        "missed": missed,
        "found": at_once if phases else None,
        "delays": delays,
        "radius_ratios": radii,
        "cost": detector.nfev / solution.stats["nfev"],
    }


def pendulums(t: float, y: Any) -> Any:  # noqa: ARG001
    """Fifty pendulums of small angle in a ring, coupled weakly to their neighbours: n = 100."""
    angle, speed = y[:50], y[50:]
    pull = 0.01 * (np.roll(angle, 1) - 2 * angle + np.roll(angle, -1))
    return np.concatenate([speed, pull - angle])


def hundred() -> dict[str, tuple[Any, float, Any]]:
    """Name -> f, the end of the span, and the state at the start: n = 100, nothing is stiff."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((100, 100)) / 20
    A = A - A.T - 0.05 * np.eye(100)

    def lorenz_96(t: float, y: Any) -> Any:  # noqa: ARG001
        return (np.roll(y, -1) - np.roll(y, 2)) * np.roll(y, 1) - y + 8.0

    return {
        "pendulums": (pendulums, 30.0, np.concatenate([np.linspace(-1, 1, 50), np.zeros(50)])),
        "linear": (lambda _, y: A @ y, 20.0, rng.standard_normal(100)),
        "Lorenz-96": (lorenz_96, 3.0, 8 + rng.standard_normal(100)),
    }


def overhead(f: Any, span: Any, y0: Any, method: str, repeats: int = 15, **options: Any) -> float:
    """Return the CPU time with detector over the time without, in pairs: the median."""
    ratios = []
    for i in range(repeats):
        used = {}
        for detect in (True, False) if i % 2 else (False, True):
            start = time.process_time()
            while time.process_time() - start < 0.02:
                sk.solve(f, span, y0, method, detect=detect, **options)
                used[detect] = used.get(detect, 0) + 1
            used[detect] = (time.process_time() - start) / used[detect]
        ratios.append(used[True] / used[False])
    return float(np.median(ratios))


def print_overhead(methods: list[str]) -> None:
    """Print what watching costs."""
    for method in methods:
        free = [
            f"{name} {overhead(f, (0.0, end), y0, method, rtol=1e-6, atol=1e-8) - 1:+.1%}"
            for name, (f, end, y0) in hundred().items()
        ]
        small = {
            name: overhead(p.f, p.t_span, p.y0, method, 5, rtol=1e-6, atol=1e-8)
            for name, p in PROBLEMS.items()
            if p.kind != "rough"
        }
        worst = max(small, key=lambda name: small[name])
        print(
            f"{method:7} n = 100, free trigger: {', '.join(free)}; {len(small)} small problems: "
            f"median {np.median(list(small.values())) - 1:+.1%}, worst {small[worst] - 1:+.1%} "
            f"({worst})",
            flush=True,
        )


def batches() -> dict[str, tuple[Any, float, Any, tuple[Any, ...]]]:
    """Name -> f, the end of the span, states and arguments of batches of 256."""
    rng = np.random.default_rng(0)
    many, two = rng.uniform(-1, 1, (256, 100)), rng.uniform(0.5, 3, (256, 2)) * [1, 0]

    def rings(t: Any, y: Any, rate: Any) -> Any:  # noqa: ARG001
        angle, speed = y[:, :50], y[:, 50:]
        return np.concatenate([speed, 0.01 * (np.roll(angle, 1, 1) - angle) - rate * angle], 1)

    def van_der_pol(t: Any, y: Any, mu: Any) -> Any:  # noqa: ARG001
        return np.stack([y[:, 1], mu * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], 1)

    def lorenz(t: Any, y: Any) -> Any:  # noqa: ARG001
        a, b, c = y.T
        return np.stack([10 * (b - a), a * (28 - c) - b, a * b - 8 / 3 * c], 1)

    oscillators = {
        f"van der Pol, mu = {mu:g}": (van_der_pol, 100.0, two, (np.full(256, mu),))
        for mu in (0.1, 2.0, 5.0, 50.0)
    }
    rate = rng.uniform(0.5, 2, (256, 1))
    states = rng.normal((0, 0, 25), 5, (256, 3))
    return {
        "rings of 50 pendulums": (rings, 20.0, many, (rate,)),
        "Lorenz": (lorenz, 20.0, states, ()),
        **oscillators,
    }


def print_batches(methods: list[str], repeats: int = 5) -> None:
    """Print what watching costs batches: the time beyond that of solves without, taking turns."""
    options: Any = {"batched": True, "rtol": 1e-5, "atol": 1e-5}
    for method in methods:
        for name, (f, end, y0, args) in batches().items():
            times, runs = {True: np.inf, False: np.inf}, {}
            for detect in (True, False) * repeats:
                start = time.process_time()
                runs[detect] = sk.solve(
                    f, (0.0, end), y0, method, args=args, t_eval=[end], detect=detect, **options
                )
                times[detect] = min(times[detect], time.process_time() - start)
            calls = runs[False].stats["nfev"]
            told = sum("limited by stability" in message for message in runs[True].message)
            print(
                f"{method:7} {name:24} {1e3 * times[False]:6.0f} ms, "
                f"{times[True] / times[False] - 1:.0%} more with looks, "
                f"{runs[True].stats['nfev'] - calls} calls beside {calls}, {told} told",
                flush=True,
            )


def print_trials(methods: list[str]) -> None:
    """Print what the messages say of other methods."""
    rtol = 1e-4
    for method in methods:
        told = {"exact": 0, "about": 0, "nothing": 0}
        proofs: list[int] = []
        for name, p in STIFF.items():
            atol = rtol * np.asarray(p.atol)
            solution = sk.solve(
                p.f, p.t_span, p.y0, method, rtol=rtol, atol=atol, max_steps=MAX_STEPS
            )
            says = re.search(
                r"\w+ takes (about )?\d+ steps from there, \w+ took \d+", solution.message
            )
            told["nothing" if says is None else "about" if says[1] else "exact"] += 1
            proofs += [found.products for found in solution.stiffness]
            print(f"{method:7} {name:6} {says[0] if says else 'nothing'}")
        counts = ", ".join(f"{count} {kind}" for kind, count in told.items())
        print(
            f"{method:7} {counts}; calls of a proof: median {np.median(proofs):.0f}, "
            f"{np.mean(np.array(proofs) <= 4):.0%} at most 4, worst {max(proofs)}\n",
            flush=True,
        )


def main() -> None:
    """Judge every problem, method and tolerance; print a table and the totals."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["dopri5", "tsit5"])
    parser.add_argument("--problems", nargs="+")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--overhead", action="store_true")
    parser.add_argument("--batches", action="store_true")
    parser.add_argument("--trials", action="store_true")
    arguments = parser.parse_args()
    if arguments.trials:
        print_trials(arguments.methods)
        return
    if arguments.batches:
        print_batches(arguments.methods)
        return
    if arguments.overhead:
        print_overhead(arguments.methods)
        return
    cases: list[tuple[str, Any, Any, Any]] = []
    for name, problem in PROBLEMS.items():
        if problem.kind != "rough":

            def smooth(t: float, problem: Any = problem) -> Any:
                return problem.trajectory(np.array([t]))[0]

            cases.append((name, problem, smooth, 1e-2))
    for name, stiff in STIFF.items():
        label = f"{name} (stiff)" if name in PROBLEMS else name  # E5 is DETEST's, and pyrolysis
        cases.append((label, stiff, stiff.reference(1e-11), np.asarray(stiff.atol)))
    results = []
    print(
        f"{'problem':15} {'method':7} {'rtol':>6} {'steps':>6} {'acc/btw/stab':>16} "
        f"{'proofs':>6} {'alarms':>6} {'false':>5} {'phases':>6} {'missed':>6} {'cost':>6}  delays"
    )
    for name, problem, reference, unit in cases:
        if arguments.problems and name not in arguments.problems:
            continue
        for method in arguments.methods:
            for rtol in TOLERANCES:
                r = judge(name, problem, reference, method, rtol, rtol * unit)
                results.append(r)
                kinds = "/".join(str(v) for v in r["labels"].values())
                print(
                    f"{name:15} {method:7} {rtol:6.0e} {r['steps']:6} {kinds:>16} {r['proofs']:6} "
                    f"{r['alarms']:6} {r['false']:5} {r['phases']:6} {r['missed']:6} "
                    f"{r['cost']:6.2%}  {r['delays'][:6]} {r['false_at'][:2] or ''}",
                    flush=True,
                )
    radii = np.array([x for r in results for x in r["radius_ratios"]])
    good = np.mean((radii >= 0.8) & (radii <= 1.25)) if len(radii) else np.nan
    totals = {key: sum(r[key] for r in results) for key in ("false", "alarms", "missed", "phases")}
    stiff_solves = [r for r in results if r["found"] is not None]
    problems = {r["problem"] for r in stiff_solves}
    late = {r["problem"] for r in stiff_solves if not r["found"]}
    print(
        "\nfalse alarms {false} of {alarms}; phases missed {missed} of {phases};".format(**totals),
        f"radius within [0.8, 1.25]: {good:.1%} of {len(radii)} proofs;",
        f"largest cost {max(r['cost'] for r in results):.1%} of the calls;\n"
        f"stiff solves found within 30 steps: {sum(r['found'] for r in stiff_solves)} of "
        f"{len(stiff_solves)}; problems: {len(problems - late)} of {len(problems)}",
    )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

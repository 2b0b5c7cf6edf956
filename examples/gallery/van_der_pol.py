"""
Van der Pol's oscillator: from a sine to a sawtooth
===================================================

One number decides how stiff this oscillator is. At μ = 0.1 it is nearly a sine; at μ = 1000 it
creeps along a slow curve, falls within a time of 1/μ, and creeps on. The same solver takes all of
them.
"""

import matplotlib.pyplot as plt
import numpy as np

import stiffkit as sk


def van_der_pol(t, y, mu):
    """Return the slopes of displacement and velocity."""
    return np.array([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


# %%
# ``args`` passes μ on. The span is one and a half periods, which grow like 1.6 μ.

solutions = {}
for mu in (0.1, 3.0, 30.0, 1000.0):
    span = (0.0, 1.5 * max(2 * np.pi, 1.614 * mu))
    solutions[mu] = sk.solve(van_der_pol, span, [2.0, 0.0], args=(mu,), dense=True, rtol=1e-6)
    switches = [f"{s.source} → {s.target}" for s in solutions[mu].switches]
    print(f"μ = {mu:6g}: {solutions[mu].stats['accepted']:4d} steps", *switches[:3])

# %%
# What an explicit method costs at μ = 1000 against the implicit one, on a hundredth of the period:

short = {"args": (1000.0,), "rtol": 1e-6, "detect": False}
for method in ("tsit5", "radau5"):
    run = sk.solve(van_der_pol, (0.0, 16.0), [2.0, 0.0], method, **short)
    print(f"{method}: {run.stats['nfev']} calls of f")

# %%
# On the left the time is scaled by the span. On the right the phase plane, with the velocity over
# μ.

figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
for i, (mu, solution) in enumerate(solutions.items()):
    end = solution.t[-1]
    t = np.unique(np.concatenate([np.linspace(0, end, 2000), solution.t]))
    y = solution(t)
    left.plot(t / end, y[:, 0], f"C{i}", lw=1.2, label=f"μ = {mu:g}")
    right.plot(y[:, 0], y[:, 1] / max(mu, 1), f"C{i}", lw=1.2)
left.set(xlabel="t / span", ylabel="y", title="displacement")
left.legend(loc="lower right")
right.set(xlabel="y", ylabel="y' / max(μ, 1)", title="phase plane")
plt.show()

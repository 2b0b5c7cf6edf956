"""
What ``auto`` does, and when
============================

The default method starts explicit, finds out while it solves where that is a waste, and goes on
with a stabilised or an implicit method, and back. Here are a problem that is stiff in turns, and a
rod on a fine grid, for which both are tried.
"""

import matplotlib.pyplot as plt
import numpy as np

import stiffkit as sk


def gated(t, y):
    """Return the slopes of a driven spring with a brake that is switched on and off, smoothly."""
    brake = 4000.0 / (1.0 + np.exp(-8.0 * np.sin(t / 3.0)))
    return np.array([y[1], -brake * y[1] - (30.0 + brake) * (y[0] - np.cos(4.0 * t))])


solution = sk.solve(gated, (0.0, 40.0), [1.0, 0.0], rtol=1e-4, atol=1e-7, log=True)

# %%
# Each switch says where it happened, from what to what, and why.

for switch in solution.switches:
    print(f"t = {switch.t:6.2f}: {switch.source} → {switch.target}")
    print("   ", switch.why)

# %%
# A method's stretch is the colour behind the steps.

n = 100


def heat(t, y):
    """Return the slopes of temperatures along a rod that is heated at a moving point."""
    padded = np.concatenate([[0.0], y, [0.0]])
    x = np.arange(1, n + 1) / (n + 1)
    source = 30 * np.exp(-200 * (x - 0.5 - 0.3 * np.sin(3 * t)) ** 2)
    return (n + 1) ** 2 * (padded[2:] - 2 * y + padded[:-2]) + source


rod = sk.solve(heat, (0.0, 3.0), np.zeros(n), rtol=1e-4, atol=1e-6, log=True)

# %%

COLOURS = {
    "tsit5": "C0",
    "rkc2": "C2",
    "rock4": "C2",
    "radau5": "C1",
    "radau9": "C1",
    "kencarp4": "C1",
}
figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.3), layout="constrained")
for ax, run, title in zip(axes, (solution, rod), ("braked spring", "heated rod"), strict=True):
    edges = [run.t[0], *(s.t for s in run.switches), run.t[-1]]
    names = (
        [run.switches[0].source, *(s.target for s in run.switches)] if run.switches else ["tsit5"]
    )
    for i, name in enumerate(names):
        label = name if name not in names[:i] else None
        ax.axvspan(edges[i], edges[i + 1], color=COLOURS[name], alpha=0.15, lw=0, label=label)
    taken = run.log["accepted"]
    ax.semilogy(run.log["t"][taken], run.log["h"][taken], "k.", ms=3)
    ax.set(xlabel="t", ylabel="step size h", title=title)
    ax.legend()
plt.show()

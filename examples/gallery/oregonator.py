"""
The Oregonator: a clock made of chemicals
=========================================

The Belousov-Zhabotinsky reaction turns from red to blue and back, again and again. Field and
Noyes' model of it has three species whose concentrations leap over five decades within a second,
and then rest for minutes. A stiff solver walks through the rest in long steps, and must notice the
next leap.
"""

import matplotlib.pyplot as plt
import numpy as np

import stiffkit as sk


def oregonator(t, y):
    """Return the rates of HBrO₂, Br⁻ and Ce(IV), scaled."""
    a, b, c = y
    return np.array(
        [
            77.27 * (b + a * (1 - 8.375e-6 * a - b)),
            (c - (1 + a) * b) / 77.27,
            0.161 * (a - c),
        ]
    )


# %%
# An L-stable method with a long step may jump over an outbreak without seeing it. Two remedies: a
# tolerance of 1e-4 or smaller, or a bound of the step. This solve has the first.

solution = sk.solve(oregonator, (0.0, 900.0), [1.0, 2.0, 3.0], "rodas5p", rtol=1e-6, dense=True)
print(solution.message)

# %%
# An event counts the pulses: the first species crosses 1e4 upwards.


def pulse(t, y):
    """Return how far the first species is above 1e4, in decades."""
    return np.log10(max(y[0], 1e-30)) - 4


pulse.direction = 1
times = (
    sk.solve(oregonator, (0.0, 900.0), [1.0, 2.0, 3.0], "rodas5p", rtol=1e-6, events=pulse)
    .events[0]
    .t
)
print("pulses at", times.round(3), "- period", np.diff(times).round(3))

# %%
# The dots are the steps: dense in the leaps, one for several seconds between them.

t = np.linspace(0, 900, 4000)
y = solution(t)
figure, axes = plt.subplots(3, 1, figsize=(8.4, 4.6), sharex=True, layout="constrained")
labels = ("HBrO₂", "Br⁻", "Ce(IV)")
for i, (ax, label) in enumerate(zip(axes, labels, strict=True)):
    ax.semilogy(t, y[:, i], f"C{i}", lw=1.2)
    ax.semilogy(solution.t, solution.y[:, i], f"C{i}.", ms=3)
    ax.set_ylabel(label)
    for time in times:
        ax.axvline(time, color="0.6", lw=0.6, ls="--")
axes[0].set_title(f"three pulses, {len(solution.t) - 1} steps of rodas5p")
axes[-1].set_xlabel("t")
plt.show()

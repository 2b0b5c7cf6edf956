"""
Events: a bouncing ball
=======================

An event is a function whose zeros are wanted. A terminal one ends the solve there; what happens
next, a bounce that costs a fifth of the speed, is a new solve from the new state.
"""

import matplotlib.pyplot as plt
import numpy as np

import stiffkit as sk


def flight(t, y):
    """Return velocity and acceleration, with the drag of the air."""
    return np.array([y[1], -9.81 - 0.05 * y[1] * abs(y[1])])


def ground(t, y):
    """Return the height above ground."""
    return y[0]


def apex(t, y):
    """Return the vertical velocity."""
    return y[1]


ground.terminal, ground.direction = True, -1
apex.direction = -1

# %%
# Two events at once: the ground ends the flight, the top of the path is only noted. The time of
# impact is a root of the interpolant, not the end of a step.

t, y = 0.0, np.array([0.0, 15.0])
pieces, tops = [], []
while t < 9.0 and y[1] > 1.0:
    piece = sk.solve(flight, (t, 9.0), y, rtol=1e-8, events=[ground, apex], dense=True)
    pieces.append(piece)
    tops += list(zip(piece.events[1].t, piece.events[1].y[:, 0], strict=True))
    t, y = float(piece.t[-1]), np.array([0.0, -0.8 * piece.y[-1, 1]])
    if piece.status.name != "event":
        break
print(f"{len(pieces)} flights; heights of the tops:", *(f"{height:.2f}" for _, height in tops))

# %%

figure, ax = plt.subplots(figsize=(8.4, 3.2), layout="constrained")
for piece in pieces:
    fine = np.linspace(piece.t[0], piece.t[-1], 100)
    ax.plot(fine, piece(fine)[:, 0], "C0", lw=1.4)
    ax.plot(piece.t[-1], 0, "C3o", ms=5)
ax.plot(*zip(*tops, strict=True), "C2^", ms=6, label="apex: noted")
ax.plot([], [], "C3o", ms=5, label="ground: terminal")
ax.axhline(0, color="0.3", lw=1)
ax.set(xlabel="t", ylabel="height")
ax.legend()
plt.show()

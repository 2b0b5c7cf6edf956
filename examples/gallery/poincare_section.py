"""
Order and chaos in a Poincaré section
=====================================

Hénon and Heiles' stars move in a potential with one conserved energy. Is there a second conserved
quantity? Mark each point where an orbit crosses the plane x = 0 upwards. If there is one, the
points of an orbit lie on a curve; if not, they scatter over an area.
"""

import matplotlib.pyplot as plt
import numpy as np

import stiffkit as sk

ENERGY = 0.12


def star(t, state):
    """Return velocities and accelerations in the plane."""
    x, y, u, v = state.tolist()
    return [u, v, -x - 2 * x * y, -y - x * x + y * y]


def crossing(t, state):
    """Return x, whose rising zeros are the section."""
    return state[0]


crossing.direction = 1

# %%
# The crossings are events: roots of the dense output, with its order. ``vern7`` holds the energy
# to nine digits for the whole time.


def orbit(y, v):
    """Start in the plane x = 0 with the energy that is left for the velocity u."""
    u = np.sqrt(2 * ENERGY - v * v - y * y + 2 * y**3 / 3)
    return np.array([0.0, y, u, v])


def energy(state):
    """Return kinetic and potential energy."""
    x, y, u, v = np.moveaxis(state, -1, 0)
    return (u * u + v * v + x * x + y * y) / 2 + x * x * y - y**3 / 3


starts = [(-0.2, 0.0), (0.1, 0.0), (0.2, 0.0), (0.3, 0.0), (0.45, 0.0), (0.0, 0.2), (-0.05, 0.38)]
sections, drift = [], 0.0
for start in starts:
    run = sk.solve(
        star, (0.0, 600.0), orbit(*start), "vern7", rtol=1e-9, atol=1e-11, events=crossing,
        t_eval=[600.0], detect=False,
    )  # fmt: skip
    sections.append(run.events[0].y)
    drift = max(drift, abs(float(energy(run.y[-1]) - ENERGY)))
print(f"{sum(map(len, sections))} crossings, largest change of the energy {drift:.0e}")

# %%

figure, ax = plt.subplots(figsize=(6.4, 4.6), layout="constrained")
for i, section in enumerate(sections):
    ax.plot(section[:, 1], section[:, 3], ".", ms=3, color=f"C{i}")
ax.set(xlabel="y", ylabel="dy/dt", title=f"section x = 0, energy {ENERGY}", aspect="equal")
plt.show()

"""
A hook of one's own: hold what the equation conserves
=====================================================

A planet's energy is constant, its numerical energy is not. A ``guide`` sees each accepted step and
returns the state to commit: this one projects the state back onto the surface of constant energy.
An ``observe`` hook writes the energy into the log.
"""

import matplotlib.pyplot as plt
import numpy as np

import stiffkit as sk


def planet(t, y):
    """Return velocity and acceleration on an ellipse of eccentricity 0.6."""
    x, v = y[:2], y[2:]
    return np.concatenate([v, -x / np.hypot(*x) ** 3])


def energy(y):
    """Return kinetic and potential energy."""
    return y[2:] @ y[2:] / 2 - 1 / np.hypot(*y[:2])


START = np.array([0.4, 0.0, 0.0, 2.0])
E0 = energy(START)

# %%
# One Newton step along the gradient of the energy is enough: the drift of a step is tiny. A guide
# gets the step and the probe of the one before, and returns a new array.


def hold_energy(step, probe):
    """Return the state, moved onto the surface of constant energy."""
    x, v = step.y_new[:2], step.y_new[2:]
    gradient = np.concatenate([x / np.hypot(*x) ** 3, v])
    return step.y_new - (energy(step.y_new) - E0) / (gradient @ gradient) * gradient


def drift(step, probe):
    """Return the change of the energy at the start of the step."""
    return energy(step.y) - E0


# %%
# Moving the state voids the slope that an FSAL method has already computed: one call more for each
# step, and it is counted.

how = {"rtol": 1e-3, "atol": 1e-5, "observe": drift, "detect": False}
free = sk.solve(planet, (0.0, 200.0), START, "tsit5", **how)
held = sk.solve(planet, (0.0, 200.0), START, "tsit5", guide=hold_energy, **how)
for name, run in (("free", free), ("held", held)):
    print(f"{name}: {run.stats['nfev']} calls, energy off by {abs(run.log['drift'][-1]):.1e}")

# %%

figure, axes = plt.subplots(1, 3, figsize=(8.8, 3.0), layout="constrained")
for ax, run, name in zip(axes, (free, held), ("free", "held"), strict=False):
    ax.plot(*run.y[:, :2].T, lw=0.4)
    ax.plot(0, 0, "k*")
    ax.set(aspect="equal", title=name, xlim=(-2.2, 1.4), ylim=(-1.8, 1.8))
for run, name in ((free, "free"), (held, "held")):
    axes[2].semilogy(run.log["t"], np.maximum(np.abs(run.log["drift"]), 1e-17), lw=1, label=name)
axes[2].set(xlabel="t", title="energy error")
axes[2].legend()
plt.show()

"""
The Arenstorf orbit: why step control pays
==========================================

A satellite flies on a closed orbit around Earth and Moon, in the frame that rotates with them.
Each time it passes the Moon its velocity turns within minutes, and an error made there grows for
the rest of the month. With steps of equal size one would need the smallest one everywhere.
"""

import matplotlib.pyplot as plt
import numpy as np

import stiffkit as sk

MU = 0.012277471
PERIOD = 17.0652165601579625588917206249
START = np.array([0.994, 0.0, 0.0, -2.00158510637908252240537862224])


def satellite(t, y):
    """Return velocity and acceleration in the rotating frame."""
    u, v, du, dv = y.tolist()
    earth, moon = np.hypot(u + MU, v) ** 3, np.hypot(u + MU - 1, v) ** 3
    ddu = u + 2 * dv - (1 - MU) * (u + MU) / earth - MU * (u + MU - 1) / moon
    ddv = v - 2 * du - (1 - MU) * v / earth - MU * v / moon
    return [du, dv, ddu, ddv]


# %%
# After one period the satellite has to be where it began: the error at the end is known without
# any reference solution.

solution = sk.solve(
    satellite, (0, PERIOD), START, "vern7", rtol=1e-9, atol=1e-11, dense=True, log=True
)
print(solution, "error at the end:", np.abs(solution.y[-1] - START).max())

# %%
# How small would equal steps have to be? The smallest accepted step, taken everywhere:

h = solution.log["h"][solution.log["accepted"]]
print(f"{len(h)} steps from {h.min():.1e} to {h.max():.1e}; equal ones: {PERIOD / h.min():.0f}")

# %%
# The colour is the size of the step.

figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained")
path = solution(np.linspace(0, PERIOD, 3000))
left.plot(path[:, 0], path[:, 1], color="0.7", lw=0.8, zorder=1)
dots = left.scatter(*solution.y[:-1, :2].T, c=np.log10(h), s=14, cmap="viridis", zorder=2)
left.plot([-MU, 1 - MU], [0, 0], "k*", ms=7)
left.annotate("Earth", (-MU, 0), (5, 5), textcoords="offset points")
left.annotate("Moon", (1 - MU, 0), (-12, 12), textcoords="offset points")
left.set(aspect="equal", xlabel="x", ylabel="y", title="one period, rotating frame")
figure.colorbar(dots, ax=left, label="log₁₀ h")
for method in ("dopri5", "tsit5", "vern7", "dop853"):
    runs = [
        sk.solve(satellite, (0, PERIOD), START, method, rtol=r, atol=r / 100)
        for r in 10.0 ** -np.arange(5, 12)
    ]
    errors = [np.abs(run.y[-1] - START).max() for run in runs]
    right.loglog(errors, [run.stats["nfev"] for run in runs], "o-", ms=3, label=method)
right.invert_xaxis()
right.set(xlabel="error after one period", ylabel="calls of f", title="work over precision")
right.legend()
plt.show()

"""
Spectra along a trajectory
==========================

Stiffness belongs to a state, not to an equation. Here are the eigenvalues of the Jacobian along
one turn of Van der Pol's oscillator, and the steps that they allow an explicit method to take.
"""

import matplotlib.pyplot as plt
import numpy as np

import stiffkit as sk
from stiffkit.stiffness import JacobianOperator, eigenvalues

MU = 5.0


def f(t, y):
    """Return the slopes of Van der Pol's oscillator."""
    return np.array([y[1], MU * (1 - y[0] ** 2) * y[1] - y[0]])


solution = sk.solve(f, (0.0, 12.0), [2.0, 0.0], "vern7", rtol=1e-9, dense=True)

# %%
# A ``JacobianOperator`` makes products by central differences. ``eigenvalues`` takes n of them;
# for many unknowns ``stiffkit.stiffness.arnoldi`` finds the dominant ones from fewer.

t = np.linspace(0, 12, 400)
operators = [JacobianOperator(f, s, solution(s), method="central") for s in t]
spectra = np.array([eigenvalues(J).values for J in operators])

# %%
# On the slow parts one eigenvalue is far to the left: the path is attracted. In the falls both are
# to the right, and no method may take long steps there.

tsit5 = sk.METHODS["tsit5"]
radius = np.abs(spectra).max(axis=1)
figure, axes = plt.subplots(1, 3, figsize=(8.8, 3.1), layout="constrained")
axes[0].plot(t, solution(t)[:, 0])
axes[0].set(xlabel="t", title="y(t)")
for i in (0, 1):
    dots = axes[1].scatter(spectra[:, i].real, spectra[:, i].imag, c=t, s=6, cmap="plasma")
axes[1].axvline(0, color="0.4", lw=0.7)
axes[1].set(xlabel="Re λ", ylabel="Im λ", title="eigenvalues")
figure.colorbar(dots, ax=axes[1], label="t")
axes[2].semilogy(t, tsit5.real_stability_limit / radius, label="stability limit of tsit5")
run = sk.solve(f, (0.0, 12.0), [2.0, 0.0], "tsit5", rtol=1e-4, log=True, detect=False)
taken = run.log["accepted"]
axes[2].semilogy(run.log["t"][taken], run.log["h"][taken], ".", ms=4, label="its steps")
axes[2].set(xlabel="t", title="step size", ylim=(1e-3, 10))
axes[2].legend(fontsize=7)
plt.show()

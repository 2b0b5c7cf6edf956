"""
The stiffness detector at work
==============================

An explicit solve of a stiff problem succeeds, slowly, and nobody would know why. stiffkit's
detector rides along with every adaptive explicit solve; it reads what the steps have computed
anyway, and when it is sure it says so in the message.
"""

import matplotlib.pyplot as plt
import numpy as np

import stiffkit as sk
from stiffkit.stiffness import StageRatio


def relaxation(t, y):
    """Return the slope of something that follows cos t, a thousand times faster than it moves."""
    return -1000.0 * (y - np.cos(t))


# %%
# In the beginning the transient needs the small steps. Then accuracy would allow ever larger ones,
# but stability holds them.

solution = sk.solve(
    relaxation, (0.0, 2.0), [3.0], "tsit5", rtol=1e-4, atol=1e-6, log=True, observe=StageRatio()
)
print(solution.message.replace("; ", ";\n"))

# %%
# ``solution.stiffness`` has the proofs: when, how fast the mode decays, and what it cost to know.

proof = solution.stiffness[0]
print(proof.verdict.name, f"at t = {proof.t:.3f}: λ = {proof.eigenvalue:.4g}")

# %%
# ``StageRatio`` is one of the free readings. It settles on the stability limit of the method: the
# step is as long as it can be without blowing up.

log = solution.log
taken = log["accepted"]
limit = sk.METHODS["tsit5"].real_stability_limit
figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.2), layout="constrained")
left.semilogy(log["t"][taken], log["h"][taken], ".-", ms=4, lw=0.6)
left.semilogy(log["t"][~taken], log["h"][~taken], "C3x", label="rejected")
left.axhline(limit / 1000, color="0.4", lw=0.8, label="stability limit / 1000")
left.axvline(proof.t, color="C2", ls="--", label="detector is sure")
left.set(xlabel="t", title="step size h")
left.legend(fontsize=8)
right.plot(log["t"][taken], log["h_rho"][taken], ".", ms=4)
right.axhline(limit, color="0.4", lw=0.8)
right.axvline(proof.t, color="C2", ls="--")
right.set(xlabel="t", title="hρ, read from the stages", ylim=(0, 5))
plt.show()

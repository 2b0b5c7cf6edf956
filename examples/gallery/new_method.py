"""
A method of one's own, in one literal
=====================================

A method is data. Write its coefficients as the paper prints them, and order, error row, stability
region and dense output follow; ``solve`` runs it like any other. Here is Shu and Osher's third-
order method, which keeps total variation from growing.
"""

import matplotlib.pyplot as plt
import numpy as np

import stiffkit as sk

ssp3 = sk.ButcherTableau(
    name="ssp3",
    order=3,
    order_hat=2,
    c=[0, 1, 1 / 2],
    A=[
        [],
        [1],
        [1 / 4, 1 / 4],
    ],
    b=[1 / 6, 1 / 6, 2 / 3],
    b_hat=[1 / 2, 1 / 2, 0],
    reference="C.-W. Shu, S. Osher, J. Comput. Phys. 77 (1988) 439-471, "
    "doi:10.1016/0021-9991(88)90177-5",
)
print(ssp3)

# %%
# Is it of order 3? All order conditions to three nodes hold, and with four nodes some do not.

for p in (1, 2, 3, 4):
    residuals = ssp3.order_conditions(p).values()
    print(p, "nodes:", len(residuals), "conditions, worst", f"{max(map(abs, residuals)):.1e}")

# %%
# And what does it make of a problem? Halving the step should divide the error by eight.


def riccati(t, y):
    """Return the slope; the solution is 1 / (1 + t²)."""
    return -2 * t * y**2


counts = 2 ** np.arange(3, 11)
errors = {
    method: [
        abs(sk.solve(riccati, (0.0, 2.0), [1.0], method, grid=int(n)).y[-1, 0] - 0.2)
        for n in counts
    ]
    for method in ("heun", ssp3, "rk4")
}

# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained")
for method, row in errors.items():
    left.loglog(2 / counts, row, "o-", ms=4, label=getattr(method, "name", method))
left.loglog(2 / counts, 0.05 * (2 / counts) ** 3, "k:", lw=1, label="h³")
left.set(xlabel="h", ylabel="error at t = 2", title="observed order")
left.legend()
ssp3.plot(right)
plt.show()

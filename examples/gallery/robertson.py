"""
Robertson's reaction, over eleven decades
=========================================

Three species react at rates from 0.04 to 3e7. The second one is never more than 4e-5 of the whole,
and the fast reactions are over long before the slow one has begun: the classic of stiff chemistry.
Here the time axis is logarithmic, and so are the steps.
"""

import matplotlib.pyplot as plt
import numpy as np

import stiffkit as sk


def robertson(t, y):
    """Return the rates of the three concentrations."""
    a, b, c = y
    slow, fast = 0.04 * a - 1e4 * b * c, 3e7 * b * b
    return np.array([-slow, slow - fast, fast])


# %%
# ``atol`` says below which value a component is as good as zero. The species differ by six orders
# of magnitude, so each gets its own.

solution = sk.solve(
    robertson,
    (0.0, 1e11),
    [1.0, 0.0, 0.0],
    "radau5",
    rtol=1e-6,
    atol=[1e-10, 1e-16, 1e-6],
    dense=True,
    log=True,
)
print(solution.message)
print(solution.stats)

# %%
# The published end values are 0.20833401497e-7, 0.83333607703e-13 and 0.99999997917. Few equations
# are known to so many digits.

exact = np.array([0.2083340149701255e-07, 0.8333360770334713e-13, 0.9999999791665050])
print("relative errors:", np.abs(solution.y[-1] / exact - 1))

# %%
# The step grows with the time that has passed, so that every decade takes about as many steps.

t = np.logspace(-6, 11, 600)
y = solution(t)
figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
for values, name in zip((y * [1, 1e4, 1]).T, ("A", "10⁴ B", "C"), strict=True):
    left.semilogx(t, values, label=name)
left.set(xlabel="t", title="concentrations", ylabel="y")
left.legend()
taken = solution.log["accepted"]
start = np.maximum(solution.log["t"], 1e-6)
right.loglog(start[taken], solution.log["h"][taken], ".-", lw=0.6, ms=4, label="accepted")
right.loglog(start[~taken], solution.log["h"][~taken], "C3x", label="rejected")
right.loglog(t, t, color="0.5", lw=0.8, ls="--", label="h = t")
right.set(xlabel="t", title="step size h of radau5")
right.legend()
plt.show()

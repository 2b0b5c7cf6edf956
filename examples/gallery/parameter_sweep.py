"""
A sweep that keeps its failures
===============================

How does the period of Van der Pol's oscillator depend on μ? ``ensemble`` solves it for two dozen
values of μ, and for one that makes no sense. A member that fails is kept with its reason, and the
others go on.
"""

import matplotlib.pyplot as plt
import numpy as np

import stiffkit as sk


def van_der_pol(t, y, mu):
    """Return the slopes of displacement and velocity."""
    return np.array([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])


def rising(t, y, mu):
    """Return the displacement, whose rising zeros mark the periods."""
    return y[0]


rising.direction = 1

# %%
# ``problem`` has what all members share, and each entry of the parameters is what one adds: here
# the span, which grows with μ, and the argument.

problem = {"f": van_der_pol, "y0": [2.0, 0.0], "events": rising, "rtol": 1e-6, "max_steps": 5000}
values = np.logspace(-1, 2, 24)
parameters = [{"t_span": (0.0, 2.5 * (6.3 + 1.7 * mu)), "args": (float(mu),)} for mu in values]
parameters.append({"t_span": (0.0, 10.0), "args": ("three",)})  # a slip


def period(solution):
    """Reduce a solution to the last full period."""
    times = solution.events[0].t
    return float(times[-1] - times[-2])


# %%
# ``reduce`` runs where the member was solved, so that nothing else has to travel. (With
# ``executor=8`` that is one of eight processes, and the numbers are the same bits.)

result = sk.ensemble(problem, parameters, reduce=period)
print(result)
for member in result.failures:
    print(member.parameters["args"], member.error.message)
periods = [member.value for member in result if not member.error]

# %%
# Both limits are known: 2π (1 + μ²/16) for small μ, and Dorodnitsyn's (3 − 2 ln 2) μ + 7.014
# μ^(−1/3) for large.

figure, ax = plt.subplots(figsize=(7.0, 3.6), layout="constrained")
mu = np.logspace(-1, 2, 300)
ax.loglog(mu[mu < 3], 2 * np.pi * (1 + mu[mu < 3] ** 2 / 16), "C1--", label="2π (1 + μ²/16)")
large = mu[mu > 1.5]
law = (3 - 2 * np.log(2)) * large + 7.014 * large ** (-1 / 3)
ax.loglog(large, law, "C2--", label="(3 − 2 ln 2) μ + 7.014 μ^(−1/3)")
ax.loglog(values, periods, "C0o", ms=4, label="measured")
ax.set(xlabel="μ", ylabel="period")
ax.legend()
plt.show()

"""
The trace of a sampler
======================

What does a sampler do on its way from noise to data? ``trace=True`` returns readings of each step
and sample: the stiffness of the path, the embedded estimate of the error, what a guide has moved.
They cost no call of the network.
"""

import matplotlib.pyplot as plt
import numpy as np

from stiffkit.diffusion import GaussianMixture, sample
from stiffkit.guidance import ERKGuidance

# %%
# An exact denoiser, so that nothing but the sampler is to blame: eight narrow clusters on a
# circle.

angles = 2 * np.pi * np.arange(8) / 8
denoiser = GaussianMixture(np.column_stack([np.cos(angles), np.sin(angles)]), std=0.05)
noise = np.random.default_rng(0).standard_normal((400, 2))
guide = ERKGuidance(w_stiff=0.75, w_con=0.3)
x, trace = sample(denoiser, noise, steps=18, guide=guide, trace=True)
print(trace.nfev, "calls;", "columns of shape", trace.rho.shape)

# %%
# Medians over the samples and the middle 80 %. The rate λ̂, in units of 1/σ, is largest where the
# noise is as wide as a cluster. Since σ falls, h λ̂ is negative there: the mode decays, the flow
# draws the samples in. ERK-Guid acts from the step on where its gate opens; before that its
# correction is zero.

figure, axes = plt.subplots(3, 1, figsize=(6.4, 6.6), sharex=True, layout="constrained")
trace.plot(axes)
axes[0].set_title("Heun's method with ERK-Guid, 18 noise levels")
plt.show()

# %%
# And where the samples went.

figure, ax = plt.subplots(figsize=(3.8, 3.8), layout="constrained")
ax.plot(*x.T, ".", ms=3)
ax.set(aspect="equal", title="400 samples")
plt.show()

"""
The Brusselator in the plane, without a matrix
==============================================

Two chemicals react and diffuse on a square: 2 × 96 × 96 unknowns. The Jacobian would be sparse,
but its factors are not. Diffusion has a real spectrum, and for that ``rock4`` takes long steps by
making more stages, with nothing but calls of f.
"""

import matplotlib.pyplot as plt
import numpy as np

import stiffkit as sk

N = 96
ALPHA = 2e-3


def brusselator(t, w):
    """Return the slopes of both species; the square is periodic. ``w`` has shape (2, N, N)."""
    u, v = w
    spread = (
        ALPHA
        * N**2
        * (np.roll(w, 1, 1) + np.roll(w, -1, 1) + np.roll(w, 1, 2) + np.roll(w, -1, 2) - 4 * w)
    )
    reaction = u * u * v
    spread[0] += 1.0 + reaction - 4.4 * u
    spread[1] += 3.4 * u - reaction
    return spread


# %%
# States have any shape; this one is an array of images. The spectral radius of diffusion is known,
# and ``radius`` saves its estimation. Reaction adds a little.

x = np.arange(N) / N
start = np.array(
    [
        np.broadcast_to(22 * x[:, None] * (1 - x[:, None]) ** 1.5, (N, N)),
        np.broadcast_to(27 * x[None, :] * (1 - x[None, :]) ** 1.5, (N, N)),
    ]
)
times = np.array([0.0, 0.7, 1.6, 7.4, 7.8])
solution = sk.solve(
    brusselator,
    (0.0, 7.8),
    start,
    "rock4",
    rtol=1e-4,
    atol=1e-5,
    t_eval=times,
    radius=8 * ALPHA * N**2 + 20,
)
print(solution.message)
print(solution.stats, "- an explicit pair at its limit would need", end=" ")
print(int(7.8 * 8 * ALPHA * N**2 / sk.METHODS["tsit5"].real_stability_limit) * 6, "calls")

# %%

figure, axes = plt.subplots(1, len(times), figsize=(8.8, 2.5), layout="constrained")
for ax, t, w in zip(axes, times, solution.y, strict=True):
    image = ax.imshow(w[0], cmap="magma", vmin=0, vmax=4.8, origin="lower", extent=(0, 1, 0, 1))
    ax.set(title=f"u at t = {t:g}", xticks=[], yticks=[])
    ax.grid(visible=False)
figure.colorbar(image, ax=axes, shrink=0.8)
plt.show()

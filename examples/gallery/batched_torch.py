"""
Four thousand pendulums, each with its own steps
================================================

A pendulum swings over three magnets and comes to rest at one of them. Which one? The answer is a
picture with fractal edges. Every pixel is a solve of its own: they share the calls of f, as a
batch in torch, and nothing else.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import stiffkit as sk

ANGLES = torch.tensor([0.0, 2 * np.pi / 3, 4 * np.pi / 3], dtype=torch.float64)
MAGNETS = torch.stack([ANGLES.cos(), ANGLES.sin()])


def pendulum(t, y):
    """Return the slopes of a batch of positions and velocities, shape (b, 4)."""
    x, v = y[:, :2], y[:, 2:]
    towards = MAGNETS - x[:, :, None]
    distance = (towards.square().sum(1) + 0.04) ** 1.5
    force = (towards / distance[:, None]).sum(2) - 0.2 * v - 0.5 * x
    return torch.cat([v, force], 1)


# %%
# Pendulums that start close to a magnet need small steps early, those from outside need them late.
# With ``batched=True`` each has its own step size, and those that are done leave the batch.

n = 64
side = torch.linspace(-2.2, 2.2, n, dtype=torch.float64)
x, y = torch.meshgrid(side, side, indexing="xy")
start = torch.stack([x, y, 0 * x, 0 * y], -1).reshape(-1, 4)
solution = sk.solve(
    pendulum, (0.0, 25.0), start, "tsit5", batched=True, rtol=1e-3, atol=1e-4, t_eval=[25.0]
)
print(solution)
steps = np.asarray(solution.stats["accepted"]).reshape(n, n)
print("steps of a pendulum: from", steps.min(), "to", steps.max())

# %%

end = solution.y[-1, :, :2]
nearest = (end[:, :, None] - MAGNETS).square().sum(1).argmin(1).reshape(n, n)
figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.8), layout="constrained")
extent = (-2.2, 2.2, -2.2, 2.2)
left.imshow(nearest.numpy(), origin="lower", extent=extent, cmap="Set2", vmin=0, vmax=7)
left.plot(*MAGNETS.numpy(), "ko", ms=5)
left.set(title="the magnet where it rests")
image = right.imshow(steps, origin="lower", extent=extent, cmap="viridis")
right.set(title="accepted steps")
figure.colorbar(image, ax=right, shrink=0.8)
for ax in (left, right):
    ax.grid(visible=False)
plt.show()

"""
Samplers at equal cost, on a trained network
============================================

A small network that comes with stiffkit draws clothes. Each row has the same start noise and the
same number of network calls; only the sampler differs. The first row is where all of them would
end with infinitely many calls: the converged flow.
"""

import matplotlib.pyplot as plt
import torch

from stiffkit.diffusion import sample, shipped
from stiffkit.guidance import FittedExtrapolation

net = shipped.fashion_mnist()
labels = torch.arange(10)
noise = torch.randn(10, 1, 28, 28, generator=torch.Generator().manual_seed(3))


def denoiser(x, sigma):
    """Return the network's guess of the clean images, one of each class."""
    return net(x, sigma, labels)


# %%
# Heun's method makes two calls per step, so that it gets half the noise levels.
# ``FittedExtrapolation`` corrects its steps by what they have computed already.

CALLS = 9
ROWS = {
    "converged, 48 calls": {"sampler": "sk44", "steps": 48},
    "sk44": {"sampler": "sk44", "steps": CALLS},
    "unipc3": {"sampler": "unipc3", "steps": CALLS},
    "dpmpp2m": {"sampler": "dpmpp2m", "steps": CALLS},
    "heun with FX": {"guide": FittedExtrapolation(), "steps": (CALLS + 1) // 2},
    "heun": {"sampler": "heun", "steps": (CALLS + 1) // 2},
}
images = {name: sample(denoiser, noise, **how) for name, how in ROWS.items()}
flow = images["converged, 48 calls"]
for name, x in images.items():
    print(f"{name:20} distance from the flow {float((x - flow).square().mean().sqrt()):.3f}")

# %%

figure, axes = plt.subplots(len(ROWS), 1, figsize=(7.2, 5.2), layout="constrained")
for ax, (name, x) in zip(axes, images.items(), strict=True):
    strip = shipped.to_pixels(net, x)[:, 0].permute(1, 0, 2).reshape(28, 280)
    ax.imshow(strip.numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.set_ylabel(name, rotation=0, ha="right", va="center")
    ax.grid(visible=False)
plt.show()

"""
A stiff neural ODE
==================

A sensor follows a hidden signal a hundred times faster than the signal moves: y' = −500 (y −
g(t)). A small network is to learn g from what the sensor shows. Training goes through the solver;
an explicit one would spend its steps on stability, and autograd would have to keep them all.
"""

import matplotlib.pyplot as plt
import numpy as np
import torch

import stiffkit as sk

torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(1, 32), torch.nn.Tanh(), torch.nn.Linear(32, 1)).double()
with torch.no_grad():  # spread over the interval
    net[0].weight.copy_(4 * torch.sign(net[0].weight))
    net[0].bias.copy_(-net[0].weight[:, 0] * torch.linspace(0, 4, 32))


def sensor(t, y, signal):
    """Return the slope of the reading; t is a tensor without dimensions."""
    return -500.0 * (y - signal(t))


def truth(t):
    """Return the hidden signal."""
    return torch.exp(-t / 2) * torch.sin(3 * t)


def learnt(t):
    """Return the network's signal."""
    return net(t.reshape(1, 1))[0]


# %%
# The data: forty noisy readings, at times inside the steps: ``kvaerno5`` has dense output that
# stays accurate where a cubic through the slopes would multiply their errors by hλ. The Jacobian
# is constant, and given.

times = torch.linspace(0.05, 4.0, 40, dtype=torch.float64)
y0 = torch.tensor([1.0], dtype=torch.float64)
how = {"rtol": 1e-3, "atol": 1e-4, "t_eval": times}
stiff = {**how, "jac": torch.tensor([[-500.0]], dtype=torch.float64)}
clean = sk.solve(sensor, (0.0, 4.0), y0, "kvaerno5", args=(truth,), **stiff)
data = clean.y + 0.03 * torch.randn_like(clean.y)
explicit = sk.solve(sensor, (0.0, 4.0), y0, "tsit5", args=(truth,), detect=False, **how)
for name, run in (("kvaerno5", clean), ("tsit5", explicit)):
    print(f"{name}: {run.stats['accepted']} steps, {run.stats['nfev']} calls of f")

# %%
# Training: the gradient is that of the computed solution, through Newton's iterations.

optimiser = torch.optim.Adam(net.parameters(), lr=0.02)
losses = []
for _ in range(48):
    optimiser.zero_grad()
    run = sk.solve(sensor, (0.0, 4.0), y0, "kvaerno5", args=(learnt,), **stiff)
    loss = (run.y - data).square().mean()
    loss.backward()
    optimiser.step()
    losses.append(loss.item())
print(f"loss from {losses[0]:.3f} to {losses[-1]:.5f}; the noise is {0.03**2:.5f}")

# %%

t = torch.linspace(0, 4, 200, dtype=torch.float64)
with torch.no_grad():
    found = net(t[:, None])[:, 0]
figure, (left, right) = plt.subplots(1, 2, figsize=(8.4, 3.3), layout="constrained")
left.plot(times.numpy(), data[:, 0].numpy(), "C7.", label="readings")
t, found = t.numpy(), found.numpy()
left.plot(t, np.exp(-t / 2) * np.sin(3 * t), "k--", lw=1, label="hidden signal")
left.plot(t, found, "C0", label="network")
left.set(xlabel="t")
left.legend()
right.semilogy(losses)
right.axhline(0.03**2, color="0.5", ls="--", lw=1, label="noise")
right.set(xlabel="step of training", title="mean square error")
right.legend()
plt.show()

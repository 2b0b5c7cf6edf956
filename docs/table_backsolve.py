"""Prints the table of docs/theory/adjoints.md: backsolve as a problem becomes stiff."""

import torch

import stiffkit as sk


def f(t, y, p, k):  # noqa: ARG001 - the solver gives t
    """Return k (p − y³): deviations from the cube root of p shrink like exp(−3kt)."""
    return k[:, None] * (p - y**3)


def gradient(k, tol, adjoint):
    """Return ∂y(1)/∂p at p = 1, y(0) = 1.2."""
    p = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.full((1, 1), 1.2, dtype=torch.float64)
    solution = sk.solve(
        f,
        (0.0, 1.0),
        y0,
        "dopri5",
        batched=True,
        args=(p, torch.tensor([k], dtype=torch.float64)),
        t_eval=[1.0],
        rtol=tol,
        atol=tol,
        adjoint=adjoint,
        max_steps=5000,
    )
    return float(torch.autograd.grad(solution.y.sum(), p)[0])


if __name__ == "__main__":
    for k in (1.0, 3.0, 6.0, 10.0):
        exact = gradient(k, 1e-11, None)
        row = [f"{k:.0f}"]
        ways = (None, "checkpoints", "backsolve", sk.Backsolve(rtol=1e-10, atol=1e-10))
        for adjoint in ways:
            try:
                error = abs(gradient(k, 1e-6, adjoint) / exact - 1)
                row.append(f"{error:.0e}")
            except RuntimeError:
                row.append("fails")
        print("| " + " | ".join(row) + " |")

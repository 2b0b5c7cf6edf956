"""torchdiffeq's signatures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from .plan import Plan
from .run import Gradient, run

__all__ = ["odeint", "odeint_adjoint", "odeint_event"]


def odeint(
    func: Callable[..., Any],
    y0: Any,
    t: torch.Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: Any = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[..., Any] | None = None,
) -> Any:
    """Solve dy/dt = func(t, y), y(t[0]) = y0 with torchdiffeq's signature and result.

    Parameters
    ----------
    func : callable
        ``func(t, y)``, with t a 0-d tensor of the state's real dtype. Its methods
        ``callback_step(t0, y0, dt)``, ``callback_accept_step`` and ``callback_reject_step`` are
        called before each attempted step and with its verdict (the latter two not for fixed steps).
    y0 : torch.Tensor or tuple of torch.Tensor
        Initial state.
    t : torch.Tensor, shape (n_t,)
        Times to return the state at, monotone; the first is the initial time.
    rtol, atol : float, torch.Tensor or tuple
        Tolerances, of the whole state or of each part of a tuple.
    method : str, optional
        torchdiffeq's name, or any in `stiffkit.METHODS`, or ``"auto"``; by default dopri5. The
        names euler, midpoint, heun2, heun3 and rk4 (the 3/8 rule) are for fixed steps, and so is
        every method that is given a step size.
    options : dict, optional
        For steps under control ``first_step, safety, ifactor, dfactor, max_step, max_num_steps,
        step_t, jump_t, norm, dtype`` (times are always float64 here), for fixed ones ``step_size,
        grid_constructor, interp, perturb``.
    event_fn : callable, optional
        ``event_fn(t, y)``; the solve ends where one of its values changes sign. Of `t`, of length
        two, the first time is the start and the second tells the direction.

    Returns
    -------
    y : torch.Tensor, shape ``(n_t, *shape)``, or tuple of them
        With `event_fn`, the time of the event and the states at both ends. All is differentiable:
        y0, parameters, times, and the event's time (by the implicit function theorem).

    Raises
    ------
    ValueError, TypeError
        If an argument is unusable, or a method or option is not there.
    RuntimeError
        If the solve fails; its ``solution`` attribute has what was computed.

    References
    ----------
    R. T. Q. Chen, torchdiffeq, https://github.com/rtqichen/torchdiffeq. R. T. Q. Chen, B. Amos,
    M. Nickel, Learning neural event functions for ordinary differential equations, ICLR 2021,
    doi:10.48550/arXiv.2011.03902.

    Examples
    --------
    >>> import torch
    >>> import stiffkit as sk
    >>> y = sk.odeint(lambda t, y: -y, torch.ones(2), torch.tensor([0.0, 1.0]))
    >>> y.shape, round(float(y[-1, 0]), 4)
    (torch.Size([2, 2]), 0.3679)
    """
    return run(func, y0, t, rtol, atol, Plan.of(method, options), event_fn)


def odeint_adjoint(
    func: Callable[..., Any],
    y0: Any,
    t: torch.Tensor,
    *,
    rtol: Any = 1e-7,
    atol: Any = 1e-9,
    method: Any = None,
    options: Mapping[str, Any] | None = None,
    event_fn: Callable[..., Any] | None = None,
    adjoint_rtol: Any = None,
    adjoint_atol: Any = None,
    adjoint_method: Any = None,
    adjoint_options: Mapping[str, Any] | None = None,
    adjoint_params: Any = None,
) -> Any:
    """Solve like `odeint`, with gradients from the adjoint equation: memory does not grow with t.

    Parameters
    ----------
    func, y0, t, rtol, atol, method, options, event_fn
        As for `odeint`. For implicit, Rosenbrock and stabilised methods, whose problems cannot be
        solved backward, gradients go through the steps, with checkpoints, and `adjoint_options`
        and the like have no part.
    adjoint_rtol, adjoint_atol, adjoint_method, adjoint_options
        Of the backward solve; by default the forward ones, without their norm. The integral of the
        parameters has no part in the control of the steps, which is what ``norm="seminorm"`` asks
        for.
    adjoint_params : sequence of torch.Tensor, optional
        What func depends on; by default its parameters, for which it must be a ``torch.nn.Module``.

    Returns
    -------
    torch.Tensor, or tuple
        As for `odeint`.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As for `odeint`.

    References
    ----------
    R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, Neural ordinary differential equations,
    NeurIPS 2018, doi:10.48550/arXiv.1806.07366. P. Kidger, R. T. Q. Chen, T. Lyons, "Hey, that's
    not an ODE": faster ODE adjoints via seminorms, ICML 2021, doi:10.48550/arXiv.2009.09457.
    """
    if adjoint_params is None and not isinstance(func, torch.nn.Module):
        msg = "func must be a torch.nn.Module, or give adjoint_params (a tuple; () for none)"
        raise ValueError(msg)
    given = tuple(func.parameters() if adjoint_params is None else adjoint_params)  # type: ignore[attr-defined]
    if adjoint_method is None:
        adjoint_method = method
    elif adjoint_method != method and options is not None and adjoint_options is None:
        msg = "options are those of the method: give adjoint_options with another adjoint_method"
        raise ValueError(msg)
    back = dict(options or {}) if adjoint_options is None else dict(adjoint_options)
    norm = back.pop("norm", None)
    if adjoint_options is not None and norm not in (None, "seminorm"):
        msg = (
            "adjoint_options['norm'] must be 'seminorm': y and its adjoint decide the backward "
            f"steps, and not {norm!r}"
        )
        raise ValueError(msg)
    plan = Plan.of(method, options)
    if "norm" in plan.options:
        back["norm"] = plan.options["norm"]
    gradient = Gradient(
        Plan.of(adjoint_method, back),
        adjoint_rtol,
        adjoint_atol,
        tuple(p for p in given if p.requires_grad),
    )
    return run(func, y0, t, rtol, atol, plan, event_fn, gradient)


def odeint_event(
    func: Callable[..., Any],
    y0: Any,
    t0: torch.Tensor,
    *,
    event_fn: Callable[..., Any],
    reverse_time: bool = False,
    odeint_interface: Callable[..., Any] = odeint,
    **kwargs: Any,
) -> tuple[torch.Tensor, Any]:
    """Solve from t0 until an event, whose time and state are differentiable.

    Parameters
    ----------
    func, y0
        As for `odeint`.
    t0 : torch.Tensor, shape ()
        Initial time.
    event_fn : callable
        ``event_fn(t, y)``: the solve ends where one of its values changes sign. Gradients reach its
        parameters too.
    reverse_time : bool
        Go backward.
    odeint_interface : callable
        `odeint` or `odeint_adjoint`.
    **kwargs
        Its other arguments.

    Returns
    -------
    event_t : torch.Tensor, shape ()
        Time of the event.
    y : torch.Tensor, shape ``(2, *shape)``, or tuple of them
        States at t0 and at the event.
    """
    start = torch.as_tensor(t0).reshape(1)
    t = torch.cat([start, start.detach() + (-1.0 if reverse_time else 1.0)])
    found: tuple[torch.Tensor, Any] = odeint_interface(func, y0, t, event_fn=event_fn, **kwargs)
    return found

"""Sampling: noise in, D(x, σ_min) out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

from .._array import Array, backend_of
from .._optional import require
from ..guidance.field import call
from ..solvers import Step, StepHook, solve
from .arguments import (
    DEFAULT_SAMPLER,
    Method,
    check_levels,
    check_together,
    find_method,
    start_state,
)
from .multistep import Multistep
from .schedule import karras_sigmas
from .stepping import (
    Churn,
    SeededNoise,
    follow_multistep,
    follow_tableau,
    stopped,
)
from .trace import Trace

__all__ = ["SampleStep", "probability_flow", "sample"]


class SampleStep(NamedTuple):
    """A step that was made, as callbacks see it."""

    i: int
    """Number of the step, from 0."""
    sigma: float
    """Noise level at its start."""
    sigma_hat: float
    """The same with churn."""
    sigma_next: float
    """Noise level at its end."""
    x: Array
    """State at its end."""
    denoised: Array
    """D at its start."""


def probability_flow(denoiser: Callable[..., Array]) -> Callable[[Any, Array], Array]:
    """Return the right-hand side dx/dσ = (x − D(x, σ)) / σ, with σ in the place of time."""

    def f(sigma: Any, x: Array) -> Array:
        return (x - denoiser(x, sigma)) / sigma

    return f


def sample(
    denoiser: Callable[..., Array],
    noise: Array,
    sigmas: Any = None,
    *,
    steps: int = 18,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    rho: float = 7.0,
    sampler: str | Method | None = None,
    guide: StepHook | None = None,
    labels: Any = None,
    image: Array | None = None,
    churn: float | Churn = 0.0,
    seeds: Sequence[int] | SeededNoise | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    dtype: Any = None,
    trace: bool = False,
    callback: Callable[[SampleStep], Any] | None = None,
    progress: bool = False,
) -> Any:
    """Draw samples: solve the probability-flow ODE from σ_max to σ_min, then take D(x, σ_min).

    Parameters
    ----------
    denoiser : callable
        ``D(x, sigma)``, or ``D(x, sigma, labels)`` where labels are given.
    noise : array, shape ``(B, *shape)``
        Unit normal noise, NumPy or torch.
    sigmas : array_like, shape (n,), or int, optional
        Falling noise levels, without a final zero. A number stands for `steps`; by default they are
        ``karras_sigmas(steps, sigma_min, sigma_max, rho)``.
    steps : int
        Number of noise levels, as EDM counts. A multistep sampler makes as many calls, Heun's
        method 2·steps − 1.
    sigma_min, sigma_max, rho : float
        Of the default grid.
    sampler : str, ButcherTableau or Multistep, optional
        A name in `SAMPLERS`, or a method of your own. By default Heun's method with a guide or
        with churn, dopri5 with `rtol`, and else `DEFAULT_SAMPLER`.
    guide : StepHook, optional
        For example `stiffkit.guidance.ERKGuidance` or `FittedExtrapolation`.
    labels : optional
        Handed on to the denoiser.
    image : array, shape ``(B, *shape)``, optional
        Image to image: start from it with noise of the first level added, not from noise alone.
    churn : float or Churn
        EDM's stochastic churn; a number is its S_churn.
    seeds : sequence of int, or SeededNoise
        One seed per sample for the noise of `churn`.
    rtol, atol : float, optional
        Control the error instead of following the grid, of which only the ends count: by an
        embedded pair in the time log σ, one step size for the whole batch. atol is rtol by default.
    dtype : optional
        Of the state; by default that of `noise`. See `NetworkDenoiser` for the network's own.
    trace : bool
        Return a `Trace` too.
    callback : callable, optional
        ``callback(SampleStep)`` after every step; a true return value stops, and the result is D as
        of then.
    progress : bool
        Show a progress bar over the steps (needs tqdm).

    Returns
    -------
    array, shape ``(B, *shape)``, or (array, Trace)

    Raises
    ------
    TypeError, ValueError
        If an argument is unusable, before the first call; among others if a sampler cannot carry
        the guide or churn.
    RuntimeError
        If the denoiser returned NaN or inf; the partial Solution is in its ``solution`` attribute.

    Notes
    -----
    Autograd is off unless `noise` or `image` requires gradients.
    """
    churn = churn if isinstance(churn, Churn) else Churn(float(churn))
    if sampler is None:
        plain = guide is None and not churn.S_churn
        sampler = "heun" if not plain else DEFAULT_SAMPLER if rtol is None else "dopri5"
    method = find_method(sampler)
    check_together(method, guide, churn, seeds, rtol)
    if isinstance(sigmas, (int, np.integer)):
        steps, sigmas = int(sigmas), None
    if int(steps) != steps or steps < 2:
        msg = f"steps must be an integer of at least 2, not {steps!r}"
        raise ValueError(msg)
    if sigmas is None:
        sigmas = karras_sigmas(steps, sigma_min, sigma_max, rho)
    levels = check_levels(sigmas)
    x = start_state(noise, image, levels[0], dtype)
    source = None
    if churn.S_churn and seeds is not None:
        source = seeds if isinstance(seeds, SeededNoise) else SeededNoise(seeds, x)
        if len(source.generators) != len(x):
            msg = f"seeds must be one per sample, {len(x)}, not {len(source.generators)}"
            raise ValueError(msg)
    backend = backend_of(x)
    run = _Run(denoiser, labels, guide, callback, levels, trace=trace, progress=progress)
    with nullcontext() if backend.wants_grad(x) else backend.no_grad(), run:
        try:
            if rtol is not None:
                D = _adaptive(run, x, levels, method, rtol, rtol if atol is None else atol)
            elif isinstance(method, Multistep):
                D = follow_multistep(run.denoise, x, levels, method, run.hook)
            else:
                churned = None if source is None else (churn, source)
                flow = probability_flow(run.denoise)
                x, end = follow_tableau(flow, x, levels, method, run.hook, churned, run.pair)
                D = run.denoise(x, backend.time(end, x))
        except _Stop as stop:
            D = stop.denoised
    if run.trace is None:
        return D
    run.trace.nfev = run.nfev
    return D, run.trace


class _Stop(Exception):
    """The callback asked to stop."""

    def __init__(self, denoised: Array) -> None:
        super().__init__()
        self.denoised = denoised


class _Run:
    """What happens around the steps of a run: counting, guide, trace, callback, progress bar."""

    def __init__(
        self,
        denoiser: Callable[..., Array],
        labels: Any,
        guide: StepHook | None,
        callback: Callable[[SampleStep], Any] | None,
        levels: list[float],
        *,
        trace: bool,
        progress: bool,
    ) -> None:
        self.denoiser, self.labels, self.guide, self.callback = denoiser, labels, guide, callback
        self.levels, self.trace = levels, Trace() if trace else None
        self.nfev = self.i = 0
        self.pair = getattr(guide, "pair", "stage")
        self.bar: Any = None
        if progress:
            tqdm = require("tqdm.auto", "diffusion", "progress=True").tqdm
            layout = "{l_bar}{bar}| {postfix[0]} [{elapsed}<{remaining}]"
            length = math.log(levels[0] / levels[-1])
            self.bar = tqdm(total=length, bar_format=layout, postfix=[f"σ = {levels[0]:.3g}"])
        watched = guide is not None or callback is not None or trace or progress
        self.hook = self._hook if watched else None

    def denoise(self, x: Array, sigma: Any) -> Array:
        """Call the denoiser, and count."""
        self.nfev += 1
        return call(self.denoiser, x, sigma, self.labels)

    def _hook(self, step: Step, probe: Any) -> Array:
        moved = step.y_new if self.guide is None else self.guide(step, probe)
        if self.trace is not None:
            jacobian = getattr(self.denoiser, "jacobian", None)
            self.trace.record(step, probe, moved, self.guide, jacobian)
        D, s = step.y - step.t * step.k[0], self.levels[self.i]
        self.passed(SampleStep(self.i, s, step.t, step.t_new, moved, D))
        return moved

    def passed(self, step: SampleStep) -> None:
        """Tell of a step that was made."""
        self.i += 1
        if self.bar is not None:
            self.bar.postfix[0] = f"σ = {step.sigma_next:.3g}"
            self.bar.update(math.log(self.levels[0] / step.sigma_next) - self.bar.n)
        if self.callback is not None and self.callback(step):
            raise _Stop(step.denoised)

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


def _adaptive(
    run: _Run, x: Array, levels: list[float], method: Any, rtol: float, atol: float
) -> Array:
    """Solve dx/dlog σ = x − D with error control; D at the end."""
    backend = backend_of(x)

    def f(t: Any, x: Array) -> Array:
        return x - run.denoise(x, math.exp(t) if isinstance(t, float) else t.exp())

    def passed(step: Step) -> None:
        s, s_new = math.exp(step.t), math.exp(step.t_new)
        run.passed(SampleStep(run.i, s, s, s_new, step.y_new, step.y - step.k[0]))

    span = math.log(levels[0]), math.log(levels[-1])
    solution = solve(
        f, span, x, method, rtol=rtol, atol=atol, t_eval=span[1:], callback=passed, detect=False
    )
    if not solution.success:
        raise stopped(solution)
    return run.denoise(solution.y[-1], backend.time(levels[-1], x))

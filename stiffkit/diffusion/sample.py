"""Sampling: noise in, D(x, σ_min) out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np

from .._array import Array, backend_of
from .._optional import require
from ..guidance.field import call, guide_of
from ..solvers import Step, StepHook
from ..solvers.problem import check_flags
from .adaptive import AdaptiveRun, interrupted, of_samples
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
)
from .trace import Trace

__all__ = ["SampleStep", "probability_flow", "sample"]


class SampleStep(NamedTuple):
    """A step that was made, as callbacks see it.

    With error control each sample has levels of its own, and the three are arrays of shape (B,);
    samples that rest, or have ended, start and end at one level.
    """

    i: int
    """Number of the step, from 0."""
    sigma: Any
    """Noise level at its start."""
    sigma_hat: Any
    """The same with churn."""
    sigma_next: Any
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
        embedded pair in the time log σ, each sample with its own steps; those that have ended leave
        the batch. The denoiser is called with levels of shape (B,). atol is rtol by default.
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
        With error control the other samples are finished before: ``samples`` has them (NaN for the
        lost ones), ``states`` and ``sigma`` how far each came, and ``trace`` the Trace, if asked
        for.

    Notes
    -----
    Autograd is off unless `noise` or `image` requires gradients.
    """
    check_flags(trace=trace, progress=progress)
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
    around = {"trace": trace, "progress": progress}
    run = _Run(denoiser, labels, guide, callback, levels, len(x), **around)
    with nullcontext() if backend.wants_grad(x) else backend.no_grad(), run:
        try:
            if rtol is not None:
                D = _controlled(run, x, method, rtol, rtol if atol is None else atol)
            elif isinstance(method, Multistep):
                D = follow_multistep(run.denoise, x, levels, method, run.hook)
            else:
                churned = None if source is None else (churn, source)
                flow = probability_flow(run.denoise)
                x, end = follow_tableau(flow, x, levels, method, run.hook, churned, run.pair)
                D = run.denoise(x, backend.time(end, x))
        except _Stop as stop:
            D = stop.denoised
    return D if run.trace is None else (D, run.trace)


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
        size: int,
        *,
        trace: bool,
        progress: bool,
    ) -> None:
        self.denoiser, self.labels, self.guide, self.callback = denoiser, labels, guide, callback
        self.levels, self.trace = levels, Trace() if trace else None
        self.size, self.i = size, 0
        self.taken: tuple[Any, Callable[..., Array], Any] | None = None
        """Rows of the batch that are left, with their denoiser and labels."""
        self.pair = getattr(guide, "pair", "stage")
        self.bar: Any = None
        if progress:
            tqdm = require("tqdm.auto", "diffusion", "progress=True").tqdm
            layout = "{l_bar}{bar}| {postfix[0]} [{elapsed}<{remaining}]"
            length = math.log(levels[0] / levels[-1])
            self.bar = tqdm(total=length, bar_format=layout, postfix=[f"σ = {levels[0]:.3g}"])
        watched = guide is not None or callback is not None or trace or progress
        self.hook = self._hook if watched else None

    def denoise(self, x: Array, sigma: Any, rows: Any = None) -> Array:
        """Call the denoiser, with some rows of the batch or all, and count."""
        if self.trace is not None:
            self.trace.nfev += 1
            self.trace.evaluations += len(x)
        if rows is None or len(rows) == self.size:
            return call(self.denoiser, x, sigma, self.labels)
        if self.taken is None or self.taken[0] is not rows:
            labels = of_samples(self.labels, rows, self.size)
            self.taken = rows, guide_of(self.denoiser, rows), labels
        return call(self.taken[1], x, sigma, self.taken[2])

    def _hook(self, step: Step, probe: Any) -> Array:
        moved = step.y_new if self.guide is None else self.guide(step, probe)
        if self.trace is not None:
            jacobian = getattr(self.denoiser, "jacobian", None)
            self.trace.record(step, probe, moved, self.guide, jacobian)
        D, s = step.y - step.t * step.k[0], self.levels[self.i]
        if self.passed(s, step.t, step.t_new, moved, D):
            raise _Stop(D)
        return moved

    def passed(self, sigma: Any, sigma_hat: Any, sigma_next: Any, x: Array, D: Array) -> bool:
        """Tell of a step that was made; return whether to stop."""
        i, self.i = self.i, self.i + 1
        if self.bar is not None:
            self.bar.postfix[0] = f"σ = {np.max(sigma_next):.3g}"
            self.bar.update(float(np.log(self.levels[0] / sigma_next).mean()) - self.bar.n)
        step = SampleStep(i, sigma, sigma_hat, sigma_next, x, D)
        return self.callback is not None and bool(self.callback(step))

    def __enter__(self) -> _Run:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()


def _controlled(run: _Run, x: Array, method: Any, rtol: float, atol: float) -> Array:
    """Solve with error control; D at the end."""

    def passed(sigma: Any, sigma_next: Any, x: Array, D: Array) -> bool:
        return run.passed(sigma, sigma, sigma_next, x, D)

    adaptive = AdaptiveRun(run.denoise, x, run.levels, method, passed)
    solution = adaptive.integrate(rtol, atol, log=run.trace is not None)
    if run.trace is not None:
        run.trace.control(solution, adaptive.calls(solution))
    if interrupted(solution):
        return adaptive.D
    x, ended = solution.y[-1], solution.succeeded
    D, rows = np.nan * x, np.flatnonzero(ended)
    if len(rows):
        at = backend_of(x).index(rows, x)
        last = run.denoise(x[at], backend_of(x).time(run.levels[-1], x), rows)
        if ended.all():
            return last
        D[at] = last
    error = adaptive.error(solution, D)
    error.trace = run.trace  # type: ignore[attr-defined]
    raise error

"""Schedulers for the pipelines of 🤗 diffusers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ...guidance import ERKGuidance, FittedExtrapolation
from ...solvers import EXPLICIT, Step, StepHook
from ...solvers.step import Probe, rk_step
from ..arguments import check_levels
from ..denoiser import DiscreteTimes, NetworkDenoiser, Prediction
from ..multistep import MULTISTEP
from ..schedule import exponential_sigmas, karras_sigmas
from ..stepping import MultistepRun

try:
    from diffusers.configuration_utils import ConfigMixin, register_to_config
    from diffusers.schedulers import scheduling_utils

    # By this name in this module diffusers learns that a class here is a scheduler, and loads it.
    from diffusers.schedulers.scheduling_utils import SchedulerMixin
except ImportError as error:
    _msg = "stiffkit's schedulers need diffusers: pip install 'stiffkit[diffusers]'"
    raise ImportError(_msg) from error

__all__ = ["HeunScheduler", "MultistepScheduler", "SchedulerOutput"]

Process = Literal["vp", "edm"]
Spacing = Literal["karras", "exponential"]

_PREDICTIONS: dict[str, Prediction] = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}


@dataclass
class SchedulerOutput(scheduling_utils.SchedulerOutput):
    """What a step returns."""

    pred_original_sample: Tensor | None = None
    """D, the expected clean sample."""


class _Scheduler(SchedulerMixin, ConfigMixin):
    """What both schedulers share: noise levels, times, and D from what the network predicts."""

    _compatibles: ClassVar[list[str]] = [
        kind.name for kind in scheduling_utils.KarrasDiffusionSchedulers
    ]
    order = 1

    def _prepare(self) -> None:
        """Check the configuration, and derive the training levels from it."""
        config = self.config
        for name, value, known in (
            ("process", config.process, get_args(Process)),
            ("spacing", config.spacing, get_args(Spacing)),
            ("prediction_type", config.prediction_type, tuple(_PREDICTIONS)),
        ):
            if value not in known:
                msg = f"{name} must be one of {', '.join(known)}, not {value!r}"
                raise ValueError(msg)
        low, high = 0.002, 80.0
        if config.process == "vp":
            self.discrete = DiscreteTimes(np.cumprod(1 - _betas(config)))
            low, high = self.discrete.sigmas[[0, -1]].tolist()
        self._ends = config.sigma_min or low, config.sigma_max or high
        self.levels: list[float] = []
        self.num_inference_steps: int | None = None
        self._begin_index: int | None = None
        self.timesteps = torch.tensor([])
        self.sigmas = torch.tensor([])
        self._restart()

    def _restart(self) -> None:
        self._step_index: int | None = None
        self._sent: tuple[Tensor, Tensor] | None = None
        """The state for which the network was last asked, and what the pipeline got of it."""

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    @property
    def step_index(self) -> int | None:
        """How many steps have been made, counted from the grid's start; None before the first."""
        return self._step_index

    @property
    def begin_index(self) -> int | None:
        """Where a run begins that does not begin with the first time, as for image to image."""
        return self._begin_index

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Begin at ``timesteps[begin_index]``."""
        self._begin_index = begin_index

    @property
    def init_noise_sigma(self) -> float:
        """Factor of the unit noise with which a run begins."""
        s = self.levels[0] if self.levels else self._ends[1]
        return s * self._scale(s)

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        sigmas: Any = None,
    ) -> None:
        """Choose the noise levels of a run.

        Parameters
        ----------
        num_inference_steps : int, optional
            Number of noise levels.
        device : optional
            Of the times.
        sigmas : array_like, shape (n,), optional
            Levels of your own, falling; a final zero is dropped, since a run ends with D.
        """
        if sigmas is None:
            if num_inference_steps is None:
                msg = "give num_inference_steps or sigmas"
                raise ValueError(msg)
            grid = (
                karras_sigmas(num_inference_steps, *self._ends, self.config.rho)
                if self.config.spacing == "karras"
                else exponential_sigmas(num_inference_steps, *self._ends)
            )
            self.levels = grid.tolist()
        else:
            given = [float(s) for s in sigmas]
            self.levels = check_levels(given[:-1] if given and given[-1] == 0 else given)
        self.num_inference_steps = len(self.levels)
        levels = torch.tensor(self.levels, dtype=torch.float32)
        self.sigmas = torch.cat([levels, levels.new_zeros(1)])
        times = self.discrete(levels) if self.config.process == "vp" else levels.log() / 4
        self.timesteps = self._repeated(times).to(device)
        self._begin_index = None
        self._restart()

    def _repeated(self, times: Tensor) -> Tensor:
        return times

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Return what the network is to be given for the state `sample`."""
        if self.config.process == "vp":
            return sample
        s = self._level(self._index(timestep))
        return sample / math.sqrt(s**2 + self.config.sigma_data**2)

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Return clean samples with the noise of the given times, shape (B,) or (1,)."""
        t = torch.as_tensor(timesteps).reshape(-1).double().cpu().numpy()
        if self.config.process == "vp":
            logs = np.log(self.discrete.sigmas)
            sigma = np.exp(np.interp(t, np.arange(len(logs)), logs))
        else:
            sigma = np.exp(4 * t)
        alpha = np.array([self._scale(s) for s in sigma])
        shape = (-1,) + (1,) * (original_samples.ndim - 1)
        a, s = (torch.tensor(v).to(original_samples).reshape(shape) for v in (alpha, alpha * sigma))
        return a * original_samples + s * noise

    def step(
        self,
        model_output: Tensor,
        timestep: Any,
        sample: Tensor,
        generator: Any = None,
        return_dict: bool = True,
    ) -> SchedulerOutput | tuple[Tensor, Tensor]:
        """Take what the network said, and return the state for which to ask it next.

        Parameters
        ----------
        model_output : Tensor, shape ``(B, *shape)``
            The network's prediction.
        timestep : float or Tensor
            One of `timesteps`; only the first of a run is looked at.
        sample : Tensor, shape ``(B, *shape)``
            The state that the last step returned. What the pipeline has added to it since then, as
            for inpainting, is kept.
        generator : optional
            Unused: nothing is random.
        return_dict : bool
            False returns a tuple.

        Returns
        -------
        SchedulerOutput or (Tensor, Tensor)
            State and D; in the last step both are D.
        """
        i = self._index(timestep)
        if i >= len(self.timesteps):
            msg = f"all {len(self.timesteps)} steps are made: call set_timesteps before a new run"
            raise ValueError(msg)
        s = self._level(i)
        wide = torch.promote_types(sample.dtype, torch.float32)
        at = sample.to(wide) / self._scale(s)
        if self._sent is not None and torch.equal(sample, self._sent[1]):
            at = self._sent[0]  # as it was before it was scaled and rounded
        D = self._denoised(model_output.to(wide), at, s)
        self._step_index = i + 1
        last = self._step_index == len(self.timesteps)
        ahead = D if last else self._advance(i, at, D)
        factor = 1.0 if last else self._scale(self._level(i + 1))
        sent = (factor * ahead).to(model_output.dtype)
        self._sent = ahead, sent
        if not return_dict:
            return sent, D
        return SchedulerOutput(prev_sample=sent, pred_original_sample=D)

    def _advance(self, i: int, at: Tensor, D: Tensor) -> Tensor:
        """Return the state for call i + 1 of the network, given D at the state of call i."""
        raise NotImplementedError

    def _level(self, i: int) -> float:
        """Return the noise level of call i."""
        return self.levels[i]

    def _index(self, timestep: Any) -> int:
        if self._step_index is not None:
            return self._step_index
        if self._begin_index is not None:
            return self._begin_index
        (found,) = (self.timesteps.cpu() == torch.as_tensor(timestep).cpu()).nonzero(as_tuple=True)
        if not len(found):
            msg = f"timestep {timestep!r} is none of scheduler.timesteps; call set_timesteps first"
            raise ValueError(msg)
        return int(found[-1])  # of two equal times the second begins a step

    def _scale(self, s: float) -> float:
        """α of the state α x that the pipeline holds."""
        return 1 / math.sqrt(1 + s**2) if self.config.process == "vp" else 1.0

    def _denoised(self, output: Tensor, x: Tensor, s: float) -> Tensor:
        kind = self.config.prediction_type
        D: Tensor
        if self.config.process == "vp" or kind == "sample":
            to_D = NetworkDenoiser(lambda *_: output, _PREDICTIONS[kind], "vp")
            D = to_D(x, s)
            return D
        d, sign = self.config.sigma_data, -1 if kind == "v_prediction" else 1
        total = s**2 + d**2
        D = d**2 / total * x + sign * s * d / math.sqrt(total) * output
        return D


class MultistepScheduler(_Scheduler):
    """stiffkit's multistep samplers, with one call of the network for each noise level.

    The state is α x with α = 1/√(1 + σ²) for "vp", as in DDPM's and Stable Diffusion's pipelines,
    and x itself, scaled for the network, for "edm".

    Parameters
    ----------
    sampler : str
        A name in `stiffkit.diffusion.MULTISTEP`.
    prediction_type : {"epsilon", "v_prediction", "sample"}
        What the network predicts. For "edm" the first two are EDM's preconditioned output, with its
        sign.
    process : {"vp", "edm"}
        How the network's input is scaled and what it is told of σ: a training step of the betas, or
        log(σ)/4.
    num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas
        Of the training, as in diffusers' own schedulers; not used for "edm".
    sigma_data : float
        Standard deviation of the data, for EDM's preconditioning and for `guide="fx"`.
    spacing : {"karras", "exponential"}
        Of the noise levels.
    sigma_min, sigma_max : float, optional
        By default those of the training, and 0.002 and 80 for "edm".
    rho : float
        Of Karras' grid.

    Raises
    ------
    ValueError
        If a name is unknown.
    """

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        sampler: str = "sk44",
        prediction_type: str = "epsilon",
        process: str = "vp",
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        sigma_data: float = 0.5,
        spacing: str = "karras",
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        rho: float = 7.0,
    ) -> None:
        if sampler not in MULTISTEP:
            msg = f"sampler must be one of {', '.join(MULTISTEP)}, not {sampler!r}"
            raise ValueError(msg)
        self._prepare()

    def _restart(self) -> None:
        super()._restart()
        self._run: MultistepRun | None = None

    def _advance(self, i: int, at: Tensor, D: Tensor) -> Tensor:
        if self._run is None:
            self._run = MultistepRun(self.levels[i:], MULTISTEP[self.config.sampler])
        corrected = self._run.push(at, D)
        if self._sent is not None and at is not self._sent[0]:
            self._run.x = corrected + (at - self._sent[0])  # what the pipeline added
        ahead: Tensor = self._run.predict()
        return ahead


class HeunScheduler(_Scheduler):
    """Heun's method, optionally guided: two calls for each step, one for the last noise level.

    Parameters
    ----------
    guide : {"none", "erk", "fx"}
        Nothing, `stiffkit.guidance.ERKGuidance` or `FittedExtrapolation` of `sigma_data`.
    w_stiff, w_con : float
        Of ERK-Guid.
    others
        As for `MultistepScheduler`.

    Raises
    ------
    ValueError
        If a name is unknown or a parameter out of range.
    """

    order = 2

    @register_to_config  # type: ignore[untyped-decorator]
    def __init__(
        self,
        guide: str = "none",
        w_stiff: float = 1.0,
        w_con: float = 0.5,
        prediction_type: str = "epsilon",
        process: str = "vp",
        num_train_timesteps: int = 1000,
        beta_start: float = 0.0001,
        beta_end: float = 0.02,
        beta_schedule: str = "linear",
        trained_betas: list[float] | None = None,
        sigma_data: float = 0.5,
        spacing: str = "karras",
        sigma_min: float | None = None,
        sigma_max: float | None = None,
        rho: float = 7.0,
    ) -> None:
        guides: dict[str, Any] = {
            "none": lambda: None,
            "erk": lambda: ERKGuidance(w_stiff, w_con),
            "fx": lambda: FittedExtrapolation(sigma_data),
        }
        if guide not in guides:
            msg = f"guide must be one of {', '.join(guides)}, not {guide!r}"
            raise ValueError(msg)
        self._guide: StepHook | None = guides[guide]()
        self._prepare()

    def _restart(self) -> None:
        super()._restart()
        self._start: tuple[Tensor, Tensor] | None = None
        """State and slope at the start of the step."""
        self._probe: Probe | None = None

    def _repeated(self, times: Tensor) -> Tensor:
        return times.repeat_interleave(2)[1:]

    def _level(self, i: int) -> float:
        return self.levels[(i + 1) // 2]

    def _advance(self, i: int, at: Tensor, D: Tensor) -> Tensor:
        heun, slope = EXPLICIT["heun"], (at - D) / self._level(i)
        if i % 2 == 0:
            self._start = at, slope
            return at + (self._level(i + 1) - self._level(i)) * slope
        if self._start is None:
            msg = "a run cannot begin within a step: begin at an even index"
            raise ValueError(msg)
        s, s_new = self._level(i - 1), self._level(i)
        x, f = self._start
        x_new, k = rk_step(lambda *_: slope, s, x, s_new - s, heun, f)
        step = Step(heun, s, s_new - s, x, k, x_new, s_new)
        moved: Tensor = x_new if self._guide is None else self._guide(step, self._probe)
        self._probe = step.probe
        return moved


def _betas(config: Any) -> np.ndarray[Any, Any]:
    """Return β_t of the training, shape (T,), by the names that diffusers gives them."""
    n, start, end = config.num_train_timesteps, config.beta_start, config.beta_end
    if config.trained_betas is not None:
        return np.asarray(config.trained_betas, dtype=float)
    if config.beta_schedule == "linear":
        return np.linspace(start, end, n)
    if config.beta_schedule == "scaled_linear":
        return np.linspace(math.sqrt(start), math.sqrt(end), n) ** 2
    if config.beta_schedule == "squaredcos_cap_v2":
        bar = np.cos((np.arange(n + 1) / n + 0.008) / 1.008 * math.pi / 2) ** 2
        return np.array([min(1 - b / a, 0.999) for a, b in pairwise(bar.tolist())])
    known = "linear, scaled_linear, squaredcos_cap_v2"
    msg = f"beta_schedule must be one of {known}, not {config.beta_schedule!r}"
    raise ValueError(msg)

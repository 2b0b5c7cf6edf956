"""Solvers: tableaus, the step, control, dense output, events, the loop."""

from .batch_step import BatchStep
from .control import CONTROLLERS, Controller, PIDController
from .dense import DenseOutput
from .methods import EXPLICIT, METHODS
from .solution import EventRecord, Solution, Status
from .solve import solve
from .step import Probe, Step, StepHook, rk_step
from .tableau import ButcherTableau, Interpolant, PairQuality

__all__ = [
    "CONTROLLERS",
    "EXPLICIT",
    "METHODS",
    "BatchStep",
    "ButcherTableau",
    "Controller",
    "DenseOutput",
    "EventRecord",
    "Interpolant",
    "PIDController",
    "PairQuality",
    "Probe",
    "Solution",
    "Status",
    "Step",
    "StepHook",
    "rk_step",
    "solve",
]

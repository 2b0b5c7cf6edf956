"""Stiffness: how fast a problem's fastest mode is, and what that means for a method."""

from ..solvers.jacobian import JacobianOperator, dense_jacobian
from .alignment import Alignment, DominantEigenpair, SpectralRadius, StabilityRatio
from .detect import Evidence, Stiffness, StiffnessDetector
from .indicators import logarithmic_norm, stability_ratio, stiffness_ratio, time_scales
from .krylov import arnoldi, lanczos, spectral_abscissa
from .power import nonlinear_power_iteration, power_iteration
from .report import MethodCost, StiffnessReport, diagnose
from .secant import NormRatio, PathSecant, RayleighQuotient, StageRatio
from .spectrum import Eigenpair, Spectrum, eigenvalues

__all__ = [
    "Alignment",
    "DominantEigenpair",
    "Eigenpair",
    "Evidence",
    "JacobianOperator",
    "MethodCost",
    "NormRatio",
    "PathSecant",
    "RayleighQuotient",
    "SpectralRadius",
    "Spectrum",
    "StabilityRatio",
    "StageRatio",
    "Stiffness",
    "StiffnessDetector",
    "StiffnessReport",
    "arnoldi",
    "dense_jacobian",
    "diagnose",
    "eigenvalues",
    "lanczos",
    "logarithmic_norm",
    "nonlinear_power_iteration",
    "power_iteration",
    "spectral_abscissa",
    "stability_ratio",
    "stiffness_ratio",
    "time_scales",
]

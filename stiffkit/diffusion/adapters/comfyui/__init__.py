"""ComfyUI custom nodes: copy or link this folder into ``ComfyUI/custom_nodes``.

Nodes give a SAMPLER for "SamplerCustom"; the names in `NAMES` also appear in the lists of samplers.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any, ClassVar

# Absolute: ComfyUI loads this folder from its own place, outside the package.
from stiffkit.diffusion import SAMPLERS
from stiffkit.diffusion.adapters import k_diffusion
from stiffkit.guidance import ERKGuidance, FittedExtrapolation

__all__ = ["NAMES", "NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "register"]

NAMES = {
    "stiffkit_heun": k_diffusion.sample_heun,
    "stiffkit_heun_erk": k_diffusion.sample_heun_erk,
    "stiffkit_heun_fx": k_diffusion.sample_heun_fx,
    "stiffkit_unipc_3": k_diffusion.sample_unipc_3,
    "stiffkit_deis_4": k_diffusion.sample_deis_4,
    "stiffkit_sk34": k_diffusion.sample_sk34,
    "stiffkit_sk44": k_diffusion.sample_sk44,
}
"""Samplers by the names they have in ComfyUI's lists."""


def register() -> None:
    """Add `NAMES` to ComfyUI's lists of samplers; once, however often it is called."""
    samplers = importlib.import_module("comfy.samplers")
    sampling = importlib.import_module("comfy.k_diffusion.sampling")
    for name, function in NAMES.items():
        setattr(sampling, f"sample_{name}", function)
        for names in (samplers.SAMPLER_NAMES, samplers.KSampler.SAMPLERS):
            if name not in names:
                names.append(name)


def _sampler(**options: Any) -> tuple[Any]:
    kind = importlib.import_module("comfy.samplers").KSAMPLER
    return (kind(k_diffusion.sample_with, options),)


def _number(default: float, low: float, high: float, tooltip: str) -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": default, "min": low, "max": high, "step": 0.01, "tooltip": tooltip}


class _Node:
    RETURN_TYPES = ("SAMPLER",)
    FUNCTION = "get_sampler"
    CATEGORY = "sampling/custom_sampling/samplers"


class StiffkitSampler(_Node):
    """Any sampler of stiffkit by name."""

    DESCRIPTION: ClassVar[str] = "sk34, sk44, unipc3, deis4, … call the model once a step."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return the inputs, by ComfyUI's convention."""
        return {"required": {"sampler": (list(SAMPLERS), {"default": "sk44"})}}

    def get_sampler(self, sampler: str) -> tuple[Any]:
        """Return the SAMPLER."""
        return _sampler(sampler=sampler)


class StiffkitHeunERK(_Node):
    """Heun's method with ERK-Guid."""

    DESCRIPTION: ClassVar[str] = "Stiffness-aware guidance of Heun's steps, at no further call."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return the inputs, by ComfyUI's convention."""
        return {
            "required": {
                "w_stiff": _number(1.0, 0.0, 10.0, "Scale of the stiffness estimate; 0 is off."),
                "w_con": _number(0.5, 0.0, 100.0, "Guide only where the estimate is above this."),
            }
        }

    def get_sampler(self, w_stiff: float, w_con: float) -> tuple[Any]:
        """Return the SAMPLER."""
        return _sampler(sampler="heun", guide=ERKGuidance(w_stiff, w_con))


class StiffkitHeunFX(_Node):
    """Heun's method with fitted extrapolation."""

    DESCRIPTION: ClassVar[str] = "Extrapolation of Heun's steps, at no further call."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """Return the inputs, by ComfyUI's convention."""
        tip = "Standard deviation of the data; 1 for Stable Diffusion's latents."
        return {"required": {"std": _number(1.0, 0.01, 100.0, tip)}}

    def get_sampler(self, std: float) -> tuple[Any]:
        """Return the SAMPLER."""
        return _sampler(sampler="heun", guide=FittedExtrapolation(std))


NODE_CLASS_MAPPINGS = {
    node.__name__: node for node in (StiffkitSampler, StiffkitHeunERK, StiffkitHeunFX)
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "StiffkitSampler": "Sampler (stiffkit)",
    "StiffkitHeunERK": "Heun + ERK-Guid (stiffkit)",
    "StiffkitHeunFX": "Heun + FX (stiffkit)",
}

if importlib.util.find_spec("comfy") is not None:
    register()

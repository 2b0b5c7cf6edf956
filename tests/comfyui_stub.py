"""The part of ComfyUI that custom samplers meet: lists of names, KSAMPLER's call, the loader."""

import importlib.util
import sys
import types
from pathlib import Path

from stiffkit.diffusion.adapters import k_diffusion


def install(monkeypatch):
    """Put the stub in place; return its modules ``comfy.samplers`` and ``…sampling``."""
    package, samplers = types.ModuleType("comfy"), types.ModuleType("comfy.samplers")
    inner, sampling = types.ModuleType("comfy.k_diffusion"), types.ModuleType("sampling")
    package.__path__, inner.__path__ = [], []
    package.__spec__ = importlib.util.spec_from_loader("comfy", None, is_package=True)

    class KSAMPLER:
        def __init__(self, sampler_function, extra_options=None):
            self.sampler_function, self.extra_options = sampler_function, extra_options or {}

        def sample(self, model_wrap, sigmas, extra_args, callback, noise, disable_pbar=False):
            total = len(sigmas) - 1
            return self.sampler_function(
                model_wrap,
                noise * sigmas[0],
                sigmas,
                extra_args=extra_args,
                callback=lambda d: callback(d["i"], d["denoised"], d["x"], total),
                disable=disable_pbar,
                **self.extra_options,
            )

    class KSampler:
        SAMPLERS = ["euler", "heun"]  # noqa: RUF012

    samplers.KSAMPLER, samplers.KSampler = KSAMPLER, KSampler
    samplers.SAMPLER_NAMES = KSampler.SAMPLERS
    for name, module in {
        "comfy": package,
        "comfy.samplers": samplers,
        "comfy.k_diffusion": inner,
        "comfy.k_diffusion.sampling": sampling,
    }.items():
        monkeypatch.setitem(sys.modules, name, module)
    return samplers, sampling


def load_nodes():
    """Load the folder as ComfyUI does: from its path, under a name of its own."""
    path = Path(k_diffusion.__file__).parent / "comfyui" / "__init__.py"
    spec = importlib.util.spec_from_file_location("custom_nodes_stiffkit", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

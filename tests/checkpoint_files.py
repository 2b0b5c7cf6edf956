"""Writes files laid out as the checkpoints of EDM and EDM2 are, with weights of our own."""

import pickle
import sys
import types
from collections import OrderedDict

import numpy as np
import torch

from stiffkit.diffusion.networks import EDM, EDM2

SOURCE = "raise SystemExit('the source in a checkpoint was executed')\n"


class EasyDict(dict):
    """A dict by another name."""


EasyDict.__module__ = "dnnlib.util"
EasyDict.__qualname__ = "EasyDict"


def _reconstruct_persistent_obj(meta):
    msg = "a persistent object was reconstructed"
    raise SystemExit(msg)


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


class Persistent:
    """Pickles as the authors' persistent classes do."""

    def __init__(self, class_name, state):
        self.class_name, self.state = class_name, state

    def __reduce__(self):
        meta = {
            "type": "class",
            "version": 6,
            "module_src": SOURCE,
            "class_name": self.class_name,
            "state": self.state,
        }
        return _reconstruct_persistent_obj, (meta,)


def persistent_module(module, class_name=None, **init):
    """Lay out a module of ours, and those in it, as their pickles do."""
    fields = {
        "training": False,
        "_parameters": OrderedDict(module._parameters),
        "_buffers": OrderedDict(module._buffers),
        "_non_persistent_buffers_set": set(),
        "_forward_hooks": OrderedDict(),
        "_modules": OrderedDict(
            (name, None if child is None else persistent_module(child))
            for name, child in module._modules.items()
        ),
        "_init_args": (),
        "_init_kwargs": EasyDict(init),
    }
    if isinstance(module, torch.nn.ModuleDict):
        container = torch.nn.ModuleDict()
        container.__dict__.update({k: v for k, v in fields.items() if not k.startswith("_init_")})
        return container
    return Persistent(class_name or type(module).__name__, fields)


def edm2_network(half=True):
    torch.manual_seed(0)
    options = {"model_channels": 8, "channel_mult": [1], "num_blocks": 1}
    options |= {"attn_resolutions": [8], "channels_per_head": 8, "logvar_channels": 8}
    net = EDM2(8, 2, 3, **options)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if name.endswith("gain"):
                p.fill_(0.7)
    init = {"img_resolution": 8, "img_channels": 2, "label_dim": 3, "use_fp16": True, **options}
    return net.to(torch.float16) if half else net, init


def edm2_pickle(**changes):
    """Return the bytes of a small EDM2 snapshot, and its network in float16."""
    net, init = edm2_network()
    encoder = {
        "vae_name": "some/vae",
        "scale": np.float32([0.5, 0.25]),
        "bias": np.float32([1, 2]),
        "batch_size": 8,
        "_vae": None,
        "_init_args": (),
    }
    content = EasyDict(
        encoder=Persistent("StabilityVAEEncoder", encoder),
        dataset_kwargs={"class_name": "training.dataset.ImageFolderDataset", "path": "x.zip"},
        loss_fn=Persistent("EDM2Loss", {"P_mean": -0.4, "P_std": 1.0}),
        ema=persistent_module(net, "Precond", **(init | changes)),
    )
    return dumped(content), net


def edm_pickle(kind):
    """Return the bytes of a small EDM checkpoint, and its network in float32."""
    torch.manual_seed(0)
    options = {"model_channels": 8, "channel_mult": [1], "num_blocks": 1}
    options |= {"attn_resolutions": [8], "model_type": kind, "dropout": 0.13}
    if kind == "SongUNet":
        options |= {"augment_dim": 9, "encoder_type": "residual", "embedding_type": "fourier"}
    net = EDM(8, 3, 4, **options)
    init = {"img_resolution": 8, "img_channels": 3, "label_dim": 4, **options}
    content = {
        "ema": persistent_module(net, "EDMPrecond", **init, use_fp16=False),
        "loss_fn": Persistent("EDMLoss", {"P_mean": np.float64(-1.2)}),
        "augment_pipe": Persistent("AugmentPipe", {"p": np.float64(0.12)}),
        "dataset_kwargs": {},
    }
    return dumped(content), net


def dumped(content, protocol=4):
    """Pickle, with modules in place by which pickle finds the two names of the authors' code."""
    modules = {
        "torch_utils": types.ModuleType("torch_utils"),
        "torch_utils.persistence": types.ModuleType("torch_utils.persistence"),
        "dnnlib": types.ModuleType("dnnlib"),
        "dnnlib.util": types.ModuleType("dnnlib.util"),
    }
    modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    modules["dnnlib.util"].EasyDict = EasyDict
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        return pickle.dumps(content, protocol=protocol)
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module

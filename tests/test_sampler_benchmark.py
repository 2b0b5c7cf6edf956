"""The benchmark of samplers: its distances, ratios and rebuilt networks."""

import _galaxy
import numpy as np
import pytest
import sampler_cells
import samplers
import torch

from stiffkit.diffusion import gaussian


def test_distances_vanish_for_equal_and_see_a_shift():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 800, 3))
    assert samplers.sliced_wasserstein(x, x) == 0
    # A shift by δ e₁ is δ |v₁| in each projection; E|v₁| = 1/2 on the sphere of R³.
    shifted = samplers.sliced_wasserstein(x, x + np.array([3.0, 0.0, 0.0]))
    assert abs(shifted - 1.5) < 0.15
    assert abs(samplers.energy_distance(x, y)) < 0.02
    assert samplers.energy_distance(x, y + 1.0) > 0.5


def test_ratios_are_taken_cell_by_cell():
    row = {7: [2.0, 4.0, 1.0], 11: [1.0, 1.0, 1.0]}
    half = {calls: [e / 2 for e in errors] for calls, errors in row.items()}
    tables = {"p": {"heun @ karras7": row, "a": half}}
    base = samplers.summary(tables, ("heun @ karras7",))["a"]["heun @ karras7"]
    assert base == {"mean": 0.5, "worst": 0.5, "wins": 1.0}
    assert samplers.kept({"p": {**tables["p"], "unipc3 @ karras7": row}}, (7, 11))["errors"] == {
        "p": {
            "heun @ karras7": [2.33, 1.0],
            "a": [1.17, 0.5],
            "unipc3 @ karras7": [2.33, 1.0],
        }
    }


def test_error_of_a_converged_run_is_none():
    problem = samplers.exact_problem(gaussian(np.array([0.25, 0.01])), count=2)
    errors = problem.error(800, "sk44", "logsnr")
    assert len(errors) == len(samplers.SEEDS)
    assert max(errors) < 1e-7


def test_worst_cells_are_found_and_measured_with_new_samples():
    table = {
        f"{name} @ {grid}": [1.0, 1.0] for name in ("sk44", "unipc3") for grid in samplers.GRIDS
    }
    table["sk44 @ logsnr"] = [1.2, 1.4]
    data = {"report": {"calls": [7, 11], "errors": {"two modes, 2-D": table}}}
    (cell,) = sampler_cells.worst_cells(data, 1.3)
    assert cell == ("report", "two modes, 2-D", "logsnr", 11, 1.4)
    problem = sampler_cells.fresh(*cell[:2])
    ours, peer = (problem.error(11, name, "logsnr") for name in ("sk44", "unipc3"))
    mean, _, low, high = sampler_cells.ratios(problem, "logsnr", 11)
    assert low <= mean <= high
    # `error` has other seeds in mind: the mean over all samples is the same.
    np.testing.assert_allclose(mean, np.mean(ours) / np.mean(peer), atol=1e-3)


@pytest.mark.skipif(_galaxy.find("hsc_ScoreNet32") is None, reason="galaxygrad is not installed")
def test_galaxy_network_denoises():
    denoiser = _galaxy.denoiser("hsc_ScoreNet32")
    x = torch.randn((2, 1, 32, 32), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        far, near = denoiser(100 * x, 100.0), denoiser(0.04 * x, 0.04)
    assert far.shape == x.shape
    assert far.std() < 5  # of noise of 100, all but the network's error of some 1 % is removed
    assert near.std() < 0.04

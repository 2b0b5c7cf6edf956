"""Problems that workers can import, some of which end their process."""

import os
import sys
import time

import numpy as np

import stiffkit as sk


def decay(t, y, rate, power=1):
    return -rate * y**power


def last(solution):
    return float(solution.y[-1, 0])


DECAY = {"f": decay, "t_span": (0.0, 1.0), "y0": [1.0]}


def solve_decay(rate):
    """Solve y' = -rate y to t = 1; a rate that is a string ends otherwise."""
    if rate == "raise":
        msg = "no rate"
        raise ValueError(msg)
    if rate == "die":
        os._exit(9)
    if rate == "unpicklable":
        return lambda: None
    if rate == "hang":
        time.sleep(1000)
    if rate == "max_steps":
        return sk.solve(decay, (0.0, 1.0), [1.0], "tsit5", args=(1.0,), max_steps=2)
    return sk.solve(decay, (0.0, 1.0), [1.0], args=(rate,))


def die_once(entry):
    """Die if the file is not there yet."""
    rate, flag = entry
    if flag is not None and not os.path.exists(flag):
        with open(flag, "w"):
            os._exit(9)
    return solve_decay(rate)


def noisy(entry):
    """Add noise of a seed of its own to the initial state."""
    rate, seed = entry
    y0 = 1 + 0.1 * np.random.default_rng(seed).standard_normal(1)
    return sk.solve(decay, (0.0, 1.0), y0, args=(rate,))


def slow(entry):
    """Note each call in a file."""
    rate, calls = entry
    with open(calls, "a") as file:
        file.write(f"{rate}\n")
    time.sleep(0.1)
    return solve_decay(rate)


if __name__ == "__main__":  # the sweep that test_ensemble.py kills: arguments store, calls, number
    _, store, calls, n = sys.argv
    from ensemble_problems import slow as task

    entries = [(float(rate), calls) for rate in range(int(n))]
    sk.ensemble(task, entries, 2, store=store, chunk=1)

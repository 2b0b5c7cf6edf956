"""A solve by the compiled loop and by the interpreted one, compared."""

import re

import numpy as np

import stiffkit as sk

stretches = __import__("stiffkit.solvers.compiled.stretches", fromlist=["stretches"])


class Interpreted:
    """A compiled f that is not seen to be one: the loop around it is Python's."""

    def __init__(self, f):
        self.f = f

    def __call__(self, *arguments):
        return self.f(*arguments)


def both(f, *arguments, **options):
    """Solve with the compiled and with the interpreted loop; what must be equal is checked."""
    ours = sk.solve(f, *arguments, **options)
    theirs = sk.solve(Interpreted(f), *arguments, **options)
    assert ours.status is theirs.status
    assert ours.stats == theirs.stats
    assert rounded(ours.message) == rounded(theirs.message)
    assert ours.t.shape == theirs.t.shape
    assert ours.y.shape == theirs.y.shape
    assert ours.y.dtype == theirs.y.dtype
    if options.get("log"):
        assert list(ours.log) == list(theirs.log)
        np.testing.assert_array_equal(ours.log["limit"], theirs.log["limit"])
        np.testing.assert_array_equal(ours.log["accepted"], theirs.log["accepted"])
    return ours, theirs


def rounded(message):
    """Numbers to three digits: those of two loops differ by rounding."""
    return re.sub(r"\d+\.\d+(e[+-]\d+)?", lambda m: f"{float(m[0]):.3g}", message)


def loops(monkeypatch):
    """Count what runs: stretches of a method, and solves that go the short way into the kernel."""
    taken, inside = [], []
    take, enter = stretches.Stretches.take, stretches.Stretches.enter

    def counted_take(self):
        taken.append(1)
        inside.append(1)
        try:
            return take(self)
        finally:
            inside.pop()

    def counted_enter(self, given):
        if not inside:
            taken.append(1)
        return enter(self, given)

    monkeypatch.setattr(stretches.Stretches, "take", counted_take)
    monkeypatch.setattr(stretches.Stretches, "enter", counted_enter)
    return taken

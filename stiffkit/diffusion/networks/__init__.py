"""Networks of EDM and EDM2, written from their papers' formulae. Needs torch."""

from .edm import EDM
from .edm2 import EDM2

__all__ = ["EDM", "EDM2"]

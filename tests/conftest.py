"""Settings for all tests: hypothesis profiles, and figures without a display."""

import os

from hypothesis import settings

os.environ.setdefault("MPLBACKEND", "Agg")

# ci: the same examples in every run, and few of them. thorough: new examples in every run.
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=30, database=None)
settings.register_profile(
    "thorough", deadline=None, max_examples=1000, database=None, print_blob=True
)
settings.load_profile(os.environ.get("STIFFKIT_HYPOTHESIS", "ci"))

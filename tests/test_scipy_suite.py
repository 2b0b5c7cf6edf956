"""SciPy's own test file must pass whole with our solve_ivp and solver classes in its place."""

import os
import re
import subprocess
import sys
from pathlib import Path


def test_scipys_own_tests_pass_on_our_solvers():
    here = Path(__file__).parent
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "scipy_patch", "-p", "no:cacheprovider"),
            *("-c", os.devnull, "--pyargs", "scipy.integrate._ivp.tests.test_ivp"),
        ],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-5000:] + run.stderr[-2000:]
    passed = int(re.search(r"(\d+) passed", run.stdout).group(1))
    assert passed >= 40, run.stdout[-2000:]
    assert "skipped" not in run.stdout, run.stdout[-2000:]

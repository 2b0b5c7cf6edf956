"""What the first compiled solve of each family costs.

Printed is its processor time less that of a second one, with an empty cache.

    python benchmarks/compile_times.py
"""

from __future__ import annotations

import os
import tempfile
import time
from typing import Any

FAMILIES = {
    "explicit": "tsit5",
    "stabilised": "rkc2",
    "Rosenbrock": "rodas5p",
    "ESDIRK": "kencarp4",
    "Radau": "radau5",
}


def main() -> None:
    """Solve twice by one method of each family."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["NUMBA_CACHE_DIR"] = cache  # numba reads it when it is imported
        import stiffkit as sk

        @sk.jit
        def relax(t: float, y: Any, dy: Any) -> None:
            dy[0] = y[1] - y[0] + t
            dy[1] = -2.0 * y[1]

        for family, method in FAMILIES.items():
            spent = []
            for _ in range(2):
                start = time.process_time()
                sk.solve(relax, (0.0, 1.0), [1.0, 1.0], method)
                spent.append(time.process_time() - start)
            print(f"{family:10} {method:8} {spent[0] - spent[1]:5.1f} s")


if __name__ == "__main__":
    main()

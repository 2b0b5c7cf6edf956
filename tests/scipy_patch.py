"""pytest plugin: SciPy's own initial value problem tests, run on stiffkit's solvers."""

import stiffkit as sk

REPLACEMENTS = {
    "solve_ivp": sk.solve_ivp,
    "RK23": sk.ode_solver("RK23"),
    "RK45": sk.ode_solver("RK45"),
    "DOP853": sk.ode_solver("DOP853"),
    "Radau": sk.ode_solver("Radau"),
}


def pytest_collection_finish(session):
    modules = {item.module for item in session.items}
    for module in modules:
        for name, ours in REPLACEMENTS.items():
            assert hasattr(module, name), f"SciPy's tests no longer use {name}"
            setattr(module, name, ours)

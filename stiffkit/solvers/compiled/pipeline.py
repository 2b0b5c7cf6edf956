"""numba's pipeline, without what the kernel has no use for: a third of the work in LLVM.

numba makes machine code of each function, though what calls it takes in its LLVM code. Here the
parts of the kernel are made for that alone: they are optimised and become machine code with it.
"""

from __future__ import annotations

from typing import Any

from numba.core import codegen
from numba.core.compiler import Compiler, CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import AnalysisPass, PassManager, register_pass
from numba.core.typed_passes import IRLegalization, NativeLowering, NopythonRewrites
from numba.core.untyped_passes import InlineClosureLikes

__all__ = ["ENTRY", "PART"]


def _passes(state: Any) -> PassManager:
    """Return numba's passes but for those that find nothing to do in the kernel."""
    manager: PassManager = DefaultPassBuilder.define_nopython_pipeline(state)
    # The kernel has no expressions of whole arrays, and no closures.
    idle: set[type] = {NopythonRewrites, InlineClosureLikes}
    if not state.flags.nrt:
        idle.add(IRLegalization)  # where variables end, which matters to counted references
    manager.passes = [entry for entry in manager.passes if entry[0] not in idle]
    return manager


class _Linked(codegen.JITCodeLibrary):
    """Code that callers take in: optimised function by function, and not compiled."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True


class _Whole(codegen.JITCodeLibrary):
    """Code that is optimised once, with all that it has taken in."""

    def _optimize_functions(self, module: Any) -> None:
        pass


@register_pass(mutates_CFG=False, analysis_only=True)
class _Offered(AnalysisPass):
    """Make a function known to its callers which has no address."""

    _name = "stiffkit_offered"

    def __init__(self) -> None:
        AnalysisPass.__init__(self)

    def run_pass(self, state: Any) -> bool:
        """Offer what was lowered; numba knows it by a builtin function, which is never called."""
        lowered = state["cr"]
        name = [].append  # type: ignore[var-annotated]
        state.targetctx.insert_user_function(name, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=name)
        return False


class _Part(CompilerBase):
    def define_pipelines(self) -> list[PassManager]:
        state = self.state
        state.library = _Linked(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        manager = _passes(state)
        manager.add_pass_after(_Offered, NativeLowering)
        manager.finalize()
        return [manager]


class _Entry(CompilerBase):
    def define_pipelines(self) -> list[PassManager]:
        state = self.state
        state.library = _Whole(state.targetctx.codegen(), state.func_id.func_qualname)
        state.library.enable_object_caching()
        manager = _passes(state)
        manager.finalize()
        return [manager]


# None of these names is promised to stay: without them numba compiles as it does by default.
_FITS = all(
    hasattr(codegen.JITCodeLibrary, name)
    for name in ("_optimize_functions", "_optimize_final_module", "_finalize_final_module")
)
PART, ENTRY = (_Part, _Entry) if _FITS else (Compiler, Compiler)
"""Compilers for numba's `pipeline_class`: of parts of the kernel, and of what Python calls."""

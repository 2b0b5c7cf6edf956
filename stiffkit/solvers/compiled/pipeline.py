"""numba's pipeline for the parts of the kernel: half of the time of a first solve is saved.

numba optimises each function with all that it calls, and makes machine code of it, though a caller
takes in its LLVM code and begins again. Here that is done once, for the kernel as a whole.
"""

from __future__ import annotations

from typing import Any

import numba
from numba.core import codegen
from numba.core.compiler import Compiler, CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import AnalysisPass, PassManager, register_pass
from numba.core.typed_passes import NativeLowering

__all__ = ["PART"]


class _Linked(codegen.JITCodeLibrary):
    """Code that callers take in: optimised function by function, and not compiled."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalized = True


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
        manager: PassManager = DefaultPassBuilder.define_nopython_pipeline(state)
        manager.add_pass_after(_Offered, NativeLowering)
        manager.finalize()
        return [manager]


KNOWN = (0, 61), (0, 68)
"""Versions of numba whose names these are; none is promised to stay."""

PART = _Part if KNOWN[0] <= numba.version_info.short <= KNOWN[1] else Compiler
"""Compiler of parts of the kernel, for numba's `pipeline_class`; by another version its own."""

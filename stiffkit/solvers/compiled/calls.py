"""How numba compiles the kernel's parts, and how they get functions of the user."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import numba
from numba import types
from numba.core import cgutils
from numba.core.compiler import Compiler
from numba.extending import intrinsic, overload

from .pipeline import PART

__all__ = [
    "ENTRY",
    "OPTIONS",
    "compiled",
    "function_at",
    "inlined",
    "optional_at",
    "part_of",
    "pasted",
    "release",
]

OPTIONS: Any = {
    # NumPy's error model: a division by zero is inf or NaN, which the loop deals with.
    "error_model": "numpy",
    # The parts make no arrays: without numba's counting of references they compile in a third of
    # the time, and a row of a matrix costs nothing.
    "_nrt": False,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "pipeline_class": PART,
}

ENTRY: Any = {
    **OPTIONS,
    "no_cpython_wrapper": False,
    "pipeline_class": Compiler,
    "nogil": True,
    "cache": True,
}
"""The same for what Python calls."""


def compiled(function: Any, **options: Any) -> Any:
    """Compile a part of the kernel when it is needed."""
    return numba.njit(**{**OPTIONS, **options})(function)


inlined = partial(compiled, forceinline=True)
"""The same for what each step does: a call with a dozen arrays costs more than a short state."""

pasted = partial(compiled, inline="always")
"""The same for what is called at one place: it is typed and optimised with the caller. On its own
it is once more at each level of calls: up to a tenth of the time of a first solve."""


def part_of(family: type, part: Any, **options: Any) -> Any:
    """Say what `part` of the kernel is for a family of methods; a decorator."""

    def register(function: Any) -> Any:
        def choose(*arguments: Any) -> Any:
            return function if arguments[0].instance_class is family else None

        choose.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
        overload(part, jit_options={**OPTIONS, **options})(choose)  # type: ignore[typeddict-item]
        return function

    return register


def _at(_: Any, reference: Any, address: Any) -> Any:
    """Return the compiled function at an address; the type that is referred to is its signature.

    numba's own way to pass a function looks its address up by two calls of Python: a third of what
    a short solve takes.
    """
    function = reference.instance_type

    def generate(context: Any, builder: Any, _: Any, values: Any) -> Any:
        value = cgutils.create_struct_proxy(function)(context, builder)
        pointer = builder.inttoptr(values[1], context.get_value_type(types.voidptr))
        value.c_addr = value.jit_addr = pointer
        return value._getvalue()

    return function(reference, address), generate


function_at: Any = intrinsic(_at)


def _release(_: Any, value: Any) -> Any:
    """Count one reference less: of a value that came to where numba counts none."""

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        context.nrt.decref(builder, signature.args[0], values[0])
        return context.get_dummy_value()

    return types.none(value), generate


release: Any = intrinsic(_release)


def optional_at(reference: Any, address: int) -> Any:
    """Return the compiled function at an address, None where there is no reference."""
    raise NotImplementedError


@overload(optional_at, jit_options=OPTIONS)
def _optional_at(reference, address):
    if reference == types.none:
        return lambda reference, address: None
    return lambda reference, address: function_at(reference, address)

"""Compile a kernel to machine code that needs neither numba nor LLVM to run."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
from numba import njit

from app.native.elf import Linked, LinkError, link_object
from app.native.kernel import CANNOT_STAND_ALONE, OUTSIDE, save_code

_ENTRY = "kernel"
_INTERNAL, _EXTERNAL = "internal", "external"


def compile_kernel(function: Callable[..., Any], signature: Any) -> Any:
    """Return numba's dispatcher of a function compiled for one signature."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cpython_wrapper": True}
    return njit(signature, **options)(function)


def build_code(function: Callable[..., Any], signature: Any) -> Linked:
    """Return the code of a function of numba's, compiled for this CPU; it may call OUTSIDE. Raises LinkError.

    The calling convention is numba's: `int32 kernel(result*, error**, ...)`, where the signature's arguments are
    numbers and pointers.
    """
    compiled = compile_kernel(function, signature)
    overload = next(iter(compiled.overloads.values()))
    module = llvm.parse_assembly(next(iter(compiled.inspect_llvm().values())))
    for value in (*module.functions, *module.global_variables):
        if value.name == overload.fndesc.llvm_func_name:
            value.name, value.linkage = _ENTRY, _EXTERNAL
        elif not value.is_declaration:
            value.linkage = _INTERNAL
    machine = _machine()
    _drop_unused(module, machine)
    return link_object(machine.emit_object(module), _ENTRY, OUTSIDE)


def _machine() -> llvm.TargetMachine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    features = llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3, reloc="pic", codemodel="small")


def _drop_unused(module: llvm.ModuleRef, machine: llvm.TargetMachine) -> None:
    # Wrappers for Python are in the module, too, and ask for functions of the interpreter.
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    options = llvm.create_pipeline_tuning_options()
    passes.run(module, llvm.create_pass_builder(machine, options))


def main() -> None:
    """Build the kernel of `argv`: module, name, file. Ends with 3 where its code cannot stand alone."""
    module, name, out = sys.argv[1:]
    kernels = importlib.import_module(module)
    try:
        linked = build_code(getattr(kernels, name), kernels.SIGNATURES[name])
    except LinkError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(CANNOT_STAND_ALONE)
    save_code(Path(out), linked)


if __name__ == "__main__":
    main()

"""From LLVM's text to an address of machine code for this processor, through the cache on disk."""

import ctypes
import hashlib
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import llvmlite  # type: ignore[import-untyped]
import llvmlite.binding as llvm  # type: ignore[import-untyped]

from workers.backends.llvm import cache as kept

_LOCK = threading.Lock()
_ADDRESSES: dict[str, int] = {}


class _Machine:
    """The compiler for this processor, and all that it has loaded."""

    def __init__(self) -> None:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        self.cpu, self.features = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
        self.target = self._new_target()
        number = ctypes.cast(ctypes.pythonapi.PyLong_FromSsize_t, ctypes.c_void_p).value
        llvm.add_symbol("PyLong_FromSsize_t", number)
        self.engine = llvm.create_mcjit_compiler(self._parsed(""), self._new_target())  # which it owns

    def _new_target(self) -> Any:
        return llvm.Target.from_default_triple().create_target_machine(
            cpu=self.cpu, features=self.features, opt=2, jit=True
        )

    def _parsed(self, text: str) -> Any:
        module = llvm.parse_assembly(f'target triple = "{self.target.triple}"\n{text}')
        module.data_layout = str(self.target.target_data)
        return module

    def key(self, text: str) -> str:
        """All that decides the machine code, what the compiler is told first."""
        parts = ("not unrolled", llvmlite.__version__, str(llvm.llvm_version_info), self.cpu, self.features, text)
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()

    def compiled(self, text: str) -> bytes:
        """An object file."""
        module = self._parsed(text)
        module.verify()
        options = llvm.create_pipeline_tuning_options(speed_level=2)
        options.loop_vectorization, options.slp_vectorization = True, False
        options.loop_unrolling = False  # it doubles the time to compile; loops are vectors and interleaved without it
        builder = llvm.create_pass_builder(self.target, options)
        builder.getModulePassManager().run(module, builder)
        code: bytes = self.target.emit_object(module)
        return code

    def loaded(self, code: bytes, name: str) -> int:
        """The address of a function of an object file."""
        self.engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        self.engine.finalize_object()
        return int(self.engine.get_function_address(name))


@cache
def _machine() -> _Machine:
    return _Machine()


def has_feature(name: str) -> bool:
    """Whether code is made with this extension of the processor."""
    with _LOCK:  # there is to be one machine, whoever asks first
        return f"+{name}" in _machine().features.split(",")


class _Method(ctypes.Structure):
    """PyMethodDef."""

    _fields_ = (
        ("name", ctypes.c_char_p), ("function", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p)
    )  # fmt: skip


_FASTCALL = 0x80
_METHODS: list[_Method] = []
"""Which Python's functions point to for ever."""


def builtin(address: int) -> Callable[..., Any]:
    """A function of this address, of Python's kind METH_FASTCALL, as a built-in one: to call it costs a fifth of what ctypes takes."""
    method = _Method(b"run", address, _FASTCALL, None)
    _METHODS.append(method)
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.argtypes, make.restype = [ctypes.POINTER(_Method), ctypes.c_void_p, ctypes.c_void_p], ctypes.py_object
    made: Callable[..., Any] = make(ctypes.byref(method), None, None)
    return made


def vector_bytes() -> int:
    """The width of this processor's vectors; 0 if it cannot multiply and add in one step."""
    if not has_feature("fma") and not has_feature("neon"):
        return 0
    return 64 if has_feature("avx512f") else 32 if has_feature("avx2") else 16


def address(text: str) -> int:
    """Of the function whose name is @RUN in the text; made once in a process."""
    with _LOCK:
        machine = _machine()
        key = machine.key(text)
        if key not in _ADDRESSES:
            name = f"run_{key[:32]}"
            code = kept.read(key)
            if code is None:
                code = machine.compiled(text.replace("@RUN", f"@{name}"))
                kept.write(key, code)
            _ADDRESSES[key] = machine.loaded(code, name)
        return _ADDRESSES[key]

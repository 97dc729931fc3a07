"""Read a pickle as data: replace its classes and functions by inert ones, and rebuild its numpy arrays.

A pickle is a program. This module runs it with every name replaced by a class that only stores its arguments. Nothing
is imported and nothing else is called. Arrays are rebuilt from their bytes, shape and type.
"""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

_MAX_OPCODES = 20_000
_MAX_MEMO = 100_000
_MAX_WEIGHT = 10_000
_MAX_INT = 2**130  # a generator's state has 128 bits
_NUMBER = re.compile(r"[<>=|]?[biuf][1248]")


class UnreadableFileError(ValueError):
    """A file that cannot be read; the message names the file and the reason."""


class Inert:
    """Replaces an object of any class: ``of`` is the class's name, ``state`` the object's state in the pickle."""

    of = ""

    def __init__(self, *_args: Any, **_kwargs: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def append(self, _item: Any) -> None:
        """Drop an item of a list."""

    def extend(self, _items: Any) -> None:
        """Drop items of a list."""

    def __setitem__(self, _key: Any, _value: Any) -> None:
        """Drop an item of a dict."""

    def attribute(self, name: str) -> Any:
        """Return an attribute of the original object.

        :raises KeyError: if it had no attribute of that name
        """
        if not isinstance(self.state, dict):
            raise KeyError(name)
        return self.state[name]


class _DType:
    def __init__(self, code: Any, *_flags: Any) -> None:
        self.code = code if type(code) is str else "?"

    def __setstate__(self, state: Any) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 and type(state[1]) is str else "="
        self.code = f"{order if order in ('<', '>') else '='}{self.code.lstrip('<>=|')}"

    def resolve(self) -> np.dtype[Any]:
        if not _NUMBER.fullmatch(self.code):
            raise UnreadableFileError(f"an array of type {self.code!r} is not an array of numbers")
        return np.dtype(self.code)


class _Array:
    """An array whose contents follow later in the pickle; ``value`` is the array."""

    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _version, shape, dtype, is_fortran, content = state
        self.value = _rebuild(content, dtype, shape, "F" if is_fortran else "C")


def _rebuild(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if not isinstance(dtype, _DType) or not isinstance(content, bytes | bytearray):
        raise UnreadableFileError("an array is not made of bytes and a type")
    kind = dtype.resolve()
    if type(shape) is not tuple or not all(type(n) is int and 0 <= n < 2**40 for n in shape) or len(shape) > 4:
        raise UnreadableFileError("an array has no shape")
    if any(n < 0 for n in shape) or math.prod(shape) * kind.itemsize != len(bytes(content)):
        raise UnreadableFileError(f"an array of shape {shape} does not fit its {len(bytes(content))} bytes")
    return np.frombuffer(bytes(content), dtype=kind).reshape(shape, order="F" if order == "F" else "C")


def _reconstruct(*_args: Any) -> _Array:
    return _Array()


def _frombuffer(content: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    array = _Array()
    array.value = _rebuild(content, dtype, shape, order)
    return array


def _scalar(dtype: Any, content: Any) -> Any:
    return _rebuild(content, dtype, (), "C").item()


class _Function:
    """A function that a pickle may call, but whose attributes it cannot reach."""

    __slots__ = ("function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)

    def __setstate__(self, _state: Any) -> None:
        raise UnreadableFileError("it changes a function")


_NUMPY: dict[str, Any] = {
    "_reconstruct": _Function(_reconstruct),
    "_frombuffer": _Function(_frombuffer),
    "scalar": _Function(_scalar),
    "dtype": _Function(_DType),
}


class _Unpickler(pickle.Unpickler):
    def __init__(self, content: bytes, functions: Mapping[str, Callable[..., Any]], persistent_load: Any) -> None:
        super().__init__(io.BytesIO(content))
        self._functions = {name: _Function(function) for name, function in functions.items()}
        self._persistent_load = persistent_load

    def find_class(self, module: str, name: str) -> Any:
        if module.partition(".")[0] == "numpy" and name in _NUMPY:
            return _NUMPY[name]
        if (function := self._functions.get(f"{module}.{name}")) is not None:
            return function
        return type("Inert", (Inert,), {"of": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent_load is None:
            raise UnreadableFileError("it refers to objects outside of it")
        return self._persistent_load(pid)


def read_pickle(
    content: bytes,
    functions: Mapping[str, Callable[..., Any]] | None = None,
    persistent_load: Callable[[Any], Any] | None = None,
) -> Any:
    """Return a pickle's contents: plain values, arrays wrapped for :func:`array_of`, and :class:`Inert` objects.

    :param functions: full name of a function in the pickle -> what is called in its place
    :param persistent_load: gives what the pickle refers to outside of it; ``None``: such a pickle is refused
    :raises UnreadableFileError: if it is not a pickle
    """
    try:
        check_size(content)
        return _Unpickler(content, functions or {}, persistent_load).load()
    except UnreadableFileError:
        raise
    except Exception as e:  # a damaged or hostile program of opcodes may cause any exception
        raise UnreadableFileError(f"is no readable pickle ({type(e).__name__}: {e})") from e


def check_size(content: bytes) -> int:
    """Raise unless a pickle has the size of a description: no large objects, and no deep nesting.

    :return: how many bytes it has; others may follow it
    :raises UnreadableFileError: if it is too large
    """
    weights, last = _Weights(), 0
    for i, (opcode, argument, position) in enumerate(pickletools.genops(content)):
        is_index = opcode.name in ("PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET")
        if i >= _MAX_OPCODES or (is_index and int(argument or 0) > _MAX_MEMO):
            raise UnreadableFileError("is larger than any description of this kind")
        if isinstance(argument, int) and abs(argument) > _MAX_INT:
            raise UnreadableFileError("holds a number that is out of range")
        weights.follow(opcode, argument)
        last = position or 0
    return last + 1


class _Weights:
    """The number of values in each item of a pickle's stack, including those of nested tuples.

    A few opcodes can nest a tuple so often that its hash, which takes a step for each value, never ends. Items that are
    hashed by identity, such as :class:`Inert` objects, count as 1.
    """

    def __init__(self) -> None:
        self.stack: list[int | None] = []  # None for a mark
        self.memo: dict[int, int] = {}

    def follow(self, opcode: pickletools.OpcodeInfo, argument: Any) -> None:
        """Apply an opcode's effect on the stack to the weights."""
        name = opcode.name
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else int(argument)] = self._top()
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo.get(int(argument), 1))
        elif name == "DUP":
            self.stack.append(self._top())
        elif name == "MARK":
            self.stack.append(None)
        else:
            taken = self._pop(opcode)
            if name.startswith("TUPLE") or name == "FROZENSET":
                self.stack.append(1 + sum(taken))
                if self.stack[-1] > _MAX_WEIGHT:  # type: ignore[operator]
                    raise UnreadableFileError("holds tuples within tuples without end")
            else:
                self.stack += [1] * len(opcode.stack_after)

    def _top(self) -> int:
        return (self.stack[-1] if self.stack else None) or 1

    def _pop(self, opcode: pickletools.OpcodeInfo) -> list[int]:
        """Pop what an opcode pops: back to the last mark if it takes a slice."""
        taken: list[int] = []
        if pickletools.markobject in opcode.stack_before:
            while self.stack and (weight := self.stack.pop()) is not None:
                taken.append(weight)
            n_more = opcode.stack_before.index(pickletools.markobject)
        else:
            n_more = len(opcode.stack_before)
        return taken + [self.stack.pop() or 1 for _ in range(min(n_more, len(self.stack)))]


def array_of(value: Any) -> np.ndarray:
    """Return the array of numbers in a value of :func:`read_pickle`, float64, all finite.

    :raises UnreadableFileError: if the value is no array of finite numbers
    """
    array = getattr(value, "value", None) if isinstance(value, _Array) else value
    if not isinstance(array, np.ndarray | int | float):
        raise UnreadableFileError(f"holds a {type(value).__name__} where an array of numbers should be")
    array = np.array(array, dtype=np.float64)
    if not np.isfinite(array).all():
        raise UnreadableFileError("holds numbers that are not finite")
    return array

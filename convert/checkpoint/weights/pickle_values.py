"""Values of a pickle that holds tensors, without running code: an interpreter of the few opcodes that torch writes.

Python's own unpickler calls whatever a pickle names. This one has no way to call, import or look up anything: a name is data
(`Name`), and the caller gives the few names that it knows with the functions that read their arguments. Every other name and
opcode ends the reading with an error. `pickletools.genops` only divides bytes into opcodes.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from fletcher.runtime.errors import CheckpointError

__all__ = ["Name", "PickleReader"]

_MARK = object()

#: Opcodes whose argument is the value, and those of constants and empty containers.
_LITERALS = frozenset(
    {
        *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "INT", "LONG", "BINFLOAT", "FLOAT"),
        *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "UNICODE", "SHORT_BINSTRING", "BINSTRING", "STRING"),
    }
)
_CONSTANTS: Mapping[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_TUPLE": tuple,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "MARK": lambda: _MARK,
}


@dataclass(frozen=True, slots=True)
class Name:
    """Name of a function or a class in a pickle, such as `torch._utils._rebuild_tensor_v2`."""

    path: str


class PickleReader:
    """Stack machine for one pickle."""

    def __init__(
        self,
        file: Path,
        functions: Mapping[str, Callable[[tuple[Any, ...]], Any]],
        types: frozenset[str],
        stored: Callable[[Any], Any],
    ) -> None:
        """Create a reader.

        Args:
            file: the file, for messages.
            functions: function for each name that a pickle may call, given the arguments as data.
            types: names that it may mention without calling them.
            stored: function that reads a persistent id, which names data outside the pickle.
        """
        self._file = file
        self._functions = functions
        self._types = types
        self._stored = stored
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self, stream: IO[bytes]) -> Any:
        """Return the value of the pickle that begins at the stream's position, and leave the stream after it.

        Raises:
            CheckpointError: the pickle names something else than parts of tensors, or is damaged.
        """
        self._stack, self._memo = [], {}
        try:
            for opcode, argument, _ in pickletools.genops(stream):
                if opcode.name == "STOP":
                    return self._stack.pop()
                self._step(opcode.name, argument)
        except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"{self._file} cannot be read as a pickle of tensors: {error}. Fetch it again"
            ) from error
        raise CheckpointError(f"{self._file} is a pickle without an end. Fetch it again")

    def _step(self, opcode: str, argument: Any) -> None:
        stack = self._stack
        if opcode in _LITERALS:
            stack.append(argument)
        elif opcode in _CONSTANTS:
            stack.append(_CONSTANTS[opcode]())
        elif opcode in ("PROTO", "FRAME"):
            pass
        elif opcode in ("BINPUT", "LONG_BINPUT", "PUT"):
            self._memo[argument] = stack[-1]
        elif opcode == "MEMOIZE":
            self._memo[len(self._memo)] = stack[-1]
        elif opcode in ("BINGET", "LONG_BINGET", "GET"):
            stack.append(self._memo[argument])
        elif opcode == "GLOBAL":
            stack.append(self._name(argument.replace(" ", ".")))
        elif opcode == "STACK_GLOBAL":
            name, module = stack.pop(), stack.pop()
            stack.append(self._name(f"{module}.{name}"))
        elif opcode in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(opcode[-1])
            stack[-count:] = [tuple(stack[-count:])]
        elif opcode == "TUPLE":
            stack.append(tuple(self._pop_marked()))
        elif opcode == "BINPERSID":
            stack.append(self._stored(stack.pop()))
        elif opcode == "REDUCE":
            arguments, function = stack.pop(), stack.pop()
            stack.append(self._call(function, arguments))
        elif opcode == "BUILD":
            stack.pop()  # attributes of a dictionary, such as a state dict's `_metadata`, which hold nothing that is needed
            if not isinstance(stack[-1], dict):
                raise CheckpointError(
                    f"{self._file} changes an object that is not a dictionary (BUILD), so it is not read"
                )
        elif opcode in ("APPEND", "APPENDS"):
            items = [stack.pop()] if opcode == "APPEND" else self._pop_marked()
            self._top(list).extend(items)
        elif opcode in ("SETITEM", "SETITEMS"):
            items = [stack.pop(-2), stack.pop()] if opcode == "SETITEM" else self._pop_marked()
            self._set(self._top(dict), items)
        else:
            raise CheckpointError(
                f"{self._file} is not read: its pickle has the opcode {opcode}, which a file of tensors does not need. No "
                "code of the file was run"
            )

    def _top(self, kind: type[Any]) -> Any:
        if not isinstance(self._stack[-1], kind):
            raise ValueError(f"a {kind.__name__} was expected")
        return self._stack[-1]

    def _pop_marked(self) -> list[Any]:
        start = next(index for index in reversed(range(len(self._stack))) if self._stack[index] is _MARK)
        items = self._stack[start + 1 :]
        del self._stack[start:]
        return items

    def _set(self, target: dict[Any, Any], items: list[Any]) -> None:
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):  # the hash of nested tuples can take forever
                raise ValueError("a key of a dictionary is neither text nor number")
            target[key] = value

    def _name(self, path: str) -> Name:
        if path not in self._functions and path not in self._types:
            raise CheckpointError(
                f"{self._file} is not read: its pickle names {path[:200]}, which is not part of a tensor. No code of the "
                "file was run. Fletcher reads files of tensors alone; take safetensors of the model if there are any"
            )
        return Name(path)

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Name) or function.path not in self._functions or not isinstance(arguments, tuple):
            raise CheckpointError(
                f"{self._file} is not read: its pickle calls what is not part of a tensor. No code was run"
            )
        return self._functions[function.path](arguments)

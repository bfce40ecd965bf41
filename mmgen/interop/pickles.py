"""Pickles as data: a machine that runs a pickle's instructions without importing or calling what they name.

A name (`Global`) is never looked up. An object of a class becomes a `Stub`, which holds what the pickle says of it. A
call is done only if the caller of `read_pickle` has a function of ours for that name, is recorded in a stub if the name
is one of `RECORDED`, and is otherwise refused: the file asks to run code. Imports no torch, and no `pickle`.
"""

from __future__ import annotations

import pickletools
import re
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

from mmgen.interop.stubs import RECORDED, AsksToRunCode, Global, Refused, Stub

MAX_BYTES = 32_000_000  # of one pickle; a tensor takes about 150 bytes there
MAX_WORK = 300_000  # instructions, about 30 a tensor; an empty set, the largest value of one byte, takes 216 bytes
MAX_INTEGER = 2**63  # keys beyond could be made to collide at will

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")
_PYTHON2 = {"__builtin__": "builtins", "copy_reg": "copyreg", "UserDict": "collections"}

Call = Callable[[tuple[Any, ...]], Any]


def read_pickle(file: BinaryIO, calls: Mapping[str, Call], persistent: Call) -> Any:
    """The value of the pickle that begins where `file` stands; leaves `file` behind its last instruction.

    What comes back may share parts, nest deeply and hold itself: whoever walks it must count his steps.

    Args:
        file: in memory, and no longer than `MAX_BYTES`.
        calls: functions of ours that stand for those a pickle may call, by their names; they get the arguments.
        persistent: gives what a persistent id (a tuple) stands for.

    Raises:
        AsksToRunCode: it calls something else.
        Refused: it is too long, or does what no checkpoint needs.
        EOFError: it is malformed, or cut.
    """
    return _Machine(calls, persistent).run(file)


class _Machine:
    def __init__(self, calls: Mapping[str, Call], persistent: Call) -> None:
        self.calls, self.persistent = calls, persistent
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        self.work = 0

    def run(self, file: BinaryIO) -> Any:
        try:
            for opcode, argument, _ in pickletools.genops(file):
                self.spend(1)
                if opcode.name == "STOP":
                    return self.pop()
                if opcode.name in _VALUES:
                    self.stack.append(_number(argument) if type(argument) is int else argument)
                else:
                    step = _STEPS.get(opcode.name)
                    if step is None:
                        raise Refused(f"instruction {opcode.name}")
                    step(self, argument)
        except (ValueError, IndexError, OverflowError):  # what `genops` and an empty stack raise
            raise EOFError("no whole pickle") from None
        raise EOFError("a pickle without an end")

    def spend(self, amount: int) -> None:
        self.work += amount
        if self.work > MAX_WORK:
            raise Refused(f"more than {MAX_WORK:,} instructions")

    def pop(self) -> Any:
        return self.stack.pop()

    def pop_mark(self) -> list[Any]:
        above, self.stack = self.stack, self.marked.pop()
        return above

    # What the instructions do, by the names that `pickletools` has for them.

    def mark(self, _: Any) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def drop(self, _: Any) -> None:
        self.pop() if self.stack else self.pop_mark()

    def drop_marked(self, _: Any) -> None:
        self.pop_mark()

    def duplicate(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def short_tuple(self, length: int) -> None:
        if len(self.stack) < length:
            raise IndexError
        self.stack[-length:] = [tuple(self.stack[-length:])]

    def marked_tuple(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(tuple(items))

    def marked_list(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(items)

    def marked_set(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append(frozenset(map(_key, items)))

    def marked_dict(self, _: Any) -> None:
        items = self.pop_mark()
        self.stack.append({})
        self.put_entries(items)

    def append(self, _: Any) -> None:
        self.put_items([self.pop()])

    def append_marked(self, _: Any) -> None:
        self.put_items(self.pop_mark())

    def put_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, Stub):
            target.items.extend(items)
        elif type(target) is list:
            target.extend(items)
        elif type(target) is set:
            target.update(map(_key, items))
        else:
            raise Refused(f"items put into a {type(target).__name__}")

    def set_entry(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self.put_entries([key, value])

    def set_marked(self, _: Any) -> None:
        self.put_entries(self.pop_mark())

    def put_entries(self, items: list[Any]) -> None:
        target = self.stack[-1]
        entries = target.entries if isinstance(target, Stub) else target
        if type(entries) is not dict or len(items) % 2:
            raise Refused(f"entries put into a {type(target).__name__}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            entries[_key(key)] = value

    def remember(self, place: int) -> None:
        self.memo[_number(place)] = self.stack[-1]

    def remember_next(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def recall(self, place: int) -> None:
        if place not in self.memo:
            raise Refused("a value that it never stored")
        self.stack.append(self.memo[place])

    def name(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self.stack.append(_global(module, name))

    def stacked_name(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        self.stack.append(_global(module, name))

    def call(self, _: Any) -> None:
        args, function = self.pop(), self.pop()
        self.stack.append(self.result(function, args))

    def call_marked(self, argument: Any) -> None:
        """INST has the class as its argument, OBJ has it first above the mark."""
        items = self.pop_mark()
        if isinstance(argument, str):
            module, _, name = argument.partition(" ")
            function = _global(module, name)
        else:
            function, items = items[0], items[1:]
        self.stack.append(self.result(function, tuple(items)))

    def result(self, function: Any, args: Any) -> Any:
        if not isinstance(function, Global) or type(args) is not tuple:
            raise AsksToRunCode(f"a {type(function).__name__}")
        own = self.calls.get(str(function))
        if own is not None:
            return own(args)
        if str(function) in RECORDED:
            return Stub(function, args)
        raise AsksToRunCode(str(function))

    def new_object(self, _: Any) -> None:
        args, of = self.pop(), self.pop()
        if not isinstance(of, Global) or type(args) is not tuple:
            raise Refused(f"an object of a {type(of).__name__}")
        self.stack.append(Stub(of, args))

    def new_object_with_keywords(self, _: Any) -> None:
        self.pop()
        self.new_object(None)

    def build(self, _: Any) -> None:
        state, target = self.pop(), self.stack[-1]
        if isinstance(target, Stub):
            target.state = state
        elif type(target) is not dict:  # an OrderedDict's own attributes, such as a state dict's `_metadata`
            raise Refused(f"attributes of a {type(target).__name__}")

    def persistent_value(self, _: Any) -> None:
        self.stack.append(self.persistent(self.pop()))


def _global(module: Any, name: Any) -> Global:
    for part in (module, name):
        if not isinstance(part, str) or len(part) > 200 or not _NAME.fullmatch(part):
            raise Refused("a name that is none")
    return Global(_PYTHON2.get(module, module), name)


def _number(value: int) -> int:
    if not -MAX_INTEGER <= value < 2 * MAX_INTEGER:
        raise Refused("an integer of more than 64 bits")
    return value


def _key(value: Any, nested: bool = False) -> Any:
    """A key whose hash is cheap: no nested tuples, whose hashing could overflow the C stack."""
    if value is None or isinstance(value, bool | int | float | str | bytes | Global):
        return value
    if type(value) is tuple and not nested and len(value) <= 16:
        return tuple(_key(item, nested=True) for item in value)
    raise Refused(f"a {type(value).__name__} as a key")


def _nothing(machine: _Machine, argument: Any) -> None:
    pass


def _constant(make: Callable[[], Any]) -> Callable[[_Machine, Any], None]:
    return lambda machine, _: machine.stack.append(make())


_VALUES = frozenset(
    """
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE
    SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    """.split()  # noqa: SIM905 - one a line would fill the page
)
# Left out: EXT1, EXT2, EXT4 (codes of a registry of this machine), NEXT_BUFFER, READONLY_BUFFER (data out of band),
# PERSID (ids as text: torch never wrote them).
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "PROTO": _nothing,
    "FRAME": _nothing,
    "NONE": _constant(lambda: None),
    "NEWTRUE": _constant(lambda: True),
    "NEWFALSE": _constant(lambda: False),
    "EMPTY_LIST": _constant(list),
    "EMPTY_DICT": _constant(dict),
    "EMPTY_SET": _constant(set),
    "EMPTY_TUPLE": _constant(tuple),
    "MARK": _Machine.mark,
    "POP": _Machine.drop,
    "POP_MARK": _Machine.drop_marked,
    "DUP": _Machine.duplicate,
    "TUPLE1": lambda machine, _: machine.short_tuple(1),
    "TUPLE2": lambda machine, _: machine.short_tuple(2),
    "TUPLE3": lambda machine, _: machine.short_tuple(3),
    "TUPLE": _Machine.marked_tuple,
    "LIST": _Machine.marked_list,
    "FROZENSET": _Machine.marked_set,
    "DICT": _Machine.marked_dict,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.append_marked,
    "ADDITEMS": _Machine.append_marked,
    "SETITEM": _Machine.set_entry,
    "SETITEMS": _Machine.set_marked,
    "PUT": _Machine.remember,
    "BINPUT": _Machine.remember,
    "LONG_BINPUT": _Machine.remember,
    "MEMOIZE": _Machine.remember_next,
    "GET": _Machine.recall,
    "BINGET": _Machine.recall,
    "LONG_BINGET": _Machine.recall,
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": _Machine.stacked_name,
    "REDUCE": _Machine.call,
    "INST": _Machine.call_marked,
    "OBJ": _Machine.call_marked,
    "NEWOBJ": _Machine.new_object,
    "NEWOBJ_EX": _Machine.new_object_with_keywords,
    "BUILD": _Machine.build,
    "BINPERSID": _Machine.persistent_value,
}

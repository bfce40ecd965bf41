"""What stands in a pickle's value for objects whose classes are not loaded, and the weights found among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

MAX_DEPTH = 40  # modules within modules
MAX_NAMES = 100_000  # of modules and tensors
SCRIPTED = "__torch__"  # the package of every class of a TorchScript archive

# Calls in checkpoints that make plain values which no weights hang on: recorded, not done.
RECORDED = frozenset(
    """
    builtins.set builtins.frozenset builtins.bytearray builtins.complex builtins.range builtins.slice _codecs.encode
    collections.defaultdict collections.Counter collections.deque functools.partial
    datetime.datetime datetime.timedelta datetime.date fractions.Fraction decimal.Decimal uuid.UUID
    pathlib.Path pathlib.PosixPath pathlib.WindowsPath pathlib.PurePosixPath pathlib.PureWindowsPath
    pathlib._local.PosixPath pathlib._local.WindowsPath
    torch.Size torch.device torch.serialization._get_layout torch._utils._rebuild_device_tensor_from_numpy
    torch.jit._pickle.build_intlist torch.jit._pickle.build_doublelist torch.jit._pickle.build_boollist
    numpy.dtype numpy.core.multiarray.scalar numpy.core.multiarray._reconstruct
    numpy._core.multiarray.scalar numpy._core.multiarray._reconstruct
    """.split()  # noqa: SIM905 - one a line would fill the page
)


class Refused(Exception):
    """A file that goes beyond what is allowed; the text says what it holds."""


class Foreign(Exception):
    """A file of something else; the text says of what."""


class AsksToRunCode(Refused):
    """A pickle that calls something; the text is its name."""


@dataclass(frozen=True, slots=True)
class Global:
    """What a pickle names: a class or a function, never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True, repr=False)
class Stub:
    """An object of a class that is not loaded: what the pickle says of it."""

    of: Global
    args: tuple[Any, ...] = ()
    state: Any = None  # mostly a dict of attributes
    items: list[Any] = field(default_factory=list)  # if it is a list or a set
    entries: dict[Any, Any] = field(default_factory=dict)  # if it is a mapping

    def __getitem__(self, attribute: str) -> Any:
        """An attribute; None where there is none."""
        return self.state.get(attribute) if isinstance(self.state, dict) else None


def weights_of(root: Any) -> dict[str, Any]:
    """The parameters and buffers of a pickled module by their dotted names, or the entries of a dict of tensors.

    Of a TorchScript archive, the attributes that are no tensors stand among them.

    Args:
        root: what `read_pickle` gave; of a training checkpoint, its `state_dict` is taken.

    Returns:
        Whatever stands there under each name, in the order of the file.

    Raises:
        Foreign: neither a module nor a dict of names.
        Refused: modules nested without end.
    """
    if isinstance(root, Stub):
        return dict(_walk(root))
    if isinstance(root, dict):
        for key in ("state_dict", "model"):
            if isinstance(root.get(key), dict):
                root = root[key]
        if all(isinstance(name, str) for name in root):
            return dict(root)
    raise Foreign(f"it holds a value of type {type(root).__name__}, neither a module nor a state dict")


def _walk(root: Stub) -> Iterator[tuple[str, Any]]:
    waiting: list[tuple[str, Any, int]] = [("", root, 0)]
    seen = 0
    while waiting:
        prefix, module, depth = waiting.pop()
        if not isinstance(module, Stub):
            continue  # `_modules` may hold None
        held = _held(module)
        seen += sum(map(len, held))
        if depth > MAX_DEPTH or seen > MAX_NAMES:  # a module that holds itself, or is shared a million times
            raise Refused("modules nested without end")
        yield from ((prefix + name, value) for kind in held[:2] for name, value in kind.items() if value is not None)
        waiting += reversed([(f"{prefix}{name}.", child, depth + 1) for name, child in held[2].items()])


def _held(module: Stub) -> list[dict[str, Any]]:
    """Parameters, buffers and modules. TorchScript writes all of a module's attributes beside each other: those that
    are modules have classes of its own package, the rest is left to whoever looks for tensors."""
    if module.of.module.split(".")[0] != SCRIPTED:
        return [_named(module[kind]) for kind in ("_parameters", "_buffers", "_modules")]
    attributes = _named(module.state)
    below = {name: value for name, value in attributes.items() if isinstance(value, Stub)}
    values = {name: value for name, value in attributes.items() if name not in below}
    return [values, {}, {name: value for name, value in below.items() if value.of.module.split(".")[0] == SCRIPTED}]


def _named(entries: Any) -> dict[str, Any]:
    if not isinstance(entries, dict):
        return {}
    if not all(isinstance(name, str) and len(name) <= 100 for name in entries):
        raise Refused("a module with names that are none")
    return entries

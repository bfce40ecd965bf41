"""Files that mean harm: what torch.save could be made to hold, and what it could not."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections import OrderedDict
from typing import Any

MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


class Calls:
    """Pickles as a call."""

    def __init__(self, function: Any, *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.args


def text(value: str) -> bytes:
    """BINUNICODE."""
    raw = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(raw)) + raw


def number(value: int) -> bytes:
    """LONG1."""
    raw = value.to_bytes((value.bit_length() + 8) // 8, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def sizes(values: Any) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def named(module: str, name: str) -> bytes:
    """STACK_GLOBAL."""
    return text(module) + text(name) + b"\x93"


def called(module: str, name: str, *args: bytes) -> bytes:
    return named(module, name) + b"(" + b"".join(args) + b"tR"


def storage(key: str = "0", count: int = 4, kind: str = "FloatStorage") -> bytes:
    """A persistent id of torch.save."""
    return b"(" + text("storage") + named("torch", kind) + text(key) + text("cpu") + number(count) + b"tQ"


def tensor(shape: Any = (4,), stride: Any = (1,), offset: int = 0, of: bytes | None = None) -> bytes:
    hooks = b"\x89" + b"ccollections\nOrderedDict\n)R"
    held = storage() if of is None else of
    return called("torch._utils", "_rebuild_tensor_v2", held, number(offset), sizes(shape), sizes(stride), hooks)


def state(*values: bytes, end: bytes = b".") -> bytes:
    """{"state_dict": {"w0": value, …}}, and whatever else."""
    entries = b"".join(text(f"w{i}") + value for i, value in enumerate(values))
    return b"\x80\x04}" + text("state_dict") + b"}(" + entries + b"us" + end


def archive(content: bytes, storages: dict[str, bytes] | None = None, **options: Any) -> bytes:
    """The zip of torch.save."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as members:
        members.writestr("archive/data.pkl", content)
        members.writestr("archive/byteorder", "little")
        for key, data in ({"0": bytes(16)} if storages is None else storages).items():
            members.writestr(f"archive/data/{key}", data)
    return file.getvalue()


def legacy(content: bytes, keys: list[str], data: bytes = b"", machine: Any = None) -> bytes:
    facts = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}} if machine is None else machine
    return MAGIC + b"".join(pickle.dumps(part, 2) for part in (1001, facts)) + content + pickle.dumps(keys, 2) + data


def calls() -> dict[str, bytes]:
    """Pickles that call something. What they would do is listed by the audit hook, were it done."""
    import builtins
    import os
    import subprocess

    harm = text("touch /tmp/mmgen-was-here")
    code = text("__import__('os').system('true')")
    value = pickle.dumps({"state_dict": OrderedDict(w=Calls(os.system, "true"))}, 2)
    return {
        "os.system": value,
        "posix.system by name": state(called("posix", "system", harm)),
        "eval": pickle.dumps(Calls(builtins.eval, "1"), 4),
        "exec": state(called("builtins", "exec", code)),
        "Popen": pickle.dumps(Calls(subprocess.Popen, ["true"]), 2),
        "__import__": state(called("builtins", "__import__", text("antigravity"))),
        "getattr": state(called("builtins", "getattr", named("os", "path"), text("join"))),
        "dotted": state(called("os.path", "os.system", harm)),
        "torch.load": state(called("torch", "load", text("/etc/passwd"))),
        "torch.hub": state(called("torch.hub", "load", text("a/b"), text("c"))),
        "torch storage loader": state(called("torch.storage", "_load_from_bytes", b"C\x04evil")),
        "jit": state(called("torch.jit", "load", text("/etc/passwd"))),
        "from_type": state(called("torch._tensor", "_rebuild_from_type_v2", named("os", "system"), b"N", harm, b"N")),
        "instance": b"(" + harm + b"ios\nsystem\n.",
        "object": b"(cos\nsystem\n" + harm + b"o.",
        "partial, then called": state(called("functools", "partial", named("os", "system"), harm) + b")R"),
        "a call of what was called": state(called("torch", "Size", b")") + b")R"),
        "a call of a tensor": state(tensor() + b")R"),
        "a call of a text": state(harm + b")R"),
        "reduce by a made class": state(named("os", "system") + b")\x81)R"),
        "after the state dict": state(tensor(), end=b"0" + called("os", "system", harm) + b"0}."),
        "read by numpy": state(called("numpy", "load", text("/etc/passwd"))),
        "ctypes": state(called("ctypes", "CDLL", text("/tmp/evil.so"))),
        "site": state(called("runpy", "run_path", text("/tmp/evil.py"))),
        "webbrowser": state(called("webbrowser", "open", text("http://127.0.0.1:9/"))),
    }


def malformed() -> dict[tuple[str, str], bytes]:
    """Pickles that do what no checkpoint needs, by name and by what is said of it."""
    laughs = b"]" + b"".join(b"q\x00" + b"0(" + b"h\x00" * 10 + b"l" for _ in range(40))  # 10^40 of them
    loop = named("a", "Module") + b")\x81q\x00}" + text("_modules") + b"}" + text("again") + b"h\x00ssb."
    return {
        ("extension", "instruction EXT1"): b"\x80\x02\x82\x01.",
        ("persistent id as text", "instruction PERSID"): b"Pstorage\n.",
        ("persistent id of a path", "persistent id that is no storage"): state(
            b"(" + text("file") + text("/etc/passwd") + b"tQ"
        ),
        ("persistent id of two", "persistent id that is no storage"): state(
            b"(" + text("storage") + named("torch", "FloatStorage") + b"tQ"
        ),
        ("storage of a path", "key that is none"): state(tensor(of=storage("../../etc/passwd"))),
        ("storage of an odd type", "type torch.UntypedStorage"): state(tensor(of=storage(kind="UntypedStorage"))),
        ("storage below nothing", "storage that does not add up"): state(tensor(of=storage(count=-4))),
        ("storage without end", "storage that does not add up"): state(tensor(of=storage(count=2**62))),
        ("view of a storage", "storage that does not add up"): state(
            tensor(of=storage()[:-2] + b"(" + text("v") + number(1) + number(2) + b"ttQ")
        ),
        ("tensor of no storage", "tensor of no storage"): state(tensor(of=text("storage"))),
        ("tensor of a stub", "tensor of no storage"): state(tensor(of=named("os", "system") + b")\x81")),
        ("beyond the storage", "(5,) beyond its storage"): state(tensor(shape=(5,))),
        ("offset beyond", "(4,) beyond its storage"): state(tensor(offset=1)),
        ("stride beyond", "(2,) beyond its storage"): state(tensor(shape=(2,), stride=(4,))),
        ("huge stride", "(2,) beyond its storage"): state(tensor(shape=(2,), stride=(2**61,))),
        ("stride that wraps", "(3, 2) beyond its storage"): state(tensor(shape=(3, 2), stride=(2**63 - 1, 1))),
        ("negative stride", "stride or offset is none"): state(tensor(stride=(-1,))),
        ("negative offset", "stride or offset is none"): state(tensor(offset=-1)),
        ("negative side", "stride or offset is none"): state(tensor(shape=(-4,))),
        ("stride of nothing", "(1000000000,) in 4 elements"): state(tensor(shape=(10**9,), stride=(0,))),
        ("empty but huge", "beyond its storage of 4"): state(tensor(shape=(0, 2**40, 2**40), stride=(1, 1, 1))),
        ("shape of text", "stride or offset is none"): state(
            called("torch._utils", "_rebuild_tensor_v2", storage(), number(0), text("4"), sizes([1]))
        ),
        ("shape of true", "stride or offset is none"): state(
            called("torch._utils", "_rebuild_tensor_v2", storage(), number(0), b"\x88\x85", sizes([1]))
        ),
        ("more sides than strides", "stride or offset is none"): state(tensor(shape=(2, 2), stride=(1,))),
        ("many sides", "stride or offset is none"): state(tensor(shape=(1,) * 17, stride=(1,) * 17)),
        ("many arguments", "tensor of no storage"): state(
            called("torch._utils", "_rebuild_tensor_v2", *[storage()] * 9)
        ),
        ("parameter of nothing", "parameter of no tensor"): state(called("torch._utils", "_rebuild_parameter")),
        ("attributes of a tensor", "attributes of a StoredTensor"): state(tensor() + b"}" + text("data") + b"K\x01sb"),
        ("items of a tensor", "items put into a StoredTensor"): state(tensor() + b"K\x01a"),
        ("a name with a newline", "name that is none"): state(text("os\n") + text("system") + b"\x93)R"),
        ("a name of numbers", "name that is none"): state(number(1) + number(2) + b"\x93)R"),
        ("a name with a path", "name that is none"): state(named("../../evil", "x")),
        ("a name of half a character", "name that is none"): state(named("\ud800", "x")),
        ("a name of 10,000 letters", "name that is none"): state(named("a" * 10_000, "b")),
        ("an empty name", "name that is none"): state(named("", "")),
        ("a dunder walk", "name that is none"): state(named("os", "..system")),
        ("an object of an object", "object of a Stub"): state(named("os", "system") + b")\x81)\x81"),
        ("a memo that is not there", "never stored"): state(b"h\x07"),
        ("a memo far away", "never stored"): b"\x80\x02]r\xff\xff\xff\xffj\xff\xff\xff\xff0h\x01.",
        ("a stack that is empty", "no whole pickle"): b"\x80\x020.",
        ("marks without end", "more than 300,000 instructions"): b"(" * 2_000_000 + b".",
        ("sets without end", "more than 300,000 instructions"): b"\x80\x04" + b"\x8f" * 2_000_000 + b".",
        ("laughs", "no tensor in it"): state(laughs),
        ("laughs as a key", "list as a key"): b"}" + laughs + b"K\x01s.",
        ("a tuple that is deep, as a key", "tuple as a key"): b"})" + b"\x85" * 250_000 + b"K\x01s.",
        ("a list that is a key", "list as a key"): b"}]K\x01s.",
        ("integers that collide", "more than 64 bits"): b"}" + number(2**61 - 1 << 1000) + b"K\x01s.",
        ("an integer of digits", "no whole pickle"): b"L" + b"9" * 100_000 + b"L\n.",
        ("a text that is not there", "no whole pickle"): b"\x8d" + struct.pack("<Q", 2**62) + b"x.",
        ("bytes that are not there", "no whole pickle"): b"\x8e" + struct.pack("<Q", 2**40) + b"x.",
        ("a long that is not there", "no whole pickle"): b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
        ("a long of less than nothing", "no whole pickle"): b"\x8b" + struct.pack("<i", -2) + b"x.",
        ("a module in itself", "nested without end"): loop,
        ("no end", "no whole pickle"): b"\x80\x02}",
        ("no pickle", "no whole pickle"): b"what is this",
        ("nothing", "no whole pickle"): b"",
        ("a number for a checkpoint", "value of type int"): b"K\x01.",
        ("a list for a checkpoint", "value of type list"): b"].",
        ("names that are numbers", "value of type dict"): b"\x80\x02}K\x01Ns.",
    }


def files() -> dict[tuple[str, str], bytes]:
    """Archives whose harm is not in the pickle, by name and by what is said of it."""
    good = archive(state(tensor()))
    huge = bytes(10_000_000)
    deflated = archive(state(tensor()), {"0": huge}, compression=zipfile.ZIP_DEFLATED)
    small = zip_of({"a/data.pkl": state(tensor()), "a/data/1": huge}, {"a/data/0": bytes(16)})
    count = struct.pack("<q", 4)
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as members:
        members.writestr("a/data.pkl", state(tensor()))
        members.writestr("b/data.pkl", state(tensor()))
    big_endian = archive(state(tensor())).replace(b"little", b"biggie")
    flipped = bytearray(good)
    flipped[good.index(b"archive/data/0") + len("archive/data/0") + 3] ^= 1
    return {
        ("a zip bomb", "compressed"): deflated,
        ("compressed, and no larger", "compressed"): small,
        ("two archives in one", "zip without one data.pkl"): twice.getvalue(),
        ("a zip of something else", "zip without one data.pkl"): zip_of({"photo.txt": b"x"}),
        ("a storage that is missing", "data/7 is missing"): archive(state(tensor(of=storage("7")))),
        ("a storage that is short", "15 bytes"): archive(state(tensor()), {"0": bytes(15)}),
        ("a tensor of another's bytes", "more than twice"): archive(state(tensor(of=storage(count=400), shape=(400,)))),
        ("byte order", "Bad CRC"): big_endian,
        ("bits flipped", "Bad CRC"): bytes(flipped),
        ("something behind", "appended"): good + b"<html>",
        ("a comment", "appended"): good[:-2] + b"\x06\x00" + b"secret",
        ("overlapping", "overlapping"): overlapping(),
        ("many views of one storage", "more than twice"): archive(
            state(*[tensor(shape=(4000,), of=storage(count=4000))] * 500), {"0": bytes(16000)}
        ),
        ("legacy that calls", "MMG-X01"): legacy(state(called("os", "system", text("true"))), []),
        ("legacy, keys that call", "MMG-X01"): MAGIC
        + pickle.dumps(1001, 2)
        + pickle.dumps({"little_endian": True}, 2)
        + state(tensor())
        + called("os", "system", text("true"))
        + b".",
        ("legacy, another byte order", "byte order"): legacy(
            state(tensor()), ["0"], count + bytes(16), {"little_endian": False}
        ),
        ("legacy, facts that are none", "byte order"): legacy(state(tensor()), ["0"], count + bytes(16), [1]),
        ("legacy, a storage too many", "list of storages"): legacy(state(tensor()), ["0", "1"], count + bytes(16)),
        ("legacy, a storage too few", "list of storages"): legacy(state(tensor()), [], count + bytes(16)),
        ("legacy, keys that are none", "list of storages"): legacy(state(tensor()), [["0"]], count + bytes(16)),  # type: ignore[list-item]
        ("legacy, keys that are numbers", "list of storages"): legacy(state(tensor()), [0], count + bytes(16)),  # type: ignore[list-item]
        ("legacy, nested keys", "list of storages"): legacy(state(tensor()), [])[:-4]
        + (b"]" * 20_001 + b"a" * 20_000 + b".")
        + count
        + bytes(16),
        ("legacy, cut", "310 B are described, 309 B"): legacy(state(tensor()), ["0"], count + bytes(15)),
        ("legacy, something behind", "310 B are described, 311 B"): legacy(state(tensor()), ["0"], count + bytes(17)),
        ("legacy, another count", "1,099,511,627,776 elements"): legacy(
            state(tensor()), ["0"], struct.pack("<q", 2**40) + bytes(16)
        ),
        ("legacy, two sizes", "storage of two sizes"): legacy(
            state(tensor(), tensor(of=storage(count=5))), ["0"], count + bytes(16)
        ),
        ("legacy, a module's source", "persistent id that is no storage"): legacy(
            state(b"(" + text("module") + text("os.system") + text("x.py") + text("import os") + b"tQ"), []
        ),
        ("html", "web page"): b"<!DOCTYPE html><html><body>404</body></html>",
        ("json", "web page"): b'{"error": "not found"}',
        ("gzip", "compressed archive"): b"\x1f\x8b\x08\x00" + bytes(40),
        ("empty", "empty"): b"",
        ("a plain pickle", "pickle of something else"): pickle.dumps({"state_dict": {}}, 2),
        ("the magic number alone", "no whole pickle"): MAGIC,
        ("half a magic number", "pickle of something else"): MAGIC[:7],
        ("a picture", "something else"): b"\x89PNG\r\n\x1a\n" + bytes(100),
    }


def zip_of(members: dict[str, bytes], compressed: dict[str, bytes] | None = None) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as written:
        for name, data in members.items():
            written.writestr(name, data)
        for name, data in (compressed or {}).items():
            written.writestr(name, data, zipfile.ZIP_DEFLATED)
    return file.getvalue()


def overlapping() -> bytes:
    """A list of 200 members, all in the place of one of 100 kB."""
    good = archive(state(tensor()), {"0": bytes(100_000)})
    begin = good.rindex(b"PK\x01\x02")
    entry, end = good[begin : good.rindex(b"PK\x05\x06")], good[good.rindex(b"PK\x05\x06") :]
    more = b"".join(entry.replace(b"archive/data/0", b"archive/data%02x" % i) for i in range(200))
    first = good.index(b"PK\x01\x02")
    length = begin - first + len(entry) + len(more)
    end = end[:8] + struct.pack("<HHI", 203, 203, length) + end[16:]
    return good[:begin] + entry + more + end


def corpus() -> dict[tuple[str, str], bytes]:
    """Every hostile file by its name and what is said of it: each pickle as both formats have it."""
    found = dict(files())
    pickles = {(name, "MMG-X01"): content for name, content in calls().items()} | malformed()
    for (name, said), content in pickles.items():
        found[f"{name}, zip", said] = archive(content)
        if len(content) < 100_000:
            found[f"{name}, legacy", said] = legacy(content, [])
    return found

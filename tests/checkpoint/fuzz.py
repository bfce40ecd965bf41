"""Opens mutated exports in a process of its own, under an audit hook: `python fuzz.py EXPORT SCRATCH COUNT SEED`.

Prints one JSON object: how many were opened, refused, and everything that must not happen.
"""

import hashlib
import json
import os
import random
import shutil
import sys
import time
from pathlib import Path

from mmgen.checkpoint.exports import read_export
from mmgen.errors import CheckpointError

FORBIDDEN = (
    "exec",
    "compile",
    "import",
    "pickle.",
    "marshal.",
    "subprocess.",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "socket.",
    "ctypes.",
    "urllib.",
)
HOSTILE = [
    "os.system",
    "../../x",
    "/etc/passwd",
    "torch.hub.load",
    "mmgen.plugins.registry.register",
    "${oc.env:HOME}",
    "\ud800",
    "\x1b[31m",
    "x" * 5000,
    "",
    "_target_",
    2**70,
    -1,
    1e308,
    True,
    None,
    [],
    {},
    [[[[[[]]]]]],
    {"_target_": "os.system"},
]
FILES = [f"{k}/{n}" for k in ("tokenizer", "generator", "encoder") for n in ("model.safetensors", "config.json")]
FILES += ["export.json", "manifest.json", "generator/text_tokenizer.json"]


def mutate_json(value, random_):
    """One change somewhere: another value, another key, one less, one more."""
    if isinstance(value, dict) and value and random_.random() < 0.85:
        key = random_.choice(list(value))
        choice = random_.random()
        if choice < 0.15:
            del value[key]
        elif choice < 0.3:
            value[str(random_.choice(HOSTILE))] = value.pop(key)
        elif choice < 0.4:
            value[str(random_.choice(HOSTILE))] = random_.choice(HOSTILE)
        else:
            value[key] = mutate_json(value[key], random_)
        return value
    if isinstance(value, list) and value and random_.random() < 0.7:
        place = random_.randrange(len(value))
        value[place] = mutate_json(value[place], random_)
        return value
    return random_.choice(HOSTILE)


def mutate_bytes(data, random_):
    choice = random_.randrange(5)
    place = random_.randrange(len(data))
    if choice == 0:
        return data[:place]
    if choice == 1:
        return data[:place] + bytes([data[place] ^ 1 << random_.randrange(8)]) + data[place + 1 :]
    if choice == 2:
        return data + random_.randbytes(20)
    if choice == 3:
        return random_.choice([b"", b"<html></html>", b"\x80\x04N.", b"PK\x03\x04", b"[" * 10_000, bytes(len(data))])
    return data[:place] + random_.choice([b'"a":1,"a":2', b"${x}", b"\xff", b"9" * 5000, b"NaN"]) + data[place:]


def mutate(export, random_):
    """Changes one file; seven times in ten the manifest fits, so that the parsers see it."""
    name = random_.choice(FILES)
    data = (export / name).read_bytes()
    if name.endswith(".json") and random_.random() < 0.7:
        data = json.dumps(mutate_json(json.loads(data), random_)).encode()
    elif name.endswith(".safetensors") and random_.random() < 0.6:
        length = int.from_bytes(data[:8], "little")
        header = json.dumps(mutate_json(json.loads(data[8 : 8 + length]), random_)).encode()
        data = len(header).to_bytes(8, "little") + header + data[8 + length :]
    else:
        data = mutate_bytes(data, random_)
    (export / name).write_bytes(data)
    if name != "manifest.json" and random_.random() < 0.7:
        manifest = json.loads((export / "manifest.json").read_text())
        manifest["files"][name] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        (export / "manifest.json").write_text(json.dumps(manifest))


def main(export, scratch, count, seed):
    random_ = random.Random(seed)
    read_export(export)  # what the first read imports, the mutated ones need not
    found = {"opened": 0, "refused": 0, "codes": {}, "events": [], "errors": [], "slowest": 0.0}
    watching = None

    def hook(event, arguments):
        if watching is None:
            return
        if event.startswith(FORBIDDEN):
            found["events"].append(f"{event} {arguments!r}"[:200])
        elif event == "open" and not isinstance(arguments[0], int):
            # Files are opened by their plain name in a directory's descriptor; only that directory is opened in full.
            path = os.fsdecode(arguments[0])
            if path != str(watching) and ("/" in path or ".." in path):
                found["events"].append(f"open {path}"[:200])

    sys.addaudithook(hook)
    watching = Path(scratch)  # the guard itself: it must see what it is there to see
    compile("1", "probe", "eval")
    with open(os.devnull):
        pass
    watching = None
    assert len(found["events"]) == 2, found["events"]
    found["events"].clear()
    for number in range(count):
        directory = Path(scratch) / str(number)
        shutil.copytree(export, directory)
        mutate(directory, random_)
        begin = time.monotonic()
        watching = directory
        try:
            read_export(directory)
            outcome = "opened"
        except CheckpointError as error:
            watching = None
            outcome = "refused"
            found["codes"][error.code] = found["codes"].get(error.code, 0) + 1
            message = error.render()
            if len(message) > 1500 or len(message.splitlines()) > 6 or not message.replace("\n", "").isprintable():
                found["errors"].append(f"{number}: message {message[:300]!r}")
        except BaseException as error:
            watching = None
            outcome = "errors"
            found["errors"].append(f"{number}: {error!r}"[:300])
        watching = None
        found["slowest"] = max(found["slowest"], time.monotonic() - begin)
        if outcome != "errors":
            found[outcome] += 1
        shutil.rmtree(directory)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))

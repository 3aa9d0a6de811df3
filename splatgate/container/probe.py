"""Looks at a container from inside and prints what it saw as one JSON object.

Fed on standard input to the image's own interpreter (`python -`), with the standard library alone:
nothing is installed in, mounted over or changed in the subject. Python 3.6 syntax, for any image.
Arguments: a JSON object with ``entry_script``, ``source`` and ``paths`` (directories of the
contract).
"""

import ast
import json
import os
import platform
import re
import shutil
import stat
import struct
import subprocess
import sys
import sysconfig
import time

try:
    from importlib import metadata
except ImportError:  # Python < 3.8
    metadata = None

ELF_MACHINES = {0x3E: "x86_64", 0xB7: "aarch64", 0x03: "i386"}
COMPILERS = ("nvcc", "gcc", "g++", "cc", "c++", "clang", "clang++")
#: Magic number of a fat binary inside section .nv_fatbin (fatbinary_section.h of the CUDA toolkit).
FATBIN_MAGIC = 0xBA55ED50
PTX, CUBIN = 1, 2
#: The walk over all files ends after this long (seconds); the answer says when it was cut short.
WALK = 6.0
#: No list of paths in the answer is longer.
MOST = 200
#: What package managers keep, by the end of the folder's path.
CACHES = (
    "/.cache/pip",
    "/.cache/uv",
    "/.cache/conda",
    "/.npm/_cacache",
    "/var/cache/apt",
    "/var/lib/apt/lists",
    "/var/cache/yum",
    "/var/cache/dnf",
    "/var/cache/apk",
)
#: Files that hold credentials, by the end of their path.
CREDENTIALS = (
    "/.aws/credentials",
    "/.env",
    "/.git-credentials",
    "/.netrc",
    "/.pypirc",
)
#: Files that hold credentials only if they say so.
KEY = re.compile(r"(?:\.pem|\.key|/id_(?:rsa|dsa|ecdsa|ed25519))$")
KEY_TEXT = re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")
CONFIGURATION = re.compile(
    r"/(?:pip\.conf|\.npmrc|\.condarc|uv\.toml|\.docker/config\.json|etc/apt/.+)$"
)
PASSWORD_TEXT = re.compile(r"://[^/\s:@]+:[^/\s:@$]+@|_authToken *=|\"auth\" *:|^machine \S+ login")


def elf_section(data, name):
    """Machine of an ELF64 file and the bytes (offset, size) of one section, or None."""
    if data[:4] != b"\x7fELF" or data[4] != 2:
        return None, None
    machine = ELF_MACHINES.get(struct.unpack_from("<H", data, 18)[0], "unknown")
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    if not table or table + size * count > len(data):
        return machine, None

    def header(index):
        return struct.unpack_from("<IIQQQQ", data, table + size * index)

    strings = header(names)[4]
    for index in range(count):
        start, _, _, _, offset, length = header(index)
        end = data.find(b"\0", strings + start, strings + start + 64)
        if data[strings + start : end] == name:
            return machine, (offset, length)
    return machine, None


def fatbin_architectures(data, offset, size):
    """Architectures of the cubins and of the PTX in a .nv_fatbin section, by their headers
    alone.
    """
    cubins, ptx = set(), set()
    at, end = offset, offset + size
    while at + 16 <= end:
        magic, _, header, length = struct.unpack_from("<IHHQ", data, at)
        if magic != FATBIN_MAGIC:
            at += 8
            continue
        entry, stop = at + header, at + header + length
        while entry + 32 <= stop:
            kind, _, entry_header, entry_size = struct.unpack_from("<HHIQ", data, entry)
            (arch,) = struct.unpack_from("<I", data, entry + 28)
            if kind == CUBIN:
                cubins.add(arch)
            elif kind == PTX:
                ptx.add(arch)
            if entry_header + entry_size == 0:
                break
            entry += entry_header + entry_size
        at = (stop + 7) // 8 * 8
    return sorted(cubins), sorted(ptx)


def libraries(roots):
    """Shared objects with GPU code outside NVIDIA's own packages, which ship code for every GPU."""
    import mmap

    found = []
    for root in roots:
        for folder, folders, files in os.walk(root):
            folders[:] = [f for f in folders if f not in ("nvidia", "triton", "__pycache__")]
            for name in files:
                path = os.path.join(folder, name)
                if ".so" not in name or os.path.islink(path) or os.path.getsize(path) < 4096:
                    continue
                with open(path, "rb") as file:
                    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                    try:
                        machine, section = elf_section(data, b".nv_fatbin")
                        if section:
                            cubins, ptx = fatbin_architectures(data, *section)
                            found.append(
                                {"path": path, "machine": machine, "cubins": cubins, "ptx": ptx}
                            )
                    finally:
                        data.close()
    return sorted(found, key=lambda lib: lib["path"])


def imported(tree):
    """Absolute imports of a module, without those that it tries and can do without."""
    stack, names = [tree], set()
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
        elif isinstance(node, ast.Try) and node.handlers:
            stack.extend(node.handlers + node.orelse + node.finalbody)
        elif not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)):
            stack.extend(ast.iter_child_nodes(node))
    return names


def sources(source, script):
    """Every .py of the trainer, compiled in memory; and the absolute imports of those that
    parse.
    """
    paths, found, modules = set(), [], set()
    if script:
        paths.add(script)
    if source and os.path.isdir(source):
        for folder, folders, files in os.walk(source):
            folders[:] = [f for f in folders if f != "__pycache__"]
            paths.update(os.path.join(folder, f) for f in files if f.endswith(".py"))
    for path in sorted(paths):
        error, mode = None, 0
        try:
            mode = os.stat(path).st_mode & 0o7777
            with open(path, "rb") as file:
                text = file.read()
            tree = ast.parse(text, path)
            compile(text, path, "exec", dont_inherit=True)
        except (OSError, SyntaxError, ValueError) as problem:
            error = "{}: {}".format(type(problem).__name__, problem)
        else:
            modules.update(imported(tree))
        found.append({"path": path, "error": error, "mode": mode})
    return found, sorted(modules)


def run(code, *args):
    """Run code in a fresh interpreter with no CUDA toolkit on PATH; its last line of output or of
    error.
    """
    environment = dict(os.environ, PATH="/usr/bin:/bin", CUDA_HOME="/nonexistent")
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd="/",
    )
    out = done.stdout.decode("utf-8", "replace").strip().splitlines()
    err = done.stderr.decode("utf-8", "replace").strip().splitlines()
    if done.returncode:
        return None, (err or ["exit status {}".format(done.returncode)])[-1]
    return (out or [""])[-1], None


IMPORTS = """
import importlib, json, sys
sys.path[:0] = json.loads(sys.argv[2])
failed = {}
for name in json.loads(sys.argv[1]):
    try:
        importlib.import_module(name)
    except BaseException as error:
        failed[name] = "%s: %s" % (type(error).__name__, error)
print(json.dumps(failed))
"""
GSPLAT = """
import torch
from gsplat.cuda._backend import _C
assert _C is not None, "gsplat would compile at its first call, and there is no nvcc"
print(_C.__file__)
"""
TORCH = "import torch; print(torch.__version__, torch.version.cuda)"


def imports(modules, path):
    """Import every module that the trainer imports; one interpreter, or one for each if that one
    dies.
    """
    answer, error = run(IMPORTS, json.dumps(modules), json.dumps(path))
    if error is None:
        failed = json.loads(answer)
        return [{"module": m, "error": failed.get(m)} for m in modules]
    found = []
    for module in modules:
        answer, error = run(IMPORTS, json.dumps([module]), json.dumps(path))
        found.append(
            {"module": module, "error": error if error else json.loads(answer).get(module)}
        )
    return found


def distributions():
    """Installed distributions of this interpreter."""
    if metadata is None:
        return []
    found = {}
    for dist in metadata.distributions():
        name = dist.metadata["Name"]
        if name and name not in found:
            found[name] = {
                "name": name,
                "version": dist.version or "",
                "requires": list(dist.requires or ()),
            }
    return [found[name] for name in sorted(found)]


def packages(path="/var/lib/dpkg/status"):
    """Installed Debian packages, from dpkg's own list."""
    found = []
    for entry in (text(path) or "").split("\n\n"):
        fields = dict(line.partition(": ")[::2] for line in entry.splitlines() if line[:1].strip())
        if fields.get("Status", "").endswith(" installed"):
            found.append(
                {
                    "name": fields["Package"],
                    "version": fields.get("Version", ""),
                    "architecture": fields.get("Architecture", ""),
                }
            )
    return found


def kind_of(path, name, mode):
    """What an image should not ship a file as: ``redirected``, ``credentials``, ``git``; or
    None.
    """
    if stat.S_ISDIR(mode):
        # A submodule's .git is a file of one line, and holds no history.
        return "git" if name == ".git" else None
    if not stat.S_ISREG(mode):
        return None
    if name.startswith("="):
        return "redirected"
    if path.endswith(CREDENTIALS):
        return "credentials"
    if KEY.search(path) and KEY_TEXT.search(text(path, 4096) or ""):
        return "credentials"
    if CONFIGURATION.search(path) and PASSWORD_TEXT.search(text(path, 65536) or ""):
        return "credentials"
    return None


def files(root="/", mounts=None, limit=WALK):
    """Leftovers, setuid files, and what everyone may write, in the image's own file system.

    Mounts are the host's: they are not entered.
    """
    if mounts is None:
        lines = (text("/proc/self/mounts") or "").splitlines()
        mounts = {line.split()[1] for line in lines if len(line.split()) > 1}
    outside = set(mounts) | {"/proc", "/sys", "/dev"}
    seen = {"files": 0, "complete": True, "leftovers": [], "setuid": [], "world_writable": []}
    deadline = time.time() + limit
    # A folder and the cache that it belongs to, if any.
    waiting = [(root, None)]
    while waiting:
        folder, cache = waiting.pop()
        if time.time() > deadline:
            seen["complete"] = False
            break
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            path = os.path.join(folder, entry.name)
            if path in outside:
                continue
            try:
                status = entry.stat(follow_symlinks=False)
            except OSError:
                continue
            mode = status.st_mode
            seen["files"] += 1
            if stat.S_ISLNK(mode):
                continue
            if mode & 0o002 and not mode & stat.S_ISVTX:
                seen["world_writable"].append(path)
            if stat.S_ISDIR(mode):
                inner = cache
                if cache is None and path.endswith(CACHES):
                    inner = {"path": path, "kind": "cache", "bytes": 0}
                    seen["leftovers"].append(inner)
                waiting.append((path, inner))
            elif stat.S_ISREG(mode):
                if mode & (stat.S_ISUID | stat.S_ISGID):
                    seen["setuid"].append(path)
                if cache is not None:
                    cache["bytes"] += status.st_size
            kind = kind_of(path, entry.name, mode)
            if kind:
                seen["leftovers"].append({"path": path, "kind": kind, "bytes": status.st_size})
    seen["leftovers"] = [x for x in seen["leftovers"] if x["bytes"] or x["kind"] != "cache"]
    for name in ("leftovers", "setuid", "world_writable"):
        seen[name] = sorted(seen[name], key=str)[:MOST]
    return seen


def text(path, limit=-1):
    """A file's text, or None; its first ``limit`` characters."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(limit)
    except (OSError, TypeError, UnicodeDecodeError):
        return None


def main(ask):
    """See everything asked for."""
    script = ask["entry_script"]
    seen, modules = sources(ask["source"], script)
    roots = {sysconfig.get_paths()[k] for k in ("purelib", "platlib")}
    torch = gsplat = gsplat_error = None
    names = {m.partition(".")[0] for m in modules}
    installed = distributions()
    have = {d["name"].lower() for d in installed}
    if "torch" in have:
        torch = run(TORCH)[0]
    if "gsplat" in have or "gsplat" in names:
        gsplat, gsplat_error = run(GSPLAT)
    folder = os.path.dirname(os.path.realpath(script)) if script else ""
    with open(os.path.realpath(sys.executable), "rb") as file:
        machine = elf_section(file.read(), b"")[0]
    return {
        "python": sys.executable,
        "version": platform.python_version(),
        "machine": machine or platform.machine(),
        "uid": os.getuid(),
        "environment": {k: os.environ[k] for k in sorted(os.environ) if k != "HOSTNAME"},
        "entry_script": script,
        "entry_script_mode": os.stat(script).st_mode & 0o7777
        if script and os.path.exists(script)
        else None,
        "sources": seen,
        "imports": imports(modules, [folder] if folder else []),
        "distributions": installed,
        "libraries": libraries(sorted(roots)),
        "writable": {p: os.access(p, os.W_OK | os.X_OK) for p in ask["paths"]},
        "compilers": [c for c in COMPILERS if shutil.which(c)],
        "torch_version": torch.split()[0] if torch else None,
        "torch_cuda": torch.split()[1].replace("None", "") or None if torch else None,
        "gsplat_extension": gsplat,
        "gsplat_error": gsplat_error,
        "subject": text(ask.get("subject")),
        "packages": packages(),
        "files": files(),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))))

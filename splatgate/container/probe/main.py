"""Looks at a container from inside and prints what it saw as one JSON object.

The files of this folder are fed as one text on standard input to the image's own interpreter
(`python -I -S -E -`), with the standard library alone: nothing is installed in, mounted over or
changed in the subject. Python 3.8 syntax, for any image. Arguments: a JSON object with
``entrypoint``, ``workdir``, ``paths`` (directories of the contract), and ``entry_script`` and
``source`` where a subject profile names them.
"""

import json
import os
import platform
import shutil
import subprocess
import sys

from splatgate.container.probe.code import locate, settings_of, sources
from splatgate.container.probe.elf import libraries, machine_of
from splatgate.container.probe.walk import files, packages, text

try:
    from importlib import metadata
except ImportError:  # Python < 3.8
    metadata = None

COMPILERS = ("nvcc", "gcc", "g++", "cc", "c++", "clang", "clang++")

#: One interpreter tries it all, for loading torch takes seconds: the imports, what torch and gsplat
#: are, and an array there and back.
TRY = """
import importlib, json, sys
sys.path[:0] = json.loads(sys.argv[2])
seen = {"failed": {}}
def attempt(name, work):
    try:
        seen[name] = work()
    except BaseException as error:
        seen[name + "_error"] = "%s: %s" % (type(error).__name__, error)
for name, wanted in json.loads(sys.argv[1]).items():
    try:
        module = importlib.import_module(name)
        for part in wanted:
            if not hasattr(module, part):
                try:
                    importlib.import_module(name + "." + part)
                except ModuleNotFoundError:
                    raise ImportError("cannot import name %r from %r" % (part, name)) from None
    except BaseException as error:
        seen["failed"][name] = "%s: %s" % (type(error).__name__, error)
def torch_is():
    import torch
    return [torch.__version__, torch.version.cuda]
def round_trip():
    import numpy, torch
    there = torch.from_numpy(numpy.arange(3, dtype="float32"))
    assert there.numpy().tolist() == [0, 1, 2]
    return True
def backend():
    import torch
    from gsplat.cuda._backend import _C
    assert _C is not None, "gsplat would compile at its first call, and there is no nvcc"
    return _C.__file__
for what in json.loads(sys.argv[3]):
    attempt(what, {"torch": torch_is, "numpy": round_trip, "gsplat": backend}[what])
print("\\n" + json.dumps(seen))
"""


def begin(modules, path, also=()):
    """Start a fresh interpreter on imports, with no CUDA toolkit on PATH."""
    return subprocess.Popen(
        [sys.executable, "-c", TRY, json.dumps(modules), json.dumps(path), json.dumps(also)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ, PATH="/usr/bin:/bin", CUDA_HOME="/nonexistent"),
        cwd="/",
    )


def end(process):
    """What an interpreter saw, or its last words."""
    out, err = process.communicate()
    if process.returncode:
        last = err.decode("utf-8", "replace").strip().splitlines()
        return None, (last or ["exit status {}".format(process.returncode)])[-1]
    last = (out.decode("utf-8", "replace").strip().splitlines() or [""])[-1]
    try:
        seen = json.loads(last)
        return dict(seen, failed=dict(seen["failed"])), None
    except (KeyError, TypeError, ValueError):
        return None, "the interpreter ended before its program, and said {!r}".format(last[:80])


def attempts(process, modules, path, also):
    """What every import gave; where the one interpreter died, of one interpreter for each."""
    seen, error = end(process)
    if error is None:
        return seen
    seen = {"failed": {}}
    for module in modules:
        one, error = end(begin({module: modules[module]}, path))
        failed = error if error else one["failed"].get(module)
        if failed:
            seen["failed"][module] = failed
    for what in also:
        one, error = end(begin({}, path, [what]))
        seen.update({what + "_error": error} if error else dict(one, failed=seen["failed"]))
    return seen


def find_packages():
    """Make sys.path the one that a program gets, with no code of the image run for it.

    The probe runs without `site`, which would run site files and lines of .pth; its folders are
    added by its own functions, and of .pth files the lines that are folders.
    """
    import site

    given = [f for f in os.environ.get("PYTHONPATH", "").split(os.pathsep) if f]
    site.addpackage = lambda folder, name, known: known
    known = site.removeduppaths()
    site.ENABLE_USER_SITE = False
    before = list(sys.path)
    if hasattr(site, "venv"):
        known = site.venv(known)
    site.addsitepackages(known)
    for folder in [f for f in sys.path if f not in before]:
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            lines = (text(os.path.join(folder, name)) or "").splitlines()
            for line in lines if name.endswith(".pth") else []:
                path = os.path.join(folder, line.rstrip())
                code = line.startswith(("#", "import ", "import\t")) or not line.strip()
                if not code and os.path.isdir(path) and path not in sys.path:
                    sys.path.append(path)
    # At the end: nothing that the probe itself imports comes from there.
    sys.path.extend(f for f in given if f not in sys.path)


def distributions():
    """Every installed distribution of this interpreter, and in which folder."""
    if metadata is None:
        return []
    found, seen = [], set()
    for dist in metadata.distributions():
        name = dist.metadata["Name"]
        # A folder that stands twice on sys.path, or by a link, is one.
        place = os.path.realpath(str(getattr(dist, "_path", dist.locate_file(name or ""))))
        if name and place not in seen:
            seen.add(place)
            found.append(
                {
                    "name": name,
                    "version": dist.version or "",
                    "requires": list(dist.requires or ()),
                    "folder": os.path.realpath(str(dist.locate_file(""))),
                }
            )
    return sorted(found, key=lambda d: (d["name"], d["folder"], d["version"]))


def main(ask):
    """See everything asked for."""
    if sys.flags.no_site:
        find_packages()
    import sysconfig  # which takes sys.prefix as it is at its import

    script = ask.get("entry_script") or locate(ask["entrypoint"], ask["workdir"])
    found, modules, tried, settings = sources(script) if script else ([], {}, [], {})
    installed = distributions()
    have = {d["name"].lower() for d in installed}
    also = [what for what in ("torch", "gsplat") if what in have or what in (*modules, *tried)]
    also += ["numpy"] if {"torch", "numpy"} <= have else []
    path = [os.path.dirname(os.path.realpath(script))] if script else []
    process = begin(modules, path, also)
    roots = {sysconfig.get_paths()[k] for k in ("purelib", "platlib")}
    # A trainer may carry compiled kernels beside its sources, where its subject profile lies.
    beside = os.path.dirname(ask.get("subject") or "")
    if len(beside) > 1 and not any(beside.startswith(root) for root in roots):
        roots.add(beside)
    seen = dict(libraries(sorted(roots)), files=files(), packages=packages())
    with open(os.path.realpath(sys.executable), "rb") as file:
        machine = machine_of(file.read(64)) or platform.machine()
    seen["other_machines"] = {p: m for p, m in seen["other_machines"].items() if m != machine}
    gave = attempts(process, modules, path, also)
    torch = gave.get("torch") or [None, None]
    seen.update(
        {
            "python": sys.executable,
            "version": platform.python_version(),
            "machine": machine,
            "uid": os.getuid(),
            "environment": {k: os.environ[k] for k in sorted(os.environ) if k != "HOSTNAME"},
            "entry_script": script,
            "entry_script_mode": os.stat(script).st_mode & 0o7777
            if script and os.path.exists(script)
            else None,
            "sources": found,
            "imports": [{"module": m, "error": gave["failed"].get(m)} for m in modules],
            "settings": settings,
            "settings_shipped": settings_of(script, ask.get("subject")) if script else [],
            "distributions": installed,
            "writable": {p: os.access(p, os.W_OK | os.X_OK) for p in ask["paths"]},
            "compilers": [c for c in COMPILERS if shutil.which(c)],
            "torch_version": torch[0],
            "torch_cuda": torch[1],
            "numpy_error": gave.get("numpy_error"),
            "gsplat_extension": gave.get("gsplat"),
            "gsplat_error": gave.get("gsplat_error"),
            "subject": text(ask.get("subject")),
        }
    )
    return seen


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(json.loads(sys.argv[1]))))

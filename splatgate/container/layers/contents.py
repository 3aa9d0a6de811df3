"""What the layers of an image hold: its Python and what is installed there, GPU code, files that an
image should not have, packages of its distribution.

The probe asks the same of the image's own Python; what both say is compared (``contradictions``).
"""

from __future__ import annotations

import posixpath
import re
import warnings
from collections.abc import Iterator
from email.parser import HeaderParser

from splatgate.container.image import LABEL_SUBJECT
from splatgate.container.layers import packages
from splatgate.container.layers import python as pythons
from splatgate.container.layers.entries import Elf
from splatgate.container.layers.python import which
from splatgate.container.layers.tree import Node, Tree
from splatgate.container.probe import code, elf, walk
from splatgate.container.probe.main import COMPILERS
from splatgate.evidence import (
    Contents,
    Distribution,
    Files,
    Image,
    Leftover,
    LeftoverKind,
    Library,
    Package,
    Source,
)

#: Where the kernel shows what is not the image's.
OUTSIDE = ("/proc", "/sys", "/dev")
#: SageMaker mounts over it: its modes are never seen by a job.
MOUNTED = "/opt/ml"
TORCH_VERSION = re.compile(r"^__version__ *(?::[^=]*)?= *['\"]([^'\"]+)", re.MULTILINE)
TORCH_CUDA = re.compile(r"^cuda *(?::[^=]*)?= *['\"]([^'\"]+)", re.MULTILINE)


def contents(tree: Tree, image: Image, script: str | None = None) -> Contents:
    """Everything static that checks ask of an image.

    Args:
        tree: its layers, merged.
        image: its configuration.
        script: the entry script, where a subject profile names it.
    """
    python = pythons.find(tree, image)
    found = list(distributions(tree, image))
    script = script or pythons.script(tree, image, python)
    node = tree.find(script) if script else None
    described_by = image.labels.get(LABEL_SUBJECT)
    roots = [f for f in python.folders if f.endswith("-packages")] if python else []
    beside = posixpath.dirname(described_by or "")
    if len(beside) > 1 and not any(beside.startswith(root) for root in roots):
        roots.append(beside)
    libraries, machines, unresolved = _libraries(tree, image, roots)
    machine = python.machine if python else ""
    torch = next(filter(None, (tree.text(f"{r}/torch/version.py") for r in roots)), "")
    own = _own(tree, script) if script else []
    return Contents(
        python=python.path if python else "",
        version=python.version if python else "",
        machine=machine,
        entry_script=script,
        entry_script_mode=node.entry.mode if node else None,
        sources=tuple(_source(path, n) for path, n in own if path.endswith(".py")),
        distributions=tuple(sorted(found, key=lambda d: (d.name, d.folder, d.version))),
        libraries=tuple(libraries),
        compilers=tuple(c for c in COMPILERS if which(tree, image, c)),
        torch_version=_first(TORCH_VERSION, torch),
        torch_cuda=_first(TORCH_CUDA, torch),
        gsplat_extension=_gsplat(tree, roots),
        subject=tree.text(described_by) if described_by else None,
        packages=installed(tree),
        files=_files(tree),
        other_machines={p: m for p, m in machines.items() if m != machine},
        unresolved=tuple(unresolved),
        settings_shipped=tuple(
            sorted(
                tree.where(path)
                for path, n in own
                if _is_setting(path) and tree.where(path) != tree.where(described_by or "/")
            )
        ),
        startup=tuple(python.startup) if python else (),
    )


def _first(form: re.Pattern[str], text: str) -> str | None:
    found = form.search(text)
    return found.group(1) if found else None


def _is_setting(path: str) -> bool:
    name = path.rpartition("/")[2]
    return bool(code.CONFIG.match(name)) and not code.TOOLS.match(name)


def installed(tree: Tree) -> tuple[Package, ...]:
    """Every installed package of the image's distribution."""
    nodes = {id(n): n for place in packages.PLACES for _, n in tree.walk(place)}
    found = {p for n in nodes.values() for p in n.entry.packages or ()}
    return tuple(sorted(found, key=lambda p: (p.name, p.architecture, p.version)))


def distributions(tree: Tree, image: Image, program: str | None = None) -> Iterator[Distribution]:
    """Every Python distribution that an interpreter finds; the entry point's if none is named."""
    python = pythons.find(tree, image, program)
    seen = set()
    for folder in python.folders if python else ():
        for name in tree.names(folder):
            path = f"{folder}/{name}"
            text = None
            if name.endswith(".dist-info"):
                text = tree.text(f"{path}/METADATA")
            elif name.endswith(".egg-info"):
                text = tree.text(f"{path}/PKG-INFO") or tree.text(path)
            where = tree.where(path)
            if text is None or where in seen:
                continue
            seen.add(where)
            head = HeaderParser().parsestr(text)
            if head["Name"]:
                yield Distribution(
                    str(head["Name"]),
                    str(head["Version"] or ""),
                    tuple(str(r) for r in head.get_all("Requires-Dist") or ()),
                    tree.where(folder),
                )


def _own(tree: Tree, script: str) -> list[tuple[str, Node]]:
    """Every file beside the entry script and below, without other people's."""
    folder = posixpath.dirname(script)
    found = {script: node} if (node := tree.find(script)) else {}
    waiting = [folder] if posixpath.basename(folder) not in ("", "bin", "sbin") else []
    while waiting and len(found) <= code.MOST_SOURCES:
        where = waiting.pop()
        for name in tree.names(where):
            path = f"{where}/{name}"
            node = tree.find(path, last=False)
            if node is None:
                continue
            if not node.is_dir:
                found[path] = tree.find(path) or node
            elif name not in code.OTHERS and tree.find(f"{path}/pyvenv.cfg") is None:
                waiting.append(path)
    return sorted(found.items(), key=lambda item: item[0])


def _source(path: str, node: Node) -> Source:
    """One source, compiled in memory by the suite's own Python."""
    text = node.entry.text
    if text is None:
        return Source(path, "not there, or larger than a source", node.entry.mode)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, path, "exec", dont_inherit=True)
            return Source(path, None, node.entry.mode, tuple(code.undefined(text, path)))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as problem:
        return Source(path, f"{type(problem).__name__}: {problem}", node.entry.mode)


def _gsplat(tree: Tree, roots: list[str]) -> str | None:
    """gsplat's compiled extension: in its package, or built ahead for torch's loader."""
    for root in roots:
        for path, node in tree.walk(f"{root}/gsplat"):
            if node.entry.elf is not None:
                return path
    for path, node in tree.walk():
        if node.entry.elf is not None and re.search(r"/gsplat_cuda[\w.-]*\.so$", path):
            return path
    return None


def _libraries(
    tree: Tree, image: Image, roots: list[str]
) -> tuple[list[Library], dict[str, str], list[str]]:
    """As the probe's ``libraries``: those with GPU code, the machine of each, and what the loader
    will miss.
    """
    gpu, machines, wants = [], {}, []
    have = {name for folder in _loader_folders(tree, image) for name in tree.names(folder)}
    for root in roots:
        for path, node in tree.walk(root):
            folder, _, name = path.rpartition("/")
            if ".so" not in name:
                continue
            have.add(name)
            found: Elf | None = node.entry.elf
            if found is None or {"nvidia", "triton"} & set(folder[len(root) :].split("/")):
                continue
            machines[path] = found.machine
            wants += [(path, n) for n in found.needed if not n.startswith(elf.DRIVER)]
            if found.cubins is not None:
                gpu.append(Library(path, found.machine, found.cubins, found.ptx, found.needed))
    missing = sorted(f"{path} needs {name}" for path, name in wants if name not in have)
    return sorted(gpu, key=lambda lib: lib.path), machines, missing


def _loader_folders(tree: Tree, image: Image) -> list[str]:
    folders = [*elf.LOADED, *image.env.get("LD_LIBRARY_PATH", "").split(":")]
    confs = [f"/etc/ld.so.conf.d/{name}" for name in tree.names("/etc/ld.so.conf.d")]
    for path in ("/etc/ld.so.conf", *confs):
        lines = (tree.text(path) or "").splitlines()
        folders += [line.strip() for line in lines if line.startswith("/")]
    for place in ("/lib", "/usr/lib"):
        folders += [f"{place}/{n}" for n in tree.names(place) if "-linux-" in n]
    return [folder for folder in folders if folder]


def _files(tree: Tree) -> Files:
    """As the probe's ``files``, over the whole tree."""
    count = 0
    leftovers: list[Leftover] = []
    setuid, writable = [], []
    caches: dict[str, int] = {}
    for path, node in tree.walk():
        if path.startswith(tuple(f"{place}/" for place in OUTSIDE)):
            continue
        count += 1
        if node.is_link:
            continue
        mode = node.entry.mode
        if mode & 0o002 and not mode & 0o1000 and not f"{path}/".startswith(f"{MOUNTED}/"):
            writable.append(_legible(path))
        if node.is_dir and path.endswith(walk.CACHES):
            caches[path] = 0
        elif node.is_file:
            if mode & 0o6000:
                setuid.append(_legible(path))
            for cache in caches:
                if path.startswith(f"{cache}/"):
                    caches[cache] += node.entry.size
        if node.entry.leftover:
            kind = LeftoverKind(node.entry.leftover)
            leftovers.append(Leftover(_legible(path), kind, node.entry.size))
    leftovers += [Leftover(path, LeftoverKind.CACHE, size) for path, size in caches.items() if size]
    return Files(
        count,
        True,
        tuple(sorted(leftovers, key=lambda x: x.path)[: walk.MOST]),
        tuple(sorted(setuid)[: walk.MOST]),
        tuple(sorted(writable)[: walk.MOST]),
    )


def _legible(path: str) -> str:
    return path.encode("utf-8", "surrogateescape").decode(errors="backslashreplace")

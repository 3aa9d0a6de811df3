"""Finds the Python that an image's entry point runs, and where it looks for packages, by the files.

Sources: Python documentation, "site", "sys.path initialization"; PEP 405 (pyvenv.cfg).
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from splatgate.container.image import entry_script, interpreter
from splatgate.container.layers.tree import Tree
from splatgate.container.probe import code, elf
from splatgate.evidence import Image

#: PATH of an image that sets none (Moby, oci/defaults.go).
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: Modules that the interpreter runs at its start, where they are found.
SITE_FILES = ("sitecustomize.py", "usercustomize.py")


@dataclass(frozen=True)
class Python:
    """An interpreter. ``folders`` are those of its path that may hold packages."""

    path: str
    version: str
    machine: str
    folders: tuple[str, ...]
    #: What it runs before any program.
    startup: tuple[str, ...]


def environment(image: Image) -> dict[str, str]:
    """The environment that a container of the image starts with, but for what a host adds."""
    return {"PATH": PATH, **image.env}


def which(tree: Tree, image: Image, name: str) -> str | None:
    """The program that a name means, by PATH; None: there is none."""
    folders = environment(image)["PATH"].split(":")
    paths = [name] if "/" in name else [f"{f.rstrip('/')}/{name}" for f in folders if f]
    for path in paths:
        node = tree.find(posixpath.join(image.workdir, path))
        if node is not None and node.is_file and node.entry.mode & 0o111:
            return path
    return None


def first_line(tree: Tree, path: str) -> str:
    """The first line of a script, or ""."""
    node = tree.find(path)
    head = (node.entry.text or node.entry.head)[:256] if node is not None else b""
    return head.partition(b"\n")[0].decode(errors="replace").strip()


def find(tree: Tree, image: Image, program: str | None = None) -> Python | None:
    """An interpreter, the entry point's where none is named; None: it is not there."""
    if program is None:
        program = interpreter(image, first_line(tree, entry_script(image) or "/"))
    path = which(tree, image, program)
    if path is None:
        return None
    path = posixpath.join(image.workdir, path)
    real = tree.where(path)
    node = tree.find(real)
    base = posixpath.dirname(posixpath.dirname(real))
    settings = _venv(tree, path)
    minor = _minor(tree, real, base, settings)
    if node is None or minor is None:
        return None
    prefixes = [base]
    if settings is not None:
        prefixes = [posixpath.dirname(posixpath.dirname(path))]
        if settings.get("include-system-site-packages", "").lower() == "true":
            prefixes.append(base)
    given = [f for f in image.env.get("PYTHONPATH", "").split(":") if f.startswith("/")]
    folders, startup = _folders(tree, minor, prefixes, given)
    library = f"{base}/lib/python{minor}"
    startup += [
        f"{folder}/{name}"
        for folder in (*folders, library)
        for name in SITE_FILES
        if tree.find(f"{folder}/{name}") is not None
    ]
    return Python(
        path,
        _version(tree, image, minor, base, settings),
        elf.machine_of(node.entry.head) or "",
        tuple(folders),
        tuple(dict.fromkeys(startup)),
    )


def _venv(tree: Tree, path: str) -> dict[str, str] | None:
    """The settings of the virtual environment that a program stands in, or None."""
    folder = posixpath.dirname(path)
    for place in (folder, posixpath.dirname(folder)):
        if (text := tree.text(f"{place}/pyvenv.cfg")) is not None:
            pairs = (line.partition("=")[::2] for line in text.splitlines())
            return {key.strip().lower(): value.strip() for key, value in pairs}
    return None


def _minor(tree: Tree, real: str, base: str, settings: dict[str, str] | None) -> str | None:
    found = re.search(r"python(\d\.\d+)$", real)
    if found:
        return found.group(1)
    said = re.match(r"\d+\.\d+", (settings or {}).get("version", ""))
    if said:
        return said.group()
    names = [re.fullmatch(r"python(\d\.\d+)", n) for n in tree.names(f"{base}/lib")]
    every = [n.group(1) for n in names if n]
    return every[0] if len(every) == 1 else None


def _version(
    tree: Tree, image: Image, minor: str, base: str, settings: dict[str, str] | None
) -> str:
    """The full version, where something in the image names it."""
    said = [(settings or {}).get("version", ""), image.env.get("PYTHON_VERSION", "")]
    said += [n.removeprefix("python-") for n in tree.names(f"{base}/conda-meta")]
    status = tree.find("/var/lib/dpkg/status")
    packages = status.entry.packages if status is not None else None
    said += [p.version for p in packages or () if p.name == f"python{minor}-minimal"]
    for text in said:
        found = re.match(rf"{re.escape(minor)}\.\d+", text)
        if found:
            return found.group()
    return f"{minor}.0"


def _folders(
    tree: Tree, minor: str, prefixes: list[str], given: list[str]
) -> tuple[list[str], list[str]]:
    """Folders of packages, what .pth files add included, and the lines of theirs that are code."""
    sites = []
    for prefix in prefixes:
        sites += [f"{prefix}/{lib}/python{minor}/site-packages" for lib in ("lib", "lib64")]
        if prefix == "/usr":  # Debian's own: site.py of python3
            sites += [
                f"/usr/local/lib/python{minor}/dist-packages",
                "/usr/lib/python3/dist-packages",
                f"/usr/lib/python{minor}/dist-packages",
            ]
    folders, startup, seen = [], [], set()

    def add(folder: str) -> bool:
        where = tree.where(folder)
        node = tree.find(folder)
        if node is None or not node.is_dir or where in seen:
            return False
        seen.add(where)
        folders.append(folder)
        return True

    for folder in given:
        add(folder)
    for site in sites:
        if not add(site):
            continue
        for name in [n for n in tree.names(site) if n.endswith(".pth")]:
            for line in (tree.text(f"{site}/{name}") or "").splitlines():
                if line.startswith(("import ", "import\t")):
                    startup.append(f"{site}/{name}: {line[:200]}")
                elif line.strip() and not line.startswith("#"):
                    add(posixpath.normpath(posixpath.join(site, line.rstrip())))
    return folders, startup


def script(tree: Tree, image: Image, python: Python | None) -> str | None:
    """The Python script that an entry point runs in the end (as the probe's ``locate``)."""
    argv, folders = image.entrypoint, [image.workdir, *(python.folders if python else ())]
    for number, word in enumerate(argv):
        if word == "-m" and number + 1 < len(argv):
            return _module(tree, argv[number + 1], folders)
        if word.endswith(".py"):
            return posixpath.join(image.workdir, word)
    program = which(tree, image, argv[0]) if argv else None
    if program is None or not (first := first_line(tree, program)).startswith("#!"):
        return None
    if "python" in first:
        return program
    for path, module in code.IN_SHELL.findall(tree.text(program) or ""):
        if found := path or _module(tree, module, folders):
            return str(found)
    return None


def _module(tree: Tree, module: str, folders: list[str]) -> str | None:
    path = module.replace(".", "/")
    for folder in folders:
        for end in (".py", "/__main__.py", "/__init__.py"):
            if tree.find(found := posixpath.join(folder, path + end)) is not None:
                return found
    return None

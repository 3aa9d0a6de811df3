"""A testinfra backend that answers from an image's layers.

testinfra's modules ask by a small language of shell commands (`test -e %s`, `stat -Lc %%a %s`,
`dpkg-query …`); each is answered here as the program would over the merged tree, so that the
modules themselves are testinfra's own. What needs a process is not verified.
"""

from __future__ import annotations

import json
import posixpath
import re
import stat
from collections.abc import Callable, Iterable
from typing import Any

from packaging.utils import canonicalize_name
from testinfra.backend.base import CommandResult

from splatgate.container.backends import Recording, ReplayBackend
from splatgate.container.layers.contents import distributions, installed
from splatgate.container.layers.packages import RPM_OLDER
from splatgate.container.layers.python import environment, which
from splatgate.container.layers.tree import UNTOLD, Node, TooManyLinks, Tree
from splatgate.evidence import Command, Image, Package
from splatgate.evidence.missing import NotVerified

#: `uname -m` of the platforms that images name.
MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "386": "i686", "arm": "armv7l"}

#: Patterns of grep that mean the same to Python: characters, sets, and repeats of them.
BASIC = re.compile(r"\^?(?:(?:[^\\\[\]*^$\n]|\[\^?[^\]\[\\^]+\])\*?)*\$?")

Answer = tuple[int, bytes]
YES, NO = (0, b""), (1, b"")


class LayersBackend(ReplayBackend):
    """Answers from layers; each answer is recorded, as one from a container is.

    Args:
        image: whose layers they are.
        tree: the layers merged, with what a job mounts over them hidden.
        recording: where answers are kept.
    """

    NAME = "splatgate-layers"

    def __init__(self, image: Image, tree: Tree, recording: Recording) -> None:
        super().__init__(image.ref, recording)
        self.image, self.tree = image, tree

    def run(self, command: str, *args: str, **kwargs: Any) -> CommandResult:
        """Answer one of testinfra's own questions.

        Raises:
            NotVerified: it needs a process.
        """
        text = self.get_command(command, *args)
        status, out = self._answer(command, args, text)
        if self.recording.find(text) is None:
            self.recording.add(Command(text, status, self.decode(out), "", 0.0))
        return CommandResult(self, status, text.encode(), out, b"")

    def decode(self, data: bytes) -> str:
        """Bytes as text, as they are recorded of a container too."""
        return data.decode(errors="backslashreplace")

    def _answer(self, command: str, args: tuple[str, ...], text: str) -> Answer:
        if command not in ANSWERS:
            raise NotVerified(f"needs a running container: {text}")
        return ANSWERS[command](self, *args)

    def node(self, path: str) -> Node | None:
        """What is at a path, links followed."""
        return self.tree.find(path)

    def lines(self, path: str) -> list[list[str]]:
        """The records of a file such as /etc/passwd."""
        text = self.tree.text(path) or ""
        return [line.split(":") for line in text.splitlines() if line and line[0] not in "#+-"]

    def record(self, path: str, name: str) -> list[str] | None:
        """One record, by its name or number."""
        for fields in self.lines(path):
            if fields[0] == name or (len(fields) > 2 and fields[2] == name):
                return fields
        return None

    def packages(self) -> tuple[Package, ...]:
        """Every installed package.

        Raises:
            NotVerified: they are in a database that is not read.
        """
        found = installed(self.tree)
        if not found and any(self.tree.find(path) for path in RPM_OLDER):
            raise NotVerified("needs a running container: rpm's database is of an older form")
        return found


def _test(check: Callable[[Node], bool]) -> Callable[[LayersBackend, str], Answer]:
    def answer(host: LayersBackend, path: str) -> Answer:
        node = host.node(path)
        return YES if node is not None and check(node) else NO

    return answer


def _kind(kind: int) -> Callable[[LayersBackend, str], Answer]:
    return _test(lambda node: node.entry.kind == kind)


def _executable(node: Node) -> bool:
    # Root may execute what anyone may, and enter every folder.
    return node.is_dir or bool(node.entry.mode & 0o111)


def _is_link(host: LayersBackend, path: str) -> Answer:
    node = host.tree.find(path.rstrip("/") or "/", last=False)
    return YES if node is not None and node.is_link else NO


def _stat(value: Callable[[LayersBackend, Node], object]) -> Callable[..., Answer]:
    def answer(host: LayersBackend, path: str) -> Answer:
        node = host.node(path)
        return NO if node is None else (0, f"{value(host, node)}\n".encode())

    return answer


def _name(path: str, number: int, host: LayersBackend) -> str:
    found = host.record(path, str(number))
    return found[0] if found else "UNKNOWN"


def _size(host: LayersBackend, node: Node) -> int:
    if not node.is_file:
        raise NotVerified("needs a running container: the size of a folder is its file system's")
    return node.entry.size


def _mtime(host: LayersBackend, node: Node) -> int:
    if node.entry.mtime == UNTOLD:
        raise NotVerified("needs a running container: no layer tells the time of this folder")
    return node.entry.mtime


def _content(host: LayersBackend, path: str, limit: int | None = None) -> Answer:
    node = host.node(path)
    if node is None or node.is_dir:
        return NO
    entry = node.entry
    if entry.text is not None:
        return 0, entry.text[:limit]
    if node.is_file and min(entry.size, entry.size if limit is None else limit) <= len(entry.head):
        return 0, entry.head[:limit]
    raise NotVerified(f"needs a running container: the content of {path} was not kept")


def _contains(host: LayersBackend, pattern: str, path: str) -> Answer:
    status, data = _content(host, path)
    if status:
        return 2, b""
    try:
        if not BASIC.fullmatch(pattern):
            raise re.error("not plain")
        # In grep's basic syntax these are characters like any other.
        ours = re.compile(re.sub(r"[+?(){}|]", r"\\\g<0>", pattern).encode())
    except re.error:
        raise NotVerified(f"needs a running container: grep's pattern {pattern!r}") from None
    found = any(ours.search(line) for line in data.removesuffix(b"\n").split(b"\n") if data)
    return YES if found else NO


def _sha256(host: LayersBackend, path: str) -> Answer:
    node = host.node(path)
    if node is None or not node.entry.sha256:
        return YES  # of a pipe's two programs the last one's status counts
    return 0, node.entry.sha256.hex().encode() + b"\n"


def _listdir(host: LayersBackend, path: str) -> Answer:
    try:
        node = host.tree.resolve(path)[1]
    except TooManyLinks:
        return 2, b""
    if node is None and host.tree.find(path, last=False) is None:
        return 2, b""
    names = host.tree.names(path) if node is not None and node.is_dir else [path]
    shown = ["".join(c if c.isprintable() else "?" for c in n) for n in names if n[:1] != "."]
    return 0, "".join(f"{name}\n" for name in shown).encode(errors="replace")


def _realpath(host: LayersBackend, path: str) -> Answer:
    try:
        where, node = host.tree.resolve(path)
    except TooManyLinks:
        return NO
    parent = host.tree.find(posixpath.dirname(where))
    return (0, f"{where}\n".encode()) if node or (parent and parent.is_dir) else NO


def _command(host: LayersBackend, name: str) -> Answer:
    # The shell's own words, of which testinfra asks for one.
    if name in ("command", "test", "cd", "echo", "exit", "export", "set", "type"):
        return 0, f"{name}\n".encode()
    found = which(host.tree, host.image, name)
    return (0, f"{found}\n".encode()) if found else (127, b"")


def _lsb(host: LayersBackend) -> Answer:
    if which(host.tree, host.image, "lsb_release"):
        raise NotVerified("needs a running container: lsb_release -a")
    return 127, b""


def _user(host: LayersBackend, name: str) -> list[str] | None:
    return host.record("/etc/passwd", name)


def _groups(host: LayersBackend, name: str) -> list[list[str]]:
    """A user's own group, and those that list it."""
    fields = _user(host, name) or ["", "", "", ""]
    every = host.lines("/etc/group")
    own = [g for g in every if g[2] == fields[3]] or [[fields[3], "", fields[3], ""]]
    return own + [g for g in every if g not in own and fields[0] in g[3].split(",")]


def _of_user(value: Callable[[LayersBackend, list[str]], str]) -> Callable[..., Answer]:
    def answer(host: LayersBackend, name: str) -> Answer:
        fields = _user(host, name)
        return NO if fields is None else (0, f"{value(host, fields)}\n".encode())

    return answer


def _whoami(host: LayersBackend) -> Answer:
    user = host.image.user.partition(":")[0] or "0"
    fields = _user(host, user)
    return (0, f"{fields[0]}\n".encode()) if fields else NO


def _getent(path: str, field: int | None = None) -> Callable[..., Answer]:
    def answer(host: LayersBackend, name: str) -> Answer:
        fields = host.record(path, name)
        if fields is None:
            return (2, b"") if field is None else YES
        return 0, ((":".join(fields) if field is None else fields[field]) + "\n").encode()

    return answer


def _everything(path: str) -> Callable[[LayersBackend], Answer]:
    return lambda host: (0, "".join(f"{':'.join(f)}\n" for f in host.lines(path)).encode())


def _package(form: Callable[[Package], str], missing: int = 1) -> Callable[..., Answer]:
    def answer(host: LayersBackend, name: str) -> Answer:
        wanted, _, machine = name.partition(":")
        for package in host.packages():
            if package.name == wanted and machine in ("", package.architecture):
                return 0, form(package).encode()
        return missing, b""

    return answer


def _environment(host: LayersBackend) -> Answer:
    pairs = [f"{name}={value}\0" for name, value in environment(host.image).items()]
    return 0, "".join(pairs).encode()


def _pip_show(host: LayersBackend, pip: str, name: str) -> Answer:
    found = {canonicalize_name(d.name): d for d in _of_pip(host, pip)}
    dist = found.get(canonicalize_name(name))
    return NO if dist is None else (0, f"Version: {dist.version}\n".encode())


def _pip_version(host: LayersBackend, pip: str, name: str) -> Answer:
    status, out = _pip_show(host, pip, name)
    return 0, out.removeprefix(b"Version: ") if status == 0 else b""


def _pip_list(host: LayersBackend, pip: str) -> Answer:
    listed = [{"name": d.name, "version": d.version} for d in _of_pip(host, pip)]
    return 0, json.dumps(listed).encode()


def _of_pip(host: LayersBackend, pip: str) -> Iterable[Any]:
    """The distributions of the interpreter that a pip belongs to; of the entry point's where it has
    no pip.
    """
    path = which(host.tree, host.image, pip)
    node = host.node(path) if path else None
    first = (node.entry.head if node else b"").partition(b"\n")[0].decode(errors="replace")
    python = first[2:].split(" ")[0] if first.startswith("#!") and "python" in first else None
    return distributions(host.tree, host.image, python)


def _in(number: int) -> Callable[[LayersBackend, list[str]], str]:
    return lambda _, fields: fields[number]


ANSWERS: dict[str, Callable[..., Answer]] = {
    "test -e %s": _test(lambda node: True),
    "test -f %s": _kind(stat.S_IFREG),
    "test -d %s": _kind(stat.S_IFDIR),
    "test -p %s": _kind(stat.S_IFIFO),
    "test -S %s": _kind(stat.S_IFSOCK),
    "test -x %s": _test(_executable),
    "test -L %s": _is_link,
    "realpath %s": _realpath,
    "stat -Lc %%U %s": _stat(lambda host, n: _name("/etc/passwd", n.entry.uid, host)),
    "stat -Lc %%u %s": _stat(lambda _, n: n.entry.uid),
    "stat -Lc %%G %s": _stat(lambda host, n: _name("/etc/group", n.entry.gid, host)),
    "stat -Lc %%g %s": _stat(lambda _, n: n.entry.gid),
    "stat -Lc %%a %s": _stat(lambda _, n: f"{n.entry.mode:o}"),
    "stat -Lc %%Y %s": _stat(_mtime),
    "stat -Lc %%s %s": _stat(_size),
    "sha256sum %s | cut -d ' ' -f 1": _sha256,
    "cat -- %s": _content,
    "head -c 128 %s": lambda host, path: _content(host, path, 128),
    "grep -qs -- %s %s": _contains,
    "ls -1 -q -- %s": _listdir,
    "command -v command": lambda host: _command(host, "command"),
    "command -v %s": _command,
    "uname -s": lambda host: (0, f"{host.image.os.capitalize()}\n".encode()),
    "uname -m": lambda host: (
        0,
        f"{MACHINES.get(host.image.architecture, host.image.architecture)}\n".encode(),
    ),
    "cat /etc/os-release": lambda host: _content(host, "/etc/os-release"),
    "cat /etc/redhat-release": lambda host: _content(host, "/etc/redhat-release"),
    "cat /etc/alpine-release": lambda host: _content(host, "/etc/alpine-release"),
    "lsb_release -a": _lsb,
    "cat /etc/passwd": lambda host: _content(host, "/etc/passwd"),
    "cat /etc/group": lambda host: _content(host, "/etc/group"),
    "env -0": _environment,
    "id -nu": _whoami,
    "id %s": _of_user(lambda _, fields: fields[0]),
    "id -u %s": _of_user(_in(2)),
    "id -g %s": _of_user(_in(3)),
    "id -ng %s": _of_user(lambda host, f: _groups(host, f[0])[0][0]),
    "id -G %s": _of_user(lambda host, f: " ".join(g[2] for g in _groups(host, f[0]))),
    "id -nG %s": _of_user(lambda host, f: " ".join(g[0] for g in _groups(host, f[0]))),
    "getent passwd": _everything("/etc/passwd"),
    "getent passwd %s": _getent("/etc/passwd"),
    "getent shadow %s": _getent("/etc/shadow"),
    "getent group": _everything("/etc/group"),
    "getent group %s": _getent("/etc/group"),
    "getent group %s | cut -d':' -f3": _getent("/etc/group", 2),
    "getent group %s | cut -d':' -f4": _getent("/etc/group", 3),
    "dpkg-query -f '${Status}' -W %s": _package(lambda p: "install ok installed"),
    "dpkg-query -f '${Status} ${Version}' -W %s": _package(
        lambda p: f"install ok installed {p.version}"
    ),
    "apk -e info %s": _package(lambda p: f"{p.name}\n"),
    "apk -e -v info %s": _package(lambda p: f"{p.name}-{p.version}\n"),
    "rpm -q --quiet %s 2>&1": _package(lambda p: ""),
    'rpm -q --queryformat="%%{VERSION}" %s': _package(lambda p: p.version.rpartition("-")[0]),
    'rpm -q --queryformat="%%{RELEASE}" %s': _package(lambda p: p.version.rpartition("-")[2]),
    "%s show %s": _pip_show,
    "%s show %s | grep Version: | cut -d' ' -f2": _pip_version,
    "%s list --no-index --format=json": _pip_list,
}

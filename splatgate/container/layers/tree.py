"""Layers merged into one tree, as the kernel's overlay shows them.

A whiteout removes what lower layers have, an opaque folder hides it, and neither touches what its
own layer brings (OCI image-spec, layer.md). Links are followed inside the root.
"""

from __future__ import annotations

import posixpath
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import msgspec

from splatgate.container.layers.entries import Entry, LayerContent, shown
from splatgate.evidence import BadInput

#: Links followed on the way to one file (Linux, path_resolution(7)).
MOST_LINKS = 40


#: Time of a folder that no layer lists by itself: that of its unpacking.
UNTOLD = -1


class TooManyLinks(OSError):
    """A path whose links lead in a circle."""


@dataclass
class Node:
    """A file of the merged tree, and the number of the layer that it comes from."""

    entry: Entry
    layer: int
    children: dict[str, Node] = field(default_factory=dict)

    @property
    def is_dir(self) -> bool:
        """Whether it is a folder."""
        return self.entry.kind == stat.S_IFDIR

    @property
    def is_link(self) -> bool:
        """Whether it is a symbolic link."""
        return self.entry.kind == stat.S_IFLNK

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.entry.kind == stat.S_IFREG


def _text(path: bytes) -> str:
    return path.decode("utf-8", "surrogateescape")


def _folder(path: str, layer: int) -> Node:
    raw = path.encode("utf-8", "surrogateescape")
    return Node(Entry(raw, stat.S_IFDIR, 0o755, 0, 0, 0, UNTOLD), layer)


class Tree:
    """The files of an image.

    Args:
        layers: from the base up.
        hidden: folders over which something is mounted: empty here.

    Raises:
        BadInput: a hard link leads nowhere.
    """

    def __init__(self, layers: Iterable[LayerContent], hidden: Iterable[str] = ()) -> None:
        self.root = _folder("", 0)
        for number, layer in enumerate(layers):
            self._add(number, layer)
        for path in hidden:
            found = self.find(path)
            if found is not None and found.is_dir:
                found.children.clear()

    def _add(self, number: int, layer: LayerContent) -> None:
        for raw in layer.opaque:
            if (folder := self._raw(_text(raw))) is not None:
                folder.children.clear()
        for raw in layer.removed:
            parent, _, name = _text(raw).rpartition("/")
            if (folder := self._raw(parent)) is not None:
                folder.children.pop(name, None)
        for entry in layer.entries:
            parent, _, name = _text(entry.path).rpartition("/")
            folder = self._parent(parent, number)
            if entry.kind == 0:
                target = self._raw(_text(entry.link), number)
                if target is None or target.is_dir:
                    raise BadInput(
                        f"layer {layer.digest}: {shown(entry.path)} is a hard link to "
                        f"{shown(entry.link)}, which is not there; build the image anew"
                    )
                linked = msgspec.structs.replace(target.entry, path=entry.path)
                folder.children[name] = Node(linked, target.layer)
                continue
            old = folder.children.get(name)
            node = Node(entry, number)
            if old is not None and old.is_dir and node.is_dir:
                node.children = old.children
            folder.children[name] = node

    def _parent(self, path: str, number: int) -> Node:
        """The folder that a layer's entry goes into, made where it is missing.

        A link of the same layer is followed, as tar does; over anything else of a lower layer a
        folder is laid, as overlay does.
        """
        node, done = self.root, ""
        parts = [p for p in path.split("/") if p]
        links = 0
        while parts:
            part = parts.pop(0)
            child = node.children.get(part)
            if child is not None and child.is_link and child.layer == number:
                links += 1
                if links > MOST_LINKS:
                    raise BadInput(f"layer: links in a circle at /{path}; build the image anew")
                target = _text(child.entry.link)
                whole = posixpath.normpath(posixpath.join("/", done, target)).strip("/")
                parts = [p for p in whole.split("/") if p and p != "."] + parts
                node, done = self.root, ""
                continue
            done = f"{done}/{part}".strip("/")
            if child is None or not child.is_dir:
                child = _folder(done, number)
                node.children[part] = child
            node = child
        return node

    def _raw(self, path: str, number: int | None = None) -> Node | None:
        """The node at a path, no link followed but those of the layer ``number``."""
        if number is not None:
            parent, _, name = path.rpartition("/")
            return self._parent(parent, number).children.get(name)
        node: Node | None = self.root
        for part in filter(None, path.split("/")):
            node = node.children.get(part) if node is not None else None
        return node

    def walk(self, path: str = "/") -> Iterator[tuple[str, Node]]:
        """Every file below a folder, the folder left out, with its path; no link is followed."""
        start = self.find(path)
        waiting = [(path.rstrip("/"), start)] if start is not None else []
        while waiting:
            where, folder = waiting.pop()
            for name, node in sorted(folder.children.items()):
                yield f"{where}/{name}", node
                if node.is_dir:
                    waiting.append((f"{where}/{name}", node))

    def resolve(self, path: str, *, last: bool = True) -> tuple[str, Node | None]:
        """Where a path leads inside the root, and what is there, or None.

        Args:
            path: from the root.
            last: whether a link at its end is followed too.

        Raises:
            TooManyLinks: its links lead in a circle.
        """
        parts = [p for p in path.split("/") if p]
        trail: list[tuple[str, Node]] = []
        links = 0
        while parts:
            part = parts.pop(0)
            if part == ".":
                continue
            if part == "..":
                if trail:
                    trail.pop()
                continue
            folder = trail[-1][1] if trail else self.root
            child = folder.children.get(part)
            if child is None:
                rest = [name for name, _ in trail] + [part, *parts]
                return posixpath.normpath("/" + "/".join(rest)), None
            if child.is_link and (parts or last):
                links += 1
                if links > MOST_LINKS:
                    raise TooManyLinks(path)
                target = _text(child.entry.link)
                if target.startswith("/"):
                    trail = []
                parts = [p for p in target.split("/") if p] + parts
                continue
            trail.append((part, child))
        where = "/" + "/".join(name for name, _ in trail)
        return where, trail[-1][1] if trail else self.root

    def find(self, path: str, *, last: bool = True) -> Node | None:
        """What is at a path, links followed; None: nothing, or links in a circle."""
        try:
            return self.resolve(path, last=last)[1]
        except TooManyLinks:
            return None

    def where(self, path: str) -> str:
        """Where a path leads; itself where its links lead in a circle."""
        try:
            return self.resolve(path)[0]
        except TooManyLinks:
            return path

    def text(self, path: str) -> str | None:
        """A file's text, where it was kept."""
        node = self.find(path)
        if node is None or node.entry.text is None:
            return None
        return node.entry.text.decode(errors="replace")

    def names(self, path: str) -> list[str]:
        """Names in a folder; none where there is no folder."""
        node = self.find(path)
        return sorted(node.children) if node is not None else []

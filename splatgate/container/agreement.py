"""Whether what an image says of itself is what its layers hold.

Layers are judged; an image that says something else of itself has site files that answer for it, or
was changed after its metadata was written. What the image keeps to itself is a contradiction only
where it was asked for everything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from packaging.utils import canonicalize_name

from splatgate.container.probe.walk import MOST
from splatgate.evidence import Contents, Facts

NONE = "none"


def contradictions(said: Facts, held: Contents) -> list[str]:
    """Each answer of an image's own Python that its layers do not bear out, with both answers."""
    found = [
        *_values(_versions(said), _versions(held)),
        *_values(
            {"gsplat's extension": said.gsplat_extension},
            {"gsplat's extension": _gsplat(held, said)},
        ),
        *_values(_libraries(said), _libraries(held)),
        *_values(_modes(said), {**_modes(said), **_modes(held)}),
        *_values(_packages(said), _packages(held)),
        *_sets("on PATH", said.compilers, held.compilers),
    ]
    a, b = said.files, held.files
    if a is not None and b is not None and a.complete:
        for what, ours, theirs in (
            ("setuid or setgid", a.setuid, b.setuid),
            ("writable by everyone", a.world_writable, b.world_writable),
        ):
            if max(len(ours), len(theirs)) < MOST:
                found += _sets(what, ours, theirs)
    return [f"the image's own Python says {a}, its layers say {b}" for a, b in found]


def _values(said: Mapping[str, object], held: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """What was said and is not so. What was not said was not asked."""
    for name, value in said.items():
        have = held.get(name)
        if value is not None and value != have:
            yield f"{name} {value}", NONE if have is None else str(have)


def _sets(what: str, said: Iterable[str], held: Iterable[str]) -> Iterator[tuple[str, str]]:
    a, b = set(said), set(held)
    if a != b:
        only_said, only_held = sorted(a - b), sorted(b - a)
        yield f"{what}: {', '.join(only_said[:5]) or NONE}", ", ".join(only_held[:5]) or NONE


def _versions(seen: Contents) -> dict[str, object]:
    """Versions by distribution and folder, and of Python and torch."""
    found: dict[str, set[str]] = defaultdict(set)
    for d in seen.distributions:
        found[f"{canonicalize_name(d.name)} in {d.folder}"].add(d.version)
    return {
        "Python": ".".join(seen.version.split(".")[:2]),
        "torch": seen.torch_version,
        "torch's CUDA": seen.torch_cuda,
        **{name: ", ".join(sorted(versions)) for name, versions in found.items()},
    }


def _gsplat(held: Contents, said: Facts) -> str | None:
    """The extension of the layers; the one said, where it is one of theirs."""
    theirs = {lib.path for lib in held.libraries}
    return said.gsplat_extension if said.gsplat_extension in theirs else held.gsplat_extension


def _libraries(seen: Contents) -> dict[str, object]:
    return {
        lib.path: f"{lib.machine}, machine code {list(lib.cubins)}, PTX {list(lib.ptx)}"
        for lib in seen.libraries
    }


def _modes(seen: Contents) -> dict[str, object]:
    """Modes of the trainer's own files."""
    modes = {f"mode of {s.path}": f"{s.mode:o}" for s in seen.sources}
    if seen.entry_script and seen.entry_script_mode is not None:
        modes[f"mode of {seen.entry_script}"] = f"{seen.entry_script_mode:o}"
    return dict(modes)


def _packages(seen: Contents) -> dict[str, object]:
    return {
        f"package {p.name}:{p.architecture}": p.version for p in seen.packages if p.kind == "deb"
    }

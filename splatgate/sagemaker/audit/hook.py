"""Tells what an interpreter does: a line of JSON on standard error for each thing it reaches for.

Laid into a job as ``sitecustomize.py``, for a run beside the plain one, whose verdict counts. It
hears Python's own audit events (PEP 578): connections, lookups, processes, files opened that are
not of the interpreter or of other people's packages. Native code raises none, and is not seen.
Python 3.8 syntax, standard library alone.
"""

import json
import os
import sys
from _thread import get_ident

MARK = "splatgate-audit "
#: Event of the interpreter → what it is called here, and which of its arguments says of what.
HEARD = {
    "socket.connect": ("connect", 1),
    "socket.sendto": ("connect", 1),
    "socket.sendmsg": ("connect", 1),
    "socket.getaddrinfo": ("lookup", 0),
    "socket.gethostbyname": ("lookup", 0),
    "socket.gethostbyaddr": ("lookup", 0),
    "subprocess.Popen": ("process", 1),
    "os.system": ("process", 0),
    "os.exec": ("process", 1),
    "os.posix_spawn": ("process", 1),
    "open": ("open", 0),
}
#: Folders whose files nobody asks about; the interpreter's own come to them.
QUIET = ("/proc/", "/sys/", "/dev/", os.path.dirname(os.__file__) + "/")
PACKAGES = ("/site-packages/", "/dist-packages/")
#: Longer would not reach a log in one piece.
LONGEST = 1000


def main():
    """Begin to listen, then make room for a sitecustomize of the image's own."""
    try:
        log = os.dup(2)
    except OSError:
        return
    seen, busy = set(), set()

    def tell(**what):
        try:
            os.write(log, (MARK + json.dumps(what, sort_keys=True) + "\n").encode())
        except OSError:
            pass

    def hear(event, given):
        kind, which = HEARD.get(event, ("", 0))
        thread = get_ident()
        if not kind or thread in busy:
            return
        busy.add(thread)
        try:
            what = of(kind, given[which])
            if what and (kind, what) not in seen:
                seen.add((kind, what))
                tell(event=kind, what=what[:LONGEST], at=place())
        except Exception as error:  # the trainer must not notice
            tell(event="error", what=repr(error)[:LONGEST], at=event)
        finally:
            busy.discard(thread)

    if hasattr(sys, "addaudithook"):
        tell(event="start", what=sys.version.split()[0], at="native code is not seen")
        sys.addaudithook(hear)
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [p for p in sys.path if os.path.abspath(p or ".") != here]
    ours = sys.modules.pop("sitecustomize")
    try:
        import sitecustomize  # noqa: F401
    except ModuleNotFoundError:
        sys.modules["sitecustomize"] = ours


def of(kind, value):
    """What an event is about, as text; "" where it is nobody's business."""
    if kind == "open":
        if not isinstance(value, (str, bytes, os.PathLike)):
            return ""
        path = os.path.abspath(os.fsdecode(value))
        if path.startswith(QUIET) or path.endswith(".py") or ".pyc" in path or in_packages(path):
            return ""
        return os.path.realpath(path)
    if kind == "process":
        words = value if isinstance(value, (list, tuple)) else [value]
        return " ".join(os.fsdecode(word) for word in words)
    if isinstance(value, tuple):
        return ":".join(str(part) for part in value[:2])
    # A path, or None: a socket of this machine.
    name = os.fsdecode(value) if isinstance(value, (str, bytes)) else ""
    return "" if kind == "connect" else name


def in_packages(path):
    """Whether a file is of other people's packages."""
    return any(part in path for part in PACKAGES)


def place():
    """File and line of the trainer's own that led here, else of the package that did."""
    frame, found = sys._getframe(2), ""
    while frame is not None:
        path = frame.f_code.co_filename
        if not path.startswith(("<",) + QUIET) or in_packages(path):
            line = "%s:%d" % (path, frame.f_lineno)
            if not in_packages(path):
                return line
            found = found or line
        frame = frame.f_back
    return found


if __name__ == "sitecustomize":
    main()

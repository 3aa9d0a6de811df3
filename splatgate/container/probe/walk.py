"""What lies in the image's whole file system: leftovers, setuid files, drivers, packages.

Part of the probe: runs in the subject, with the standard library alone.
"""

import os
import re
import stat
import time

#: The walk over all files ends after this long (seconds); the answer says when it was cut short.
WALK = 60.0
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
#: The host's driver, which the NVIDIA container runtime mounts; and the runtime of CUDA.
DRIVER_FILE = re.compile(r"(?:libcuda|libnvidia-[\w-]+|libnvcuvid|libnvoptix)\.so(?:\.|$)")
RUNTIME_FILE = re.compile(r"libcudart\.so\.\d+(?:\.|$)")
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


def kind_of(path, name, mode, read=None):
    """What a file is that an image should ship with care or not at all (`evidence.Leftover`); or
    None. ``read`` gives the first characters of a file that is not at its path here.
    """
    read = read or text
    if stat.S_ISDIR(mode):
        # A submodule's .git is a file of one line, and holds no history.
        return "git" if name == ".git" else None
    if not stat.S_ISREG(mode):
        return None
    if name.startswith("="):
        return "redirected"
    if DRIVER_FILE.match(name) and not path.endswith("/stubs/" + name):
        return "compat" if "/compat/" in path else "driver"
    if RUNTIME_FILE.match(name):
        return "cudart"
    if path.endswith("/bin/nvcc"):
        return "toolkit"
    if path.endswith(CREDENTIALS):
        return "credentials"
    if KEY.search(path) and KEY_TEXT.search(read(path, 4096) or ""):
        return "credentials"
    if CONFIGURATION.search(path) and PASSWORD_TEXT.search(read(path, 65536) or ""):
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

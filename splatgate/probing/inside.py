"""The program of a probe job: writes down what a training host gives a container, then ends.

Sent as hyperparameters and run by the image's own interpreter, with the standard library alone.
Python 3.8 syntax, for any image; no annotations. Hyperparameter ``end`` says how it ends: ``stop``
waits for SIGTERM and exits with 7, ``fail`` exits with 7 and a failure text that is too long,
``empty`` exits with 0 and leaves no model.
"""

import json
import os
import platform
import resource
import signal
import subprocess
import sys
import time

ML = "/opt/ml"
BEGAN = time.time()
#: Variables whose values are written down; of all others only the names are.
TOLD = (
    *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_EXECUTION_ENV", "CURRENT_HOST", "PATH"),
    *("NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES", "NVIDIA_REQUIRE_CUDA"),
    *("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH"),
)
#: Longer than any limit of a probe job, seconds.
PATIENCE = 3600
MOST_FILES = 500


def read(path):
    """A file's text, or None."""
    try:
        with open(path, errors="replace") as file:
            return file.read().strip()
    except OSError:
        return None


def ask(*command):
    """What a program says, both streams, or why it does not run."""
    try:
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120
        )
        return "exit %d: %s" % (done.returncode, done.stdout.decode(errors="replace")[:8000])
    except Exception as error:
        return "%s: %s" % (type(error).__name__, error)


def may_write(folder):
    """``yes``, or why a file cannot be made there."""
    path = os.path.join(folder, ".probe")
    try:
        with open(path, "w"):
            pass
        os.unlink(path)
    except OSError as error:
        return error.strerror
    return "yes"


def room(path):
    """Bytes of a file system, and those free."""
    try:
        found = os.statvfs(path)
    except OSError:
        return None
    return [found.f_frsize * found.f_blocks, found.f_frsize * found.f_bavail]


def tree(root):
    """Mode, owner and size of what lies below a folder, by path."""
    found = {}
    for folder, folders, files in os.walk(root):
        for name in folders + files:
            path = os.path.join(folder, name)
            if len(found) < MOST_FILES:
                status = os.lstat(path)
                mode = oct(status.st_mode & 0o7777)
                found[path] = [mode, status.st_uid, status.st_gid, status.st_size]
    return found


def saw():
    """Everything that is looked at."""
    data = ML + "/input/data"
    channels = [data + "/" + name for name in os.listdir(data)] if os.path.isdir(data) else []
    own = [ML + name for name in ("/model", "/output", "/output/data", "/checkpoints")]
    places = ["/", "/tmp", ML, "/dev/shm"] + own + channels
    limits = [name for name in dir(resource) if name.startswith("RLIMIT_")]
    status = dict(
        line.split(":", 1) for line in (read("/proc/self/status") or "").splitlines() if ":" in line
    )
    cgroup = (
        *("memory.max", "pids.max", "cpu.max"),
        *("memory/memory.limit_in_bytes", "pids/pids.max", "cpu/cpu.cfs_quota_us"),
    )
    return {
        "argv": sys.argv,
        "python": platform.python_version(),
        "kernel": platform.release(),
        "environment": sorted(os.environ),
        "values": {name: os.environ[name] for name in TOLD if name in os.environ},
        "pid": os.getpid(),
        "init": (read("/proc/1/cmdline") or "").replace("\0", " ").strip(),
        "uid": os.getuid(),
        "gid": os.getgid(),
        "cwd": os.getcwd(),
        "capabilities": status.get("CapEff", "").strip(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "cgroup": {name: read("/sys/fs/cgroup/" + name) for name in cgroup},
        "limits": {name: resource.getrlimit(getattr(resource, name)) for name in limits},
        "mounts": [line.split()[:4] for line in (read("/proc/mounts") or "").splitlines()],
        "room": {path: room(path) for path in places},
        "write": {path: may_write(path) for path in ["/tmp"] + own + channels},
        "channels": channels,
        "tree": tree(ML),
        "network": sorted(os.listdir("/sys/class/net")),
        "driver": read("/proc/driver/nvidia/version"),
        "devices": sorted(name for name in os.listdir("/dev") if name.startswith("nvidia")),
        "nvidia_smi": ask("nvidia-smi"),
        "torch": ask(
            sys.executable,
            "-c",
            "import torch as t; print(t.__version__, t.version.cuda, t.cuda.is_available(), "
            "t.cuda.is_available() and t.cuda.get_device_properties(0))",
        ),
    }


def write(name, value):
    """A JSON file of the model."""
    with open(ML + "/model/" + name, "w") as file:
        json.dump(value, file)


def stopped(number, frame):
    """SIGTERM: say when, and fail all the same."""
    print("probe: SIGTERM after %.1f s" % (time.time() - BEGAN), flush=True)
    write("stopped.json", {"seconds": time.time() - BEGAN})
    os._exit(7)


def main():
    """Look, write it down, and end as asked."""
    with open(ML + "/input/config/hyperparameters.json") as file:
        end = json.load(file)["end"]
    signal.signal(signal.SIGTERM, stopped)
    print("probe: looking", flush=True)
    found = saw()
    print("probe: saw " + json.dumps(found), flush=True)
    if end == "empty":
        sys.exit(0)
    write("saw.json", found)
    os.symlink("saw.json", ML + "/model/link")
    if end == "fail":
        with open(ML + "/output/failure", "w") as file:
            file.write("probe " + "x" * 1200)
        sys.exit(7)
    print("probe: waiting for SIGTERM", flush=True)
    time.sleep(PATIENCE)
    sys.exit(8)


main()

"""A subject that reports what it saw and then does what the hyperparameter ``do`` says, in order.

Runs inside the probe image, on the standard library alone; what it prints is the job's log.
"""
# ruff: noqa: T201, E501

import json
import os
import signal
import sys
import time

ML = "/opt/ml"


def read(path):
    try:
        with open(path) as file:
            return json.load(file)
    except OSError as error:
        return error.strerror


def tree(root):
    found = {}
    for folder, folders, files in os.walk(root):
        for name in [*folders, *files]:
            path = os.path.join(folder, name)
            status = os.lstat(path)
            found[path] = [oct(status.st_mode & 0o7777), status.st_uid, status.st_gid]
    return found


def may_write(folder):
    try:
        with open(os.path.join(folder, ".probe"), "w"):
            pass
        os.unlink(os.path.join(folder, ".probe"))
    except OSError as error:
        return error.strerror
    return "yes"


def size_of(path):
    found = os.statvfs(path)
    return found.f_frsize * found.f_blocks


def cgroup(*paths):
    for path in paths:
        try:
            with open(path) as file:
                return file.read().strip()
        except OSError:
            continue
    return None


def saw():
    config = f"{ML}/input/config"
    shm = os.statvfs("/dev/shm")
    data = f"{ML}/input/data"
    return {
        "argv": sys.argv,
        "env": dict(os.environ),
        "pid": os.getpid(),
        "uid": os.getuid(),
        "cwd": os.getcwd(),
        "config": {name[:-5]: read(f"{config}/{name}") for name in sorted(os.listdir(config))},
        "tree": tree(ML),
        "write": {
            path: may_write(path)
            for path in [
                f"{ML}/model",
                f"{ML}/output",
                f"{ML}/output/data",
                f"{ML}/checkpoints",
                "/tmp",
                *(os.path.join(data, name) for name in os.listdir(data)),
            ]
        },
        "disk": {path: size_of(path) for path in (ML, "/tmp")},
        "tmp": oct(os.stat("/tmp").st_mode & 0o7777),
        "shm": shm.f_frsize * shm.f_blocks,
        "memory": cgroup(
            "/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory.max"
        ),
        "pids": cgroup("/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/pids.max"),
        "network": sorted(os.listdir("/sys/class/net")),
    }


def write(path, text):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)


def on_term(number, frame):
    print("term seen", flush=True)
    write(f"{ML}/model/stopped.ply", "saved")
    sys.exit(0)


def act(word, value):
    if word == "model":
        write(f"{ML}/model/point_cloud.ply", "ply\n")
        write(f"{ML}/model/more/metrics.json", "{}")
    elif word == "links":
        os.symlink("/etc/passwd", f"{ML}/model/absolute")
        os.symlink("point_cloud.ply", f"{ML}/model/beside")
        os.link(f"{ML}/model/point_cloud.ply", f"{ML}/model/twice.ply")
        os.mkfifo(f"{ML}/model/pipe")
        write(os.fsdecode(b"/opt/ml/model/not-utf8-\xff"), "x")
        os.chmod(f"{ML}/model/more/metrics.json", 0o600)
    elif word == "output":
        write(f"{ML}/output/data/note.txt", "note")
    elif word == "checkpoint":
        before = sorted(os.listdir(f"{ML}/checkpoints"))
        print("checkpoints", json.dumps(before), flush=True)
        write(f"{ML}/checkpoints/step-{len(before)}.pt", "state")
    elif word == "outside":
        write("/var/lib/trainer/cache/a.bin", "x")
        write("/tmp/scratch.txt", "x")
        write(f"{ML}/code/extra.py", "x")
        write(f"{ML}/input/config/hyperparameters.json", "{}")
    elif word == "failure":
        write(f"{ML}/output/failure", value)
    elif word == "exit":
        sys.exit(int(value))
    elif word == "say":
        print(value, flush=True)
    elif word == "streams":
        print("to stdout", flush=True)
        print("to stderr", file=sys.stderr, flush=True)
        print("x" * 40000, flush=True)
        print("a\rb\rc", flush=True)
        sys.stdout.write("no end of line")
        sys.stdout.flush()
    elif word == "term":
        if value == "save":
            signal.signal(signal.SIGTERM, on_term)
        elif value == "ignore":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif word == "hang":
        print("hanging", flush=True)
        while True:
            time.sleep(0.1)
    elif word == "wait":
        if len(os.listdir(f"{ML}/checkpoints")) < int(value):
            act("hang", "")
    elif word == "fill":
        try:
            with open(value, "wb") as file:
                for _ in range(256):
                    file.write(bytes(1024 * 1024))
            print("filled", value, "not full", flush=True)
        except OSError as error:
            print("filled", value, error.strerror, flush=True)
    elif word == "eat":
        held = []
        while True:
            held.append(bytearray(8 * 1024 * 1024))
    elif word == "kill":
        # As PID 1 no signal of its own kills it: the exit status of a process that was killed otherwise.
        os._exit(137)


def main():
    print("saw", json.dumps(saw()), flush=True)
    given = read(f"{ML}/input/config/hyperparameters.json")
    do = given.get("do") if isinstance(given, dict) else None
    for step in json.loads(do or os.environ.get("DO", "[]")):
        word, _, value = step.partition(" ")
        act(word, value)


main()

"""Finds and removes what a run has left in the engine.

Everything that a run makes carries its labels.
"""

from __future__ import annotations

import glob
import os
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Which run made it, and which process controls that run.
RUN_LABEL = "splatgate.sources.run"
CONTROLLER_LABEL = "splatgate.controller"
#: Containers first, for they hold the others.
KINDS = ("containers", "volumes", "networks")
#: Seconds that the engine may take for a removal that it has begun.
REMOVAL = 20.0


def controller() -> str:
    """This process as a label: ``HOSTNAME:PID:STARTTIME``.

    STARTTIME (clock ticks since boot, /proc/PID/stat) tells a process from a later one of the same
    number; it is empty where there is no /proc.
    """
    return f"{socket.gethostname()}:{os.getpid()}:{_start_time(os.getpid())}"


def labels(run_id: str) -> dict[str, str]:
    """Labels for everything that this process makes for run ``run_id``."""
    return {RUN_LABEL: run_id, CONTROLLER_LABEL: controller()}


def _start_time(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return ""
    # The second field is the program's name in parentheses, and may itself hold spaces and
    # parentheses.
    return text.rpartition(")")[2].split()[19]


def is_gone(label: str) -> bool:
    """Whether the process of a controller label has ended.

    False where this machine cannot know: another host's label, or one that does not parse. What is
    kept wrongly can be removed by hand; what is removed wrongly ends another person's run.
    """
    host, _, rest = label.rpartition(":")[0].rpartition(":")
    start = label.rpartition(":")[2]
    if host != socket.gethostname() or not rest.isdecimal() or int(rest) < 1:
        return False
    try:
        os.kill(int(rest), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    now = _start_time(int(rest))
    return bool(start and now and start != now)


def found(client: Any, label: str) -> dict[str, list[Any]]:
    """What the engine holds that has a label, by kind."""
    query = {"label": label}
    return {
        # ignore_removed: a container may vanish between the list and the look.
        "containers": client.containers.list(all=True, filters=query, ignore_removed=True),
        "volumes": client.volumes.list(filters=query),
        "networks": client.networks.list(filters=query),
    }


def leftovers(client: Any, run_id: str) -> dict[str, list[str]]:
    """Names of what the engine holds of run ``run_id``, by kind; three empty lists when clean."""
    held = found(client, f"{RUN_LABEL}={run_id}")
    return {kind: sorted(item.name for item in held[kind]) for kind in KINDS}


def sweep(client: Any, run_id: str) -> dict[str, list[str]]:
    """Remove everything of run ``run_id`` and return the names of what was removed, by kind.

    What cannot be removed is left for ``leftovers`` to report; that is no error here.
    """
    return _remove(found(client, f"{RUN_LABEL}={run_id}"), lambda _: True)


def sweep_stale(client: Any, run_id: str | None = None) -> dict[str, list[str]]:
    """Remove what runs have left whose controller is gone (killed without a chance to tidy up).

    ``run_id`` confines this to one run.
    """
    label = CONTROLLER_LABEL if run_id is None else f"{RUN_LABEL}={run_id}"
    return _remove(found(client, label), lambda labels: is_gone(labels.get(CONTROLLER_LABEL, "")))


def sweep_folders(parent: Path, prefix: str) -> None:
    """Remove the folders PREFIXCONTROLLER.… that processes which are gone have left in ``parent``.

    They are temporary: a process that ends of itself removes its own.
    """
    for path in parent.glob(f"{glob.escape(prefix)}*"):
        if is_gone(path.name.removeprefix(prefix).rpartition(".")[0]):
            shutil.rmtree(path, ignore_errors=True)


def _remove(
    held: dict[str, list[Any]], wanted: Callable[[dict[str, str]], bool]
) -> dict[str, list[str]]:
    return {
        kind: sorted(item.name for item in held[kind] if wanted(labels_of(item)) and discard(item))
        for kind in KINDS
    }


def labels_of(item: Any) -> dict[str, str]:
    """Labels of a container, volume or network."""
    attrs = item.attrs
    config = attrs.get("Config") or {}
    return attrs.get("Labels") or config.get("Labels") or {}


def discard(item: Any) -> bool:
    """Remove one container (with its anonymous volumes), volume or network.

    Returns False if it is still there.
    """
    import docker.errors

    try:
        item.remove(**_options(item))
    except docker.errors.NotFound:
        return True
    except docker.errors.APIError as error:
        # A container that ended by itself may be about to be removed: the engine is on it.
        return "in progress" in str(error.explanation) and _gone(item)
    return True


def _gone(item: Any) -> bool:
    """Wait for the engine to have removed something."""
    import docker.errors

    deadline = time.monotonic() + REMOVAL
    while time.monotonic() < deadline:
        try:
            item.reload()
        except docker.errors.NotFound:
            return True
        time.sleep(0.1)
    return False


def _options(item: Any) -> dict[str, bool]:
    if hasattr(item, "status"):
        return {"force": True, "v": True}
    return {"force": True} if "Mountpoint" in item.attrs else {}

"""The container under test: one for a run, as SageMaker would start it but holding still to be
looked at.
"""

from __future__ import annotations

import io
import json
import shlex
import tarfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from splatgate.container import probe as looking
from splatgate.container.backends import TIMEOUT, LookFailed, execute
from splatgate.container.image import LABEL_SUBJECT, entry_script, interpreter, names_python
from splatgate.evidence import BadInput, Command, Facts, Image, from_json
from splatgate.evidence.gpu import report
from splatgate.evidence.missing import CannotLook, NotVerified
from splatgate.expectations import NEVER_STARTED, WRITABLE

#: The container ends by itself after this long, should nobody be left to remove it (seconds).
LIFETIME = 5400
#: The probe imports torch up to three times; on two slow cores that takes half a minute.
PROBE_TIMEOUT = 300.0
#: Exit status, as of timeout(1), of a start that did not end.
TIMED_OUT = 124
#: Directories that SageMaker mounts, root-owned, below /opt/ml (contract 2.1).
MOUNTED = tuple(path for path in WRITABLE if path.startswith("/opt/ml/"))
#: What SageMaker itself sets (contract 3.1).
ENVIRONMENT = {
    "TRAINING_JOB_NAME": "splatgate-look",
    "TRAINING_JOB_ARN": "arn:aws:sagemaker:us-west-2:123456789012:training-job/splatgate-look",
}


def _folders(below: str) -> bytes:
    """SageMaker's folders as an archive, root-owned 0755, to be unpacked at ``below``."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for path in ("/opt/ml/input", "/opt/ml/input/config", "/opt/ml/input/data", *MOUNTED):
            entry = tarfile.TarInfo(path.removeprefix(below))
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
    return archive.getvalue()


def start(client: Any, image: Image, labels: Mapping[str, str]) -> str:
    """Start the container under test and return its id.

    /opt/ml is shadowed by an empty volume with SageMaker's directories, root-owned 0755; no
    network; only SageMaker's environment and the image's own.

    Raises:
        NotVerified: there is no /bin/sh in it, to look through.
        CannotLook: it does not start. What is left of it in the engine goes with the run.
    """
    import docker.errors
    from docker.types import Mount

    volume = client.volumes.create(labels=dict(labels))
    container = client.containers.create(
        image.image_id,
        entrypoint=["/bin/sh", "-c", f"sleep {LIFETIME}"],
        environment=ENVIRONMENT,
        labels=dict(labels),
        network_mode="none",
        platform="linux/amd64",
        auto_remove=True,
        mounts=[Mount("/opt/ml", volume.name, no_copy=True)],
        tmpfs={},
    )
    container.put_archive("/opt/ml", _folders("/opt/ml/"))
    try:
        container.start()
    except docker.errors.APIError as error:
        text = str(error.explanation or error)
        if "/bin/sh" in text:
            raise NotVerified("no /bin/sh in the image, through which Splatgate looks") from None
        raise CannotLook(f"image {image.ref}: {text}") from None
    return str(container.id)


def hardened(client: Any, image: Image, labels: Mapping[str, str]) -> Command:
    """Run the entry point with `train` on a read-only root, without capabilities and new
    privileges; /opt/ml and /tmp may be written, as in a job.
    """
    from docker.types import Mount

    volume = client.volumes.create(labels=dict(labels))
    container = client.containers.create(
        image.image_id,
        command=["train"],
        environment=ENVIRONMENT,
        labels=dict(labels),
        network_mode="none",
        platform="linux/amd64",
        read_only=True,
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        mounts=[Mount("/opt/ml", volume.name, no_copy=True)],
        tmpfs={"/tmp": ""},
    )
    started = time.monotonic()
    try:
        container.put_archive("/opt/ml", _folders("/opt/ml/"))
        container.start()
        while container.status != "exited" and time.monotonic() - started < TIMEOUT:
            time.sleep(0.2)
            container.reload()
        out, err = (
            container.logs(stdout=stdout, stderr=not stdout).decode(errors="backslashreplace")
            for stdout in (True, False)
        )
        status = container.attrs["State"]["ExitCode"] if container.status == "exited" else TIMED_OUT
    finally:
        container.remove(force=True, v=True)
    return Command("train", status, out, err, round(time.monotonic() - started, 3))


def _interpreter(container: str, image: Image) -> str:
    first = ""
    if not names_python(image) and (script := entry_script(image)):
        first = execute(container, ["/bin/sh", "-c", f"head -n 1 {shlex.quote(script)}"]).stdout
    return interpreter(image, first)


def probe(container: str, image: Image, script: str | None = None) -> Facts:
    """Feed the probe to the image's interpreter and read what it prints.

    Args:
        container: id of a running container.
        image: what it was started from.
        script: the entry script, where a subject profile names it.

    Raises:
        NotVerified: the image has no Python.
        LookFailed: the probe did not run to its end.
    """
    ask = {
        "entrypoint": list(image.entrypoint),
        "workdir": image.workdir,
        "entry_script": script,
        "paths": list(WRITABLE),
        "subject": image.labels.get(LABEL_SUBJECT),
    }
    python = _interpreter(container, image)
    answer = execute(
        container,
        [python, *looking.ISOLATED, "-", json.dumps(ask)],
        stdin=looking.text(),
        timeout=PROBE_TIMEOUT,
    )
    last = (answer.stderr.strip().splitlines() or [f"exit status {answer.status}"])[-1]
    if answer.status in NEVER_STARTED:
        raise NotVerified(f"no Python in the image ({python}: {last[:200]}), by which it is seen")
    if answer.status != 0:
        raise LookFailed(f"the probe failed in {python}: {last}")
    return from_json(answer.stdout.encode(), Facts, "the probe's answer")


def on_gpu(
    client: Any, image: Image, command: Sequence[str], labels: Mapping[str, str]
) -> dict[str, Any]:
    """What a self-test of kernels prints, run in the image with the engine's GPU and no network.

    Raises:
        CannotLook: it does not start, or fails.
    """
    import docker.errors
    from docker.types import DeviceRequest

    container = client.containers.create(
        image.image_id,
        entrypoint=list(command),
        environment=ENVIRONMENT,
        labels=dict(labels),
        network_mode="none",
        device_requests=[DeviceRequest(count=1, capabilities=[["gpu"]])],
    )
    try:
        container.start()
        status = container.wait(timeout=PROBE_TIMEOUT)["StatusCode"]
        return report(container.logs(stdout=True, stderr=False).decode(), f"exit {status}")
    except (docker.errors.APIError, OSError, BadInput) as error:
        raise CannotLook(f"the kernels' self-test: {error}") from None
    finally:
        container.remove(force=True)

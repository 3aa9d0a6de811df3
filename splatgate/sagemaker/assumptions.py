"""What SageMaker does not document, as this host does it; and what it documents and nothing here
does.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any

from splatgate.evidence import BadInput

MIB = 1024**2
GIB = 1024**3


def _assume(default: Any, row: str, *says: str) -> Any:
    """A field whose value the contract leaves open: its row there, and what each value means.

    ``says`` is the text for False (or an empty text) and the one for anything else; a single text
    serves all values. ``{}`` stands for the value, ``{mib}`` for bytes as MiB.
    """
    return field(default=default, metadata={"row": row, "says": says})


#: Assumed, and only one way of it is emulated.
FIXED = (
    "1.1 no privileges, capabilities or devices beyond the engine's defaults",
    "1.3 exit 0 with an empty model: Completed",
    "1.3 words after ClientError: the engine's or this host's own",
    "1.4 MaxRuntimeInSeconds counts the container's running time, over all attempts together",
    "1.4 time limit of the upload: none",
    "1.5 log streams: a new one for each container that a job starts",
    "2.1 undocumented files and folders below /opt/ml: not made",
    "2.4 a prefix that is one whole object: its last part is the file's name",
    "2.6 a limited disk: /opt/ml with its input; /tmp, and a VOLUME below /opt/ml, as much again",
)


@dataclass(frozen=True)
class Assumptions:
    """What the contract marks unverified. Each is a row of ``Job.unverified``; all can be changed
    (``job --assume NAME=VALUE``).
    """

    #: Whether a signal-forwarding init is PID 1.
    init: bool = _assume(
        False, "1.1 --init", "not given, the program is PID 1", "given, the program is its child"
    )
    user: str = _assume("", "1.1 user", "the image's USER, not overridden", "{}")
    workdir: str = _assume("", "1.1 working directory", "the image's WORKDIR, not overridden", "{}")
    reason_counts_whole: bool = _assume(
        True,
        "1.3 FailureReason",
        "the failure text alone is held against the 1024 characters",
        "prefix and suffix count against the 1024 characters",
    )
    internal_error: str = _assume(
        "We encountered an internal error. Please try again.",
        "1.3 words after InternalServerError",
        "{!r}",
    )
    stopped_keeps_status: bool = _assume(
        True,
        "1.4 a job that was stopped",
        "Failed where its exit status is not 0",
        "Stopped whatever its exit status",
    )
    #: EC2 gives two minutes' notice; whether the container hears of it is not documented.
    spot_sigterm: bool = _assume(
        False, "1.5 spot interruption", "SIGKILL without notice", "SIGTERM, SIGKILL after the grace"
    )
    #: Whether hyperparameters.json is written for a request without hyperparameters.
    empty_hyperparameters_file: bool = _assume(
        True, "2.2 hyperparameters.json of a request without hyperparameters", "absent", "{{}}"
    )
    channels_writable: bool = _assume(
        False, "2.4 File channels", "read-only", "writable (FastFile stays read-only)"
    )
    pack_links: bool = _assume(
        True,
        "2.5 links and devices in /opt/ml/model",
        "left out of the archive, listed by kind",
        "packed as they are and not followed, listed by kind",
    )
    #: Docker's default.
    shm_bytes: int = _assume(64 * MIB, "2.6 /dev/shm", "{mib} MiB")
    #: What the instance's own processes take of its memory (contract trap 9).
    host_memory_bytes: int = _assume(GIB, "2.6 memory for the host itself", "{mib} MiB")
    #: Bounds processes and threads; the kernel's own limit is not known.
    pids: int = _assume(16384, "2.6 pids limit", "{}")
    region_variables: bool = _assume(
        False,
        "3.1 variables beyond the documented two and Environment",
        "none",
        "AWS_REGION and AWS_DEFAULT_REGION",
    )

    def rows(self) -> tuple[str, ...]:
        """Name each assumption with its row of the contract and the value in force."""
        chosen = (f"{f.metadata['row']}: {_said(f, getattr(self, f.name))}" for f in fields(self))
        return tuple(sorted((*chosen, *FIXED)))


def _said(one: Field[Any], value: Any) -> str:
    says = one.metadata["says"]
    text: str = says[0] if len(says) == 1 or not value else says[1]
    mib = value // MIB if isinstance(value, int) else 0
    return text.format(value, mib=mib)


def assume(settings: Iterable[str]) -> Assumptions:
    """Read ``NAME=VALUE`` settings over the defaults; values as JSON, or text.

    Raises:
        BadInput: no such assumption, or a value of another type.
    """
    known: dict[str, Any] = {f.name: f for f in fields(Assumptions)}
    found = Assumptions()
    for setting in settings:
        name, equals, text = setting.partition("=")
        if name not in known or not equals:
            raise BadInput(f"--assume {setting}: give NAME=VALUE, NAME one of {', '.join(known)}")
        value = _value(setting, text, type(known[name].default))
        change: dict[str, Any] = {name: value}
        found = replace(found, **change)
    return found


def _value(setting: str, text: str, kind: type) -> Any:
    value: Any = text
    if kind is not str:
        with contextlib.suppress(ValueError):
            value = json.loads(text)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is int):
        value = None
    if value is None or (isinstance(value, int) and kind is int and value < 1):
        raise BadInput(f"--assume {setting}: give {_GIVE[kind]}")
    return value


_GIVE = {bool: "true or false", int: "a whole number above 0", str: "text"}

#: Members of a request that change nothing here, and why.
_IGNORED = {
    "OutputDataConfig.KmsKeyId": "nothing is encrypted here",
    "ResourceConfig.VolumeKmsKeyId": "nothing is encrypted here",
    "ResourceConfig.KeepAlivePeriodInSeconds": "no warm pool here",
    "ResourceConfig.TrainingPlanArn": "no capacity is reserved here",
    "EnableInterContainerTrafficEncryption": "there is one container",
    "VpcConfig": "the engine's own network is used",
    "AlgorithmSpecification.TrainingImageConfig": "the engine pulls the image",
    "StoppingCondition.MaxPendingTimeInSeconds": "nothing is pending here",
    "DebugHookConfig": "no debugger here",
    "DebugRuleConfigurations": "no debugger here",
    "ProfilerConfig": "no profiler here",
    "ProfilerRuleConfigurations": "no profiler here",
    "TensorBoardOutputConfig": "nothing is sent to TensorBoard",
    "ExperimentConfig": "no experiment is kept here",
    "InfraCheckConfig": "no health check of the instance here",
    "RemoteDebugConfig": "no remote debugging here",
    "SessionChainingConfig": "no session tags here",
}


def ignored(raw: Mapping[str, Any]) -> list[str]:
    """One line for each member of a request that changes nothing here."""
    lines = []
    for path, why in _IGNORED.items():
        *parents, last = path.split(".")
        place: Any = raw
        for name in parents:
            place = place.get(name) if isinstance(place, Mapping) else None
        if isinstance(place, Mapping) and place.get(last) not in (None, False, "", {}, []):
            lines.append(f"ignored: {path}: {why}")
    return lines

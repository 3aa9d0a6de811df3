"""The requests that a state machine renders: accepted by the service, named within limits, by
digest, and without what hides a GPU or shows a secret.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from splatgate.evidence import Answer
from splatgate.instances import INSTANCES
from splatgate.pipeline import services
from splatgate.pipeline.definition import Call, Machine, State, call_of
from splatgate.pipeline.expressions import UNKNOWN, Open, unknown
from splatgate.pipeline.findings import Finding, Gap
from splatgate.pipeline.json_values import leaves, listed, member
from splatgate.pipeline.trace import Started
from splatgate.sagemaker.validate import model, validate

#: Images that AWS publishes by tag alone: in its own registries, under names like these.
_AWS_OWN = re.compile(
    r"/(sagemaker-|pytorch-|tensorflow-|huggingface-|mxnet-|autogluon|djl-|xgboost|image-class|"
    r"object-detection|kmeans|blazingtext|linear-learner|public\.ecr\.aws)"
)
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")
_SECRET = re.compile(
    r"(?i)(secret|passw(or)?d|api_?key|access_?key|private_?key|credential|_token$|^token$)"
)
#: A name or a place of a secret, which is none.
_REFERS = re.compile(r"(?i)(arn|name|id|path|parameter|uri|url|file|prefix)$")
_NO_GPU = {
    "CUDA_VISIBLE_DEVICES": ("", "-1", "none", "NoDevFiles", "void"),
    "NVIDIA_VISIBLE_DEVICES": ("", "none", "void"),
}
#: Instance families without a GPU, and what a trainer of splats says of itself.
_CPU_ONLY = re.compile(r"ml\.(m|c|r|t)\d\w*\.")
_SPLATS = re.compile(r"(?i)splat|3dgs|nerf|gaussian")


def refused(start: Started) -> list[str]:
    """What the service would refuse in a rendered request, unknown values left out."""
    call = start.state.call
    if call is None:
        return []
    return refused_by(call, start.job.request)


def refused_by(call: Call, sent: Any) -> list[str]:
    """What a service would refuse of what it is sent."""
    if not isinstance(sent, dict) or isinstance(sent, Open):
        return []
    if call.service != "sagemaker":
        return services.unfit(call, sent)
    if call.operation not in model()["operations"]:
        return []  # `integration` says so
    request, left_out = known_part(sent)
    return validate(request, operation=call.operation, unknown=left_out)


def known_part(value: Any, path: str = "") -> tuple[Any, list[str]]:
    """A value without what is unknown in it, and the paths of what was left out."""
    left_out: list[str] = []
    if isinstance(value, dict):
        kept: Any = {}
        for key, inner in value.items():
            where = f"{path}.{key}" if path else key
            if unknown(inner) or isinstance(inner, Open):
                left_out.append(where)
                continue
            kept[key], more = known_part(inner, where)
            left_out += more
        return kept, left_out
    if isinstance(value, list):
        found = [known_part(inner, f"{path}[{n}]") for n, inner in enumerate(value)]
        gone = [f"{path}[{n}]" for n, inner in enumerate(value) if unknown(inner)]
        left_out = gone + [p for _, more in found for p in more]
        return [k for (k, _), inner in zip(found, value, strict=True) if not unknown(inner)], (
            left_out
        )
    return value, left_out


def accepted(
    started: dict[str, Started],
    errors: dict[str, list[str]],
    variants: dict[str, dict[str, Started]],
) -> Iterator[Finding]:
    """Requests that the service refuses (``errors``); of the variants, those that only then are."""
    for name, start in started.items():
        for error in errors[name]:
            yield Finding(name, "request", "must", error)
        for what, other in variants.items():
            if name in other and other[name].job.request != start.job.request:
                for error in refused(other[name]):
                    if error not in errors[name]:
                        yield Finding(name, "request", "should", f"{error} (when sent {what})")
        yield from _volume(name, start.job.request)
        yield from _needed(name, start.job.request)
        yield from _alone(name, start)
        yield from archives(name, start.job.request)


def integrations(machine: Machine) -> Iterator[Finding]:
    """Resources that Step Functions does not have."""
    for state in machine.every():
        resource = str(state.body.get("Resource"))
        if state.call and (why := services.refused(state.call)):
            yield Finding(state.name, "integration", "must", why)
        elif found := re.search(r":states:.*:([A-Z]\w*)(\.sync|\.wait|$)", resource):
            word = found[1][:1].lower() + found[1][1:]
            told = f"{found[1]} is written {word} in a Resource"
            yield Finding(state.name, "integration", "must", told)
        elif re.match(r"arn:[a-z-]+:lambda:(?!.*:function:)[^$%{]*$", resource):
            told = f"{resource} is no function's ARN (…:function:NAME)"
            yield Finding(state.name, "integration", "must", told)
        if state.type == "Map":
            yield from _of_map(state)


def _of_map(state: State) -> Iterator[Finding]:
    """What a Map's children cannot call, and what its reader does not take."""
    config = member(state.body, "ItemProcessor", "ProcessorConfig")
    if member(config, "ExecutionType") == "EXPRESS":
        for inner in (s for branch in state.branches for s in branch.every()):
            if inner.call and inner.call.pattern:
                told = f"an Express child knows no .{inner.call.pattern}, and ends in five minutes"
                yield Finding(inner.name, "integration", "must", told)
    reader = state.body.get("ItemReader")
    call = call_of(str(member(reader, "Resource")))
    sent = member(reader, "Arguments" if state.jsonata else "Parameters")
    if call and isinstance(sent, dict):
        names = {k.removesuffix(".$"): UNKNOWN for k in sent}
        for error in services.unfit(replace(call, optimized=False), names):
            yield Finding(state.name, "request", "must", f"ItemReader.{error}")


def calls(called: dict[str, tuple[State, Any]]) -> Iterator[Finding]:
    """Calls of other kinds that the service would not know, or that lack what it needs."""
    for name, (state, sent) in called.items():
        call = state.call
        if call is None or services.refused(call):
            continue
        for error in refused_by(call, sent):
            yield Finding(name, "request", "must", error)
        known = isinstance(sent, dict) and not isinstance(sent, Open)
        if known and (call.service, call.operation) == ("sns", "Publish") and not _TO & sent.keys():
            told = f"none of {', '.join(sorted(_TO))}: it is told to nobody"
            yield Finding(name, "request", "must", told)
        yield from archives(name, sent)


def archives(name: str, sent: Any) -> Iterator[Finding]:
    """Addresses that take an archive for a folder."""
    for where, value in leaves(sent):
        if isinstance(value, str) and re.search(r"\.tar\.gz/.", value):
            told = f"{where} is {value}: model.tar.gz is an archive, and nothing lies below it"
            yield Finding(name, "hand-over", "must", told)


def networks(started: dict[str, Started]) -> Iterator[Finding]:
    """Tasks on Fargate that have no network: RunTask refuses them."""
    for name, start in started.items():
        sent = start.job.request
        if sent.get("LaunchType") == "FARGATE" and "NetworkConfiguration" not in sent:
            told = "LaunchType FARGATE without NetworkConfiguration: its tasks use awsvpc"
            yield Finding(name, "request", "must", f"{told}, and RunTask refuses them")


#: Where SNS can publish to.
_TO = {"TopicArn", "TargetArn", "PhoneNumber"}


def _needed(name: str, request: dict[str, Any]) -> Iterator[Finding]:
    """What the model does not require and a job needs: instances, and data for each input."""
    cluster = request.get("ResourceConfig")
    where = "ResourceConfig"
    if isinstance(outer := request.get("ProcessingResources"), dict):
        cluster, where = outer.get("ClusterConfig"), "ProcessingResources.ClusterConfig"
    if isinstance(cluster, dict) and not isinstance(cluster, Open):
        grouped = {"InstanceGroups", "TrainingPlanArn", "InstancePlacementConfig"} & cluster.keys()
        missing = [m for m in ("InstanceType", "InstanceCount") if not cluster.get(m)]
        for one in () if grouped else missing:
            yield Finding(name, "request", "must", f"{where}.{one}: missing, or none")
    sources = (("InputDataConfig", "DataSource", _DATA), ("ProcessingInputs", "", _PROCESSED))
    for one, inner, kinds in sources:
        for number, entry in enumerate(listed(request.get(one))):
            found = entry.get(inner, {}) if inner and isinstance(entry, dict) else entry
            if isinstance(found, dict) and not isinstance(found, Open) and not kinds & found.keys():
                wanted = " or ".join(sorted(kinds))
                yield Finding(name, "request", "must", f"{one}[{number}]: no {wanted} in it")


_DATA = {"S3DataSource", "FileSystemDataSource", "DatasetSource"}
_PROCESSED = {"S3Input", "DatasetDefinition"}


def _volume(name: str, request: dict[str, Any]) -> Iterator[Finding]:
    """VolumeSizeInGB enlarges no instance store (contract 2.6, trap 23)."""
    resources = request.get("ResourceConfig")
    resources = resources if isinstance(resources, dict) else {}
    instance = INSTANCES.get(str(resources.get("InstanceType")))
    size = resources.get("VolumeSizeInGB")
    if instance and instance.nvme_gb and isinstance(size, int) and size > instance.nvme_gb:
        yield Finding(
            name,
            "request",
            "must",
            f"ResourceConfig.VolumeSizeInGB: {size} GB are asked for, and {instance.name} has "
            f"{instance.nvme_gb} GB of its own whatever is asked (trap 23)",
        )


def _alone(name: str, start: Started) -> Iterator[Finding]:
    """What a trainer that knows nothing of others makes of several instances, or of none of GPU."""
    request = start.job.request
    count = member(request, "ResourceConfig", "InstanceCount")
    if start.job.kind.word == "training" and isinstance(count, int) and count > 1:
        told = f"ResourceConfig.InstanceCount {count}: each instance runs the whole container; one "
        yield Finding(name, "request", "should", told + "is enough unless the trainer shares work")
    instance = str(member(request, "ResourceConfig", "InstanceType"))
    said = f"{name} {request.get('TrainingJobName')} {images_of(request)}"
    if start.job.kind.word == "training" and _CPU_ONLY.match(instance) and _SPLATS.search(said):
        told = f"ResourceConfig.InstanceType {instance} has no GPU, and splats are trained on one"
        yield Finding(name, "request", "must", told)
    spot = request.get("EnableManagedSpotTraining") is True
    if spot and "CheckpointConfig" not in request:
        told = "EnableManagedSpotTraining without CheckpointConfig: an interruption starts anew"
        yield Finding(name, "request", "should", told)


def environment(started: dict[str, Started], written: Any) -> Iterator[Finding]:
    """Variables that hide the GPU from the trainer, or show a secret to all who may describe it."""
    literal = dict.fromkeys(v for _, v in leaves(written) if isinstance(v, str))
    for name, start in started.items():
        for where, value in leaves(start.job.request):
            key = re.split(r"[.\]']+", where.rstrip("']"))[-1]
            if not isinstance(value, str) or unknown(value):
                continue
            if key in _NO_GPU and value.strip() in _NO_GPU[key]:
                told = f"{where} = {value!r} hides every GPU from the container"
                yield Finding(name, "environment", "must", told)
            inside = re.search(r"Environment|HyperParameters", where)
            secret = inside and _SECRET.search(key) and not _REFERS.search(key) and value
            if (secret and not value.startswith(("arn:", "{{"))) or re.search(
                r"AKIA[A-Z0-9]{16}", value
            ):
                told = (
                    f"{where} shows a secret to everybody who may describe the job; name a secret"
                )
                level = "must" if value in literal else "should"
                yield Finding(name, "environment", level, f"{told} of Secrets Manager instead")


def images_of(request: Any) -> list[Any]:
    """The images of a request, those of a tuning job's training included."""
    if isinstance(request, list):
        return [i for inner in request for i in images_of(inner)]
    if not isinstance(request, dict):
        return []
    own = [v for k, v in request.items() if k in ("TrainingImage", "ImageUri")]
    return own + [i for v in request.values() for i in images_of(v)]


def images(started: dict[str, Started]) -> Iterator[Finding]:
    """Images named by a tag, which may move or may never have been pushed (K40, trap 20)."""
    for name, start in started.items():
        for image in images_of(start.job.request) if start.job.kind.sagemaker else ():
            if not isinstance(image, str):
                continue
            host = image.partition("/")[0]
            if ".dkr.ecr." in host and not re.search(r"\.(amazonaws\.com(\.cn)?|on\.aws)$", host):
                told = f"{image}: {host} is no registry of Amazon ECR (…amazonaws.com)"
                yield Finding(name, "image", "must", told)
            if _DIGEST.search(image):
                continue
            tag = image.rpartition("/")[2].partition(":")[2]
            must = not _AWS_OWN.search(f"/{image.rpartition('/')[2]}")
            yield Finding(
                name,
                "image",
                "must" if must else "should",
                f"{image} names {f'the tag {tag}' if tag else 'no tag'}: it may move, or never "
                f"have been pushed; name the image by the digest that was judged (…@sha256:…)",
            )


def registered(
    started: dict[str, Started], ask: Callable[[str], Answer] | None
) -> Iterator[Finding | Gap]:
    """Images that their registry does not have (K40), and of which that is not known."""
    unasked, unseen = [], []
    for name, start in started.items():
        for image in images_of(start.job.request) if start.job.kind.sagemaker else ():
            if image is UNKNOWN:
                yield Gap(name, ("image",), "which image it runs, only its deployment knows")
            if not isinstance(image, str):
                continue
            unseen.append(name)
            if ask is None:
                unasked.append(name)
            elif (answer := ask(image)).error:
                yield Gap(name, ("image-there",), answer.error)
            elif answer.served is None:
                told = f"{image}: its registry has none; push it first"
                yield Finding(name, "image", "must", told)
    if unasked:
        why = (
            f"whether the images of {_some(unasked)} are there: no registry was asked (--registry)"
        )
        yield Gap("", ("image-there",), why)
    if unseen:
        why = f"whether the images of {_some(unseen)} have the entry points that are called: "
        yield Gap("", ("entry-point",), why + "no image is looked into here (judge --image)")


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")


def names(started: dict[str, Started], others: dict[str, Started]) -> Iterator[Finding]:
    """Job names and outputs that are the same in an execution of another name and input
    (``others``), and names that two kinds share. Those built from the input, the starter answers
    for.
    """
    first: dict[str, str] = {}
    for name, start in started.items():
        job, again = start.job, others.get(name)
        if again and job.kind.word == "processing":
            for uri in sorted(set(job.writes) & set(again.job.writes)):
                told = f"every execution writes to {uri}: one overwrites what another is to read"
                yield Finding(name, "output", "should", f"{told}; build it from $$.Execution")
        if job.name is None:
            continue
        if again and again.job.name == job.name:
            yield Finding(
                name,
                "name-unique",
                "must",
                f"every execution names its job {job.name!r}, which is taken after the first; "
                f"build it from $$.Execution",
            )
        if (earlier := first.setdefault(job.name, name)) != name:
            yield Finding(
                name, "name-unique", "should", f"has the name of {earlier}'s job, {job.name!r}"
            )


def not_read(
    machine: Machine, started: dict[str, Started], there: dict[str, Started]
) -> Iterator[Gap]:
    """Requests of which not all was read: values unknown, or a payload that nobody models."""
    for name, start in started.items():
        _, left_out = known_part(start.job.request)
        if name not in there:
            why = "no execution on this input comes there: judged with what it is given unknown"
            yield Gap(name, ("request",), why)
        elif not start.job.request and start.job.kind.sagemaker:
            yield Gap(name, ("request",), "nothing of its request is known")
        elif left_out and start.job.kind.sagemaker:
            yield Gap(name, ("request",), f"not known before an execution: {_some(left_out)}")
        if not start.job.kind.sagemaker:
            what = f"what its {start.job.kind.word} job runs lies outside the definition"
            yield Gap(name, ("request", "hand-over"), what)
    for state in machine.every():
        resource = str(state.body.get("Resource"))
        if state.type == "Task" and state.call is None:
            yield Gap(state.name, ("request",), f"what {resource[:80]} does is not known here")

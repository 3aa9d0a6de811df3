"""The requests that a state machine renders: accepted by the service, named within limits, by
digest, and each stage reading what the one before writes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from splatgate.evidence import Answer
from splatgate.instances import INSTANCES
from splatgate.pipeline.answers import MODELLED, Job
from splatgate.pipeline.definition import State
from splatgate.pipeline.lists import listed
from splatgate.pipeline.paths import Finding, Gap, Started
from splatgate.pipeline.template import UNKNOWN, Open
from splatgate.sagemaker.validate import unfit_members, validate

#: Images that AWS publishes by tag alone: in its own registries, under names like these.
_AWS_OWN = re.compile(
    r"/(sagemaker-|pytorch-|tensorflow-|huggingface-|mxnet-|autogluon|djl-|xgboost|image-class|"
    r"object-detection|kmeans|blazingtext|linear-learner|public\.ecr\.aws)"
)
_DIGEST = re.compile(r"@sha256:[0-9a-f]{64}$")


def refused(start: Started) -> list[str]:
    """What the service would refuse in a rendered request, unknown values left out."""
    if start.state.jsonata:
        return []  # its members are expressions; `not_verified` says so
    request, left_out = known_part(start.job.request)
    found = validate(request, operation=start.job.kind.create)
    return [e for e in found if not any(_about(e, path) for path in left_out)]


def _about(error: str, path: str) -> bool:
    where = error.partition(": ")[0]
    return where == path or path.startswith(where + ".") or path.startswith(where + "[")


def known_part(value: Any, path: str = "") -> tuple[Any, list[str]]:
    """A value without what is unknown in it, and the paths of what was left out."""
    left_out: list[str] = []
    if isinstance(value, dict):
        kept: Any = {}
        for key, inner in value.items():
            where = f"{path}.{key}" if path else key
            if inner is UNKNOWN or isinstance(inner, Open):
                left_out.append(where)
                continue
            kept[key], more = known_part(inner, where)
            left_out += more
        return kept, left_out
    if isinstance(value, list):
        found = [known_part(inner, f"{path}[{n}]") for n, inner in enumerate(value)]
        unknown = [f"{path}[{n}]" for n, inner in enumerate(value) if inner is UNKNOWN]
        left_out = unknown + [p for _, more in found for p in more]
        return [k for (k, _), inner in zip(found, value, strict=True) if inner is not UNKNOWN], (
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


def calls(called: dict[str, tuple[State, Any]]) -> Iterator[Finding]:
    """Calls of other kinds that the service would not know, or that lack what it needs."""
    for name, (state, sent) in called.items():
        call = state.call
        if call is None or call.service not in MODELLED or not isinstance(sent, dict):
            continue
        errors = unfit_members(sent, call.operation, call.service)
        if call.operation == "Publish" and not _TO & sent.keys():
            errors.append(f"{', '.join(sorted(_TO))}: one of them is needed")
        yield from (Finding(name, "request", "must", error) for error in errors)


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
        for member in () if grouped else missing:
            yield Finding(name, "request", "must", f"{where}.{member}: missing, or none")
    sources = (("InputDataConfig", "DataSource", _DATA), ("ProcessingInputs", "", _PROCESSED))
    for member, inner, kinds in sources:
        for number, entry in enumerate(listed(request.get(member))):
            found = entry.get(inner, {}) if inner and isinstance(entry, dict) else entry
            if isinstance(found, dict) and not kinds & found.keys():
                wanted = " or ".join(sorted(kinds))
                yield Finding(name, "request", "must", f"{member}[{number}]: no {wanted} in it")


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


def image_of(request: dict[str, Any]) -> Any:
    """The image of a training or processing request, or None."""
    for member, key in (
        ("AlgorithmSpecification", "TrainingImage"),
        ("AppSpecification", "ImageUri"),
    ):
        if isinstance(inner := request.get(member), dict):
            return inner.get(key)
    return None


def images(started: dict[str, Started]) -> Iterator[Finding]:
    """Images named by a tag, which may move or may never have been pushed (K40, trap 20)."""
    for name, start in started.items():
        image = image_of(start.job.request)
        if not isinstance(image, str) or _DIGEST.search(image):
            continue
        tag = image.rpartition("/")[2].partition(":")[2]
        must = not _AWS_OWN.search(f"/{image.rpartition('/')[2]}")
        yield Finding(
            name,
            "image",
            "must" if must else "should",
            f"{image} names {f'the tag {tag}' if tag else 'no tag'}: it may move, or never have "
            f"been pushed; name the image by the digest that was judged (…@sha256:…)",
        )


def registered(
    started: dict[str, Started], ask: Callable[[str], Answer] | None
) -> Iterator[Finding | Gap]:
    """Images that their registry does not have (K40), and of which that is not known."""
    unasked, unseen = [], []
    for name, start in started.items():
        image = image_of(start.job.request)
        if image is UNKNOWN and not start.state.jsonata:
            yield Gap(name, ("image",), "which image it runs, only its deployment knows")
        if not isinstance(image, str):
            continue
        unseen.append(name)
        if ask is None:
            unasked.append(name)
        elif (answer := ask(image)).error:
            yield Gap(name, ("image-there",), answer.error)
        elif answer.served is None:
            yield Finding(name, "image", "must", f"{image}: its registry has none; push it first")
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
    """Job names that are the same in an execution of another name and input (``others``), or
    between kinds. Names built from the input, the starter answers for.
    """
    first: dict[str, str] = {}
    for name, start in started.items():
        job = start.job
        if job.name is None:
            continue
        again = others.get(name)
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


def hand_over(started: dict[str, Started], sent: frozenset[str]) -> Iterator[Finding]:
    """Each stage reads what the one before it writes (K31, K34, K45).

    ``sent``: the texts of the execution's input, which the starter answers for.
    """
    for name, start in started.items():
        earlier = [j for j in start.before if j.writes]
        for job in start.before:
            if not job.observed and set(start.job.reads) & set(job.writes):
                yield Finding(
                    job.state,
                    "waits-for-job",
                    "must",
                    f"{name} reads what its job writes, and starts while it runs; use .sync, or "
                    f"ask for its status in a loop",
                )
        if not earlier or start.after:
            continue
        read = {_plain(u) for j in start.before for u in j.reads}
        known = {_plain(u) for u in sent}
        written = {_plain(u): j for j in earlier for u in j.writes}
        fits = any(_fits(_plain(u), written) for u in start.job.reads)
        for uri in start.job.reads:
            plain = _plain(uri)
            inside = [w for w in written if _inside(plain, w) or _inside(w, plain)]
            if _fits(plain, written) or (plain in read and not inside):
                continue
            literal = plain in str(start.state.arguments)
            beside = [w for w in written if w.rpartition("/")[0] == plain.rpartition("/")[0]]
            if inside or (beside and not fits):
                where = (inside or beside)[-1]
                said = f"{written[where].state} writes {_shown(written[where], where)}"
            elif not fits and plain not in known and not literal:
                where = next(iter(written))
                said = f"{earlier[-1].state} writes {earlier[-1].writes[-1]}, and nobody sends it"
            else:
                continue
            yield Finding(
                name,
                "hand-over",
                "should" if start.between else "must",
                f"reads {uri}, but {said}: {_why(plain, where)}",
            )


def _plain(uri: str) -> str:
    return uri.rstrip("/")


def _fits(uri: str, written: dict[str, Job]) -> bool:
    """Whether a URI is what a stage writes: its prefix; of an archive also the folder it is in."""
    writer = written.get(uri)
    if writer and uri == (_archive(writer) or uri):
        return True
    return any(_archive(j) and uri == _archive(j).rpartition("/")[0] for j in written.values())


def _archive(job: Job) -> str:
    return _plain(job.archive or "")


def _inside(uri: str, folder: str) -> bool:
    return uri.startswith(folder + "/")


def _shown(job: Job, where: str) -> str:
    return job.archive or where


def _why(uri: str, written: str) -> str:
    if _inside(written, uri):
        return "it lies below that, one or more folders down"
    if _inside(uri, written):
        return "a folder that the stage need not have written"
    return "another prefix"

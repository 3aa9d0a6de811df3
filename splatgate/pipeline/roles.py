"""What a machine's requests need, and whether the roles' policies allow it (contract 4, 7.3).

Only policies of the identity kind are read; a boundary, a service control policy or a bucket's own
policy can still refuse.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from splatgate.pipeline.definition import Call, Machine
from splatgate.pipeline.paths import Finding, Started
from splatgate.pipeline.walk import Walk

#: Names of the roles that policies can be given for.
MACHINE, JOBS = "state-machine", "jobs"
_RULES = {
    "training": "StepFunctionsGetEventsForSageMakerTrainingJobsRule",
    "transform": "StepFunctionsGetEventsForSageMakerTransformJobsRule",
    "processing": "StepFunctionsGetEventsForSageMakerProcessingJobsRule",
}
#: Services whose name in a policy is another than in a Resource.
_PREFIX = {"sfn": "states", "eventbridge": "events", "cloudwatchlogs": "logs", "sesv2": "ses"}
_ACTIONS = {
    ("lambda", "Invoke"): "lambda:InvokeFunction",
    ("s3", "ListObjectsV2"): "s3:ListBucket",
    ("s3", "HeadObject"): "s3:GetObject",
    ("events", "PutEvents"): "events:PutEvents",
}
_PULL = (
    "ecr:BatchCheckLayerAvailability",
    "ecr:GetDownloadUrlForLayer",
    "ecr:BatchGetImage",
)
_LOGS = tuple(
    f"logs:{verb}"
    for verb in ("CreateLogGroup", "CreateLogStream", "PutLogEvents", "DescribeLogStreams")
)
_REPOSITORY, _GROUP = "arn:aws:ecr:*:*:repository/*", "arn:aws:logs:*:*:log-group:/aws/sagemaker/*"


@dataclass(frozen=True)
class Need:
    """An action that a request implies, on a resource where that is known."""

    action: str
    resource: str | None = None
    #: Whether iam:PassedToService must allow SageMaker.
    passes: bool = False


def check(machine: Machine, walk: Walk, policies: dict[str, Any]) -> Iterator[Finding]:
    """Actions that the policies given do not allow."""
    for role, needs in ((MACHINE, _of_machine(machine, walk)), (JOBS, _of_jobs(walk.started))):
        if role not in policies:
            continue
        told: set[tuple[str, str]] = set()
        for state, need in needs:
            if (state, need.action) in told or allowed(policies[role], need):
                continue
            told.add((state, need.action))
            where = f" on {need.resource}" if need.resource else ""
            only = " to SageMaker alone (iam:PassedToService)" if need.passes else ""
            yield Finding(
                state, "permission", "must", f"the {role} role may not {need.action}{where}{only}"
            )


def _of_machine(machine: Machine, walk: Walk) -> Iterator[tuple[str, Need]]:
    started = walk.started
    for state in machine.every():
        call = state.call
        if call is None:
            continue
        start = started.get(state.name)
        if call.creates is None:
            _, sent = walk.called.get(state.name, (state, None))
            yield from ((state.name, need) for need in _of_call(call, sent))
            continue
        word, name = call.creates.word, start.job.name if start else None
        job = f"{word}-job/{name.lower() if word != 'training' else name}" if name else None
        verbs = ("Create", "Describe", "Stop") if call.pattern == "sync" else ("Create",)
        for verb in verbs:
            action = f"sagemaker:{verb}{word.capitalize()}Job"
            yield state.name, Need(action, f"arn:aws:sagemaker:*:*:{job}" if job else None)
        if start and start.job.request.get("Tags"):
            yield state.name, Need("sagemaker:AddTags")
        if call.pattern == "sync":
            yield state.name, Need("sagemaker:ListTags")
            rule = f"arn:aws:events:*:*:rule/{_RULES[word]}"
            for action in ("PutTargets", "PutRule", "DescribeRule"):
                yield state.name, Need(f"events:{action}", rule)
        if word != "transform":
            role = start.job.request.get("RoleArn") if start else None
            known = role if isinstance(role, str) else None
            yield state.name, Need("iam:PassRole", known, passes=True)


def _of_call(call: Call, sent: Any) -> Iterator[Need]:
    service = _PREFIX.get(call.service, call.service)
    if call.service == "states" and call.operation == "StartExecution":
        yield Need("states:StartExecution")
        if call.pattern == "sync":
            yield from map(Need, ("states:DescribeExecution", "states:StopExecution"))
            yield from map(Need, ("events:PutTargets", "events:PutRule", "events:DescribeRule"))
        return
    if call.pattern != "sync":
        action = _ACTIONS.get((call.service, call.operation), f"{service}:{call.operation}")
        topic = sent.get("TopicArn") if isinstance(sent, dict) else None
        yield Need(action, topic if isinstance(topic, str) else None)


def _of_jobs(started: dict[str, Started]) -> Iterator[tuple[str, Need]]:
    for name, start in started.items():
        yield name, Need("ecr:GetAuthorizationToken", "*")
        yield name, Need("cloudwatch:PutMetricData", "*")
        yield from ((name, Need(action, _REPOSITORY)) for action in _PULL)
        yield from ((name, Need(action, _GROUP)) for action in _LOGS)
        for uri in _checkpoints(start.job.request):
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            for action in ("s3:GetObject", "s3:PutObject", "s3:DeleteObject"):
                yield name, Need(action, f"arn:aws:s3:::{bucket}/{key}*")
        for uri in start.job.reads:
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            yield name, Need("s3:GetObject", f"arn:aws:s3:::{bucket}/{key}*")
            yield name, Need("s3:ListBucket", f"arn:aws:s3:::{bucket}")
        for uri in start.job.writes:
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            yield name, Need("s3:PutObject", f"arn:aws:s3:::{bucket}/{key}*")
        if "KmsKeyId" in str(start.job.request):
            yield from ((name, Need(a)) for a in ("kms:Decrypt", "kms:GenerateDataKey"))


def _checkpoints(request: dict[str, Any]) -> list[str]:
    """Where a job keeps checkpoints: what it deletes there is deleted in S3 (contract 1.5)."""
    config = request.get("CheckpointConfig")
    uri = config.get("S3Uri") if isinstance(config, dict) else None
    return [uri] if isinstance(uri, str) else []


def allowed(policy: Any, need: Need) -> bool:
    """Whether a policy document allows an action and nothing in it denies it."""
    allows = False
    for statement in _statements(policy):
        if not _names(statement, need) or not _covers(statement, need):
            continue
        if statement.get("Effect") == "Deny":
            if statement.get("Condition") is None:
                return False
            continue
        if statement.get("Effect") == "Allow":
            allows = allows or not need.passes or _passes(statement)
    return allows


def _statements(policy: Any) -> list[dict[str, Any]]:
    """The statements of a policy, or of a list of policies."""
    if isinstance(policy, list):
        return [s for p in policy for s in _statements(p)]
    if isinstance(policy, dict) and "PolicyDocument" in policy:
        return _statements(policy["PolicyDocument"])
    found = policy.get("Statement", []) if isinstance(policy, dict) else []
    found = found if isinstance(found, list) else [found]
    return [s for s in found if isinstance(s, dict)]


def _names(statement: dict[str, Any], need: Need) -> bool:
    action = need.action.lower()

    def among(member: str) -> bool:
        return any(fnmatch.fnmatchcase(action, a.lower()) for a in _texts(statement, member))

    return not among("NotAction") if "NotAction" in statement else among("Action")


def _covers(statement: dict[str, Any], need: Need) -> bool:
    """Whether a statement's Resource covers the need; what CloudFormation fills in, covers."""
    resources = statement.get("Resource")
    listed = resources if isinstance(resources, list) else [resources]
    known = [r for r in listed if isinstance(r, str)]
    if "NotResource" in statement or any(isinstance(r, dict) for r in listed):
        return True
    if need.resource is None:
        return any(r.startswith(("*", "arn:", "${")) for r in known)
    return any(_overlaps(r, need.resource) for r in known)


def _overlaps(pattern: str, resource: str) -> bool:
    """Whether a pattern of a policy covers a resource; Region and account of ours are ``*``."""
    if pattern == "*" or "${" in pattern:
        return True
    ours, theirs = resource.split(":", 5), pattern.split(":", 5)
    if len(ours) != 6 or len(theirs) != 6:
        return fnmatch.fnmatchcase(resource, pattern)
    return all(
        o == "*" or fnmatch.fnmatchcase(o.rstrip("*"), t) or (o.endswith("*") and _begins(t, o))
        for o, t in zip(ours, theirs, strict=True)
    )


def _begins(pattern: str, prefix: str) -> bool:
    """Whether a pattern allows a part of what a prefix (``key*``) names; parts count as all."""
    return re.split(r"[*?]", pattern)[0].startswith(prefix.rstrip("*"))


def _passes(statement: dict[str, Any]) -> bool:
    """Whether a statement lets SageMaker alone be given the role (contract 7.3, trap 30)."""
    text = str(statement.get("Condition"))
    return "iam:PassedToService" in text and "sagemaker" in text


def _texts(statement: dict[str, Any], member: str) -> list[str]:
    value = statement.get(member, [])
    return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]

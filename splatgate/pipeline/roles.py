"""What a machine's requests need, and whether the roles' policies allow it (contract 4, 7.3).

Only policies of the identity kind are read; a boundary, a service control policy or a bucket's own
policy can still refuse.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from splatgate.pipeline.definition import Call, Machine
from splatgate.pipeline.paths import Finding, Started

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
    "ecr:GetAuthorizationToken",
    "ecr:BatchCheckLayerAvailability",
    "ecr:GetDownloadUrlForLayer",
    "ecr:BatchGetImage",
)
_LOGS = ("logs:CreateLogGroup", "logs:CreateLogStream", "logs:PutLogEvents")


@dataclass(frozen=True)
class Need:
    """An action that a request implies, on a resource where that is known."""

    action: str
    resource: str | None = None
    #: Whether iam:PassedToService must allow SageMaker.
    passes: bool = False


def check(
    machine: Machine, started: dict[str, Started], policies: dict[str, Any]
) -> Iterator[Finding]:
    """Actions that the policies given do not allow."""
    for role, needs in ((MACHINE, _of_machine(machine, started)), (JOBS, _of_jobs(started))):
        if role not in policies:
            continue
        told: set[tuple[str, str]] = set()
        for state, need in needs:
            if (state, need.action) in told or allowed(policies[role], need):
                continue
            told.add((state, need.action))
            where = f" on {need.resource}" if need.resource else ""
            yield Finding(
                state, "permission", "must", f"the {role} role may not {need.action}{where}"
            )


def _of_machine(machine: Machine, started: dict[str, Started]) -> Iterator[tuple[str, Need]]:
    for state in machine.every():
        call = state.call
        if call is None:
            continue
        start = started.get(state.name)
        if call.creates is None:
            yield from ((state.name, need) for need in _of_call(call))
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
            rule = f"arn:aws:events:*:*:rule/{_RULES[word]}"
            for action in ("PutTargets", "PutRule", "DescribeRule"):
                yield state.name, Need(f"events:{action}", rule)
        if word != "transform":
            role = start.job.request.get("RoleArn") if start else None
            known = role if isinstance(role, str) else None
            yield state.name, Need("iam:PassRole", known, passes=True)


def _of_call(call: Call) -> Iterator[Need]:
    service = _PREFIX.get(call.service, call.service)
    if call.service == "states" and call.operation == "StartExecution":
        yield Need("states:StartExecution")
        if call.pattern == "sync":
            yield from map(Need, ("states:DescribeExecution", "states:StopExecution"))
            yield from map(Need, ("events:PutTargets", "events:PutRule", "events:DescribeRule"))
        return
    if call.pattern != "sync":
        yield Need(_ACTIONS.get((call.service, call.operation), f"{service}:{call.operation}"))


def _of_jobs(started: dict[str, Started]) -> Iterator[tuple[str, Need]]:
    for name, start in started.items():
        for action in (*_PULL, *_LOGS):
            yield name, Need(action)
        for uri in start.job.reads:
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            yield name, Need("s3:GetObject", f"arn:aws:s3:::{bucket}/{key}*")
            yield name, Need("s3:ListBucket", f"arn:aws:s3:::{bucket}")
        for uri in start.job.writes:
            bucket, _, key = uri.removeprefix("s3://").partition("/")
            yield name, Need("s3:PutObject", f"arn:aws:s3:::{bucket}/{key}*")
        if "KmsKeyId" in str(start.job.request):
            yield from ((name, Need(a)) for a in ("kms:Decrypt", "kms:GenerateDataKey"))


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
        allows = allows or (not need.passes or _passes(statement))
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
    if need.resource is None or len(known) < len(listed):
        return True
    return any(_overlaps(r, need.resource) for r in known)


def _overlaps(pattern: str, resource: str) -> bool:
    """Whether a pattern of a policy covers a resource; Region and account of ours are ``*``."""
    if pattern == "*" or "${" in pattern:
        return True
    ours, theirs = resource.split(":", 5), pattern.split(":", 5)
    if len(ours) != 6 or len(theirs) != 6:
        return fnmatch.fnmatchcase(resource, pattern)
    return all(
        o == "*" or fnmatch.fnmatchcase(o.rstrip("*"), t) for o, t in zip(ours, theirs, strict=True)
    )


def _passes(statement: dict[str, Any]) -> bool:
    condition = statement.get("Condition")
    if not condition:
        return True
    text = str(condition)
    return "iam:PassedToService" not in text or "sagemaker.amazonaws.com" in text


def _texts(statement: dict[str, Any], member: str) -> list[str]:
    value = statement.get(member, [])
    return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]

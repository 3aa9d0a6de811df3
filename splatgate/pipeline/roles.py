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
from splatgate.pipeline.expressions import Open
from splatgate.pipeline.findings import Finding
from splatgate.pipeline.json_values import leaves
from splatgate.pipeline.services import starts
from splatgate.pipeline.simulator import Simulator
from splatgate.pipeline.trace import Started

#: Names of the roles that policies can be given for.
MACHINE, JOBS = "state-machine", "jobs"
#: The rule by which Step Functions learns that a job has ended, by kind of job.
_RULES = {
    "training": "ForSageMakerTrainingJobsRule",
    "transform": "ForSageMakerTransformJobsRule",
    "processing": "ForSageMakerProcessingJobsRule",
    "tuning": "ForSageMakerTuningJobsRule",
    "batch": "ForBatchJobsRule",
    "ecs": "ForECSTaskRule",
    "execution": "ForStepFunctionsExecutionRule",
    "build": "ForCodeBuildStartBuildRule",
}
#: What ``.sync`` does besides the call itself (Step Functions Developer Guide, "IAM policies for
#: integrated services").
_SYNC = {
    "batch": ("batch:DescribeJobs", "batch:TerminateJob"),
    "ecs": ("ecs:DescribeTasks", "ecs:StopTask"),
    "glue": ("glue:GetJobRun", "glue:GetJobRuns", "glue:BatchStopJobRun"),
    "execution": ("states:DescribeExecution", "states:StopExecution"),
    "build": ("codebuild:StopBuild", "codebuild:BatchGetBuilds"),
    "query": ("athena:GetQueryExecution", "athena:StopQueryExecution"),
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
    #: The service that iam:PassedToService must allow; "": it is no PassRole.
    to: str = ""


def check(machine: Machine, walk: Simulator, policies: dict[str, Any]) -> Iterator[Finding]:
    """Actions that the policies given do not allow."""
    for role, needs in ((MACHINE, _of_machine(machine, walk)), (JOBS, _of_jobs(walk.started))):
        if role not in policies:
            continue
        told: set[tuple[str, str]] = set()
        for state, need in needs:
            if (state, need.action) in told:
                continue
            told.add((state, need.action))
            yield from _judged(state, role, policies[role], need)


def _judged(state: str, role: str, policy: Any, need: Need) -> Iterator[Finding]:
    where = f" on {need.resource}" if need.resource else ""
    if not allowed(policy, need):
        yield Finding(state, "permission", "must", f"the {role} role may not {need.action}{where}")
    elif need.to and not (services := _passed_to(policy, need)):
        yield Finding(
            state,
            "permission",
            "should",
            f"the {role} role may {need.action}{where} to any service: what is missing is the "
            f"condition iam:PassedToService {need.to}",
        )
    elif need.to and not any(fnmatch.fnmatchcase(need.to, s) for s in services):
        yield Finding(
            state,
            "permission",
            "must",
            f"the {role} role may not {need.action}{where} to {need.to}: iam:PassedToService "
            f"allows {', '.join(sorted(services))} alone",
        )


def _of_machine(machine: Machine, walk: Simulator) -> Iterator[tuple[str, Need]]:
    started = walk.started
    for state in machine.every():
        call = state.call
        if call is None:
            continue
        start, kind = started.get(state.name), starts(call)
        if kind is None or not kind.sagemaker:
            _, sent = walk.called.get(state.name, (state, None))
            sent = start.job.request if start else sent
            yield from ((state.name, need) for need in _of_call(call, sent))
            continue
        word, name = kind.word, start.job.name if start else None
        job = f"{word}-job/{name.lower() if word != 'training' else name}" if name else None
        if word == "tuning":
            job = f"hyper-parameter-tuning-job/{name}" if name else None
        verbs = ("Create", "Describe", "Stop") if call.pattern == "sync" else ("Create",)
        for verb in verbs:
            action = f"sagemaker:{kind.create.replace('Create', verb)}"
            yield state.name, Need(action, f"arn:aws:sagemaker:*:*:{job}" if job else None)
        if start and start.job.request.get("Tags"):
            yield state.name, Need("sagemaker:AddTags")
        if call.pattern == "sync":
            yield state.name, Need("sagemaker:ListTags")
            yield from ((state.name, need) for need in _events(word))
        if word != "transform":
            roles = {v for k, v in leaves(start.job.request if start else {}) if "RoleArn" in k}
            known = next((r for r in roles if isinstance(r, str)), None)
            yield state.name, Need("iam:PassRole", known, "sagemaker.amazonaws.com")


def _events(word: str) -> Iterator[Need]:
    if word in _RULES:
        rule = f"arn:aws:events:*:*:rule/StepFunctionsGetEvents{_RULES[word]}"
        for action in ("PutTargets", "PutRule", "DescribeRule"):
            yield Need(f"events:{action}", rule)


def _of_call(call: Call, sent: Any) -> Iterator[Need]:
    service, kind = _PREFIX.get(call.service, call.service), starts(call)
    if call.pattern == "sync" and kind is None:
        return
    action = _ACTIONS.get((call.service, call.operation), f"{service}:{call.operation}")
    known = sent if isinstance(sent, dict) and not isinstance(sent, Open) else {}
    resource = next(
        (known[n] for n in ("TopicArn", "StateMachineArn") if isinstance(known.get(n), str)), None
    )
    yield Need(action, resource)
    if call.pattern == "sync" and kind:
        yield from map(Need, _SYNC.get(kind.word, ()))
        yield from _events(kind.word)
    for name in ("TaskRoleArn", "ExecutionRoleArn"):
        role = next((v for k, v in leaves(known) if k.endswith(name)), None)
        if call.service == "ecs" and isinstance(role, str):
            yield Need("iam:PassRole", role, "ecs-tasks.amazonaws.com")


def _of_jobs(started: dict[str, Started]) -> Iterator[tuple[str, Need]]:
    for name, start in started.items():
        if not start.job.kind.sagemaker:
            continue
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
            allows = True
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


def _passed_to(policy: Any, need: Need) -> set[str]:
    """The services that a role may be handed to; none: the policy names no condition."""
    found: set[str] = set()
    for statement in _statements(policy):
        if (
            statement.get("Effect") == "Allow"
            and _names(statement, need)
            and _covers(statement, need)
        ):
            values = [v for k, v in leaves(statement.get("Condition")) if "PassedToService" in k]
            if not values:
                return set()
            found |= {v for v in values if isinstance(v, str)}
    return found


def _texts(statement: dict[str, Any], member: str) -> list[str]:
    value = statement.get(member, [])
    return [v for v in (value if isinstance(value, list) else [value]) if isinstance(v, str)]

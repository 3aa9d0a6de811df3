"""Where a state machine comes from: files, or a real account."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from splatgate.evidence import BadInput, Origin, Pipeline
from splatgate.paths import ROOT
from splatgate.pipeline.definition import parse, read_json, read_text
from splatgate.pipeline.roles import JOBS, MACHINE

#: The reference pipeline; beside a definition, its input and the policies of its roles.
REFERENCE = ROOT / "pipeline" / "definition.json"
_POLICIES = {role: f"roles/{role}.json" for role in (MACHINE, JOBS)}
#: Members of StartExecution's request, which an input file may be.
_START = {"stateMachineArn", "name", "input", "traceHeader"}
SHOWN = "a definition in Amazon States Language (JSON)"


def load(
    path: Path, given: Path | None = None, policies: Mapping[str, Path] | None = None
) -> Pipeline:
    """Read a definition, what its starter sends, and its roles' policies.

    ``given`` holds an execution's input, or StartExecution's request.

    Raises:
        BadInput: a file cannot be read; of a definition that is no JSON, the record says so.
    """
    document, problems = parse(read_text(path, SHOWN))
    read = {role: read_json(p, "an IAM policy (JSON)") for role, p in (policies or {}).items()}
    pipeline = Pipeline(path.name, document, tuple(problems), policies=read)
    return replace(pipeline, **load_input(given)) if given is not None else pipeline


def load_input(path: Path) -> dict[str, Any]:
    """Members ``input`` and ``execution_name`` of a record, from a file.

    Raises:
        BadInput: unreadable or not JSON.
    """
    sent = read_json(path, "an execution's input (JSON)")
    name = None
    if isinstance(sent, dict) and isinstance(sent.get("input"), str) and sent.keys() <= _START:
        name = sent.get("name")
        try:
            sent = json.loads(sent["input"])
        except ValueError as error:
            raise BadInput(f"{path}: its `input` is not JSON: {error}") from None
    return {"input": sent, "execution_name": name if isinstance(name, str) else None}


def beside(path: Path, given: Path | None = None) -> Pipeline:
    """A definition with what lies beside it: ``input.json``, policies, contracts of hand-overs."""
    policies = {r: p for r, n in _POLICIES.items() if (p := path.parent / n).is_file()}
    sent = given or path.parent / "input.json"
    found = load(path, sent if sent.is_file() or given else None, policies)
    agreed = {
        p.stem: read_json(p, "a contract (JSON)")
        for p in sorted((path.parent / "contracts").glob("*.json"))
    }
    return replace(found, contracts=agreed)


def deployed(arn: str, client: Any) -> dict[str, Any]:
    """The definition that an account runs under an ARN; ``client`` is boto3's for Step Functions.

    Raises:
        BadInput: there is none, or no access.
    """
    import botocore.exceptions

    try:
        answer = client.describe_state_machine(stateMachineArn=arn)
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise BadInput(f"{arn}: {' '.join(str(error).split())}") from None
    document, problems = parse(answer["definition"])
    if problems:
        raise BadInput(f"{arn}: {problems[0]}")
    return document


def live(arn: str, client: Any) -> Pipeline:
    """A deployed state machine, as it is.

    Raises:
        BadInput: there is none, or no access.
    """
    return Pipeline(arn, deployed(arn, client), origin=Origin.LIVE)


def with_deployed(pipeline: Pipeline, arn: str, client: Any) -> Pipeline:
    """A definition beside what an account runs, to find where they differ.

    Raises:
        BadInput: there is none, or no access.
    """
    return replace(pipeline, deployed=deployed(arn, client), origin=Origin.LIVE)

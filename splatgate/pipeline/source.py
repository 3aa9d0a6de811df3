"""Where a state machine comes from: files, a folder of them, or a real account."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from splatgate.evidence import BadInput, Origin, Pipeline
from splatgate.paths import ROOT
from splatgate.pipeline.document import parse, read_json, read_text
from splatgate.pipeline.roles import JOBS, MACHINE
from splatgate.pipeline.templates import SHOWN, Found, machines

#: The reference pipeline; beside a definition, its input and the policies of its roles.
REFERENCE = ROOT / "pipeline" / "definition.json"
_POLICIES = {role: f"roles/{role}.json" for role in (MACHINE, JOBS)}
#: Members of StartExecution's request, which an input file may be.
_START = {"stateMachineArn", "name", "input", "traceHeader"}
_SUFFIXES = (".json", ".jsonc", ".json5", ".yaml", ".yml")
#: Folders of a project that hold other people's files.
_OTHERS = ("node_modules", "build", "dist", "venv")


def found_in(path: Path) -> Iterator[tuple[Path, Found]]:
    """Every state machine of a file or a folder, with the file that it lies in.

    Raises:
        BadInput: there is none, or a file that is named cannot be read.
    """
    if not path.is_dir():
        document, twice = parse(read_text(path, SHOWN), path.name)
        yield from ((path, found) for found in machines(document, twice, path.name, path.parent))
        return
    none = True
    for file in sorted(p for p in path.rglob("*") if p.suffix in _SUFFIXES and p.is_file()):
        within = file.relative_to(path).parts
        if any(part.startswith(".") or part in _OTHERS for part in within):
            continue
        try:
            found = list(found_in(file))
        except BadInput:
            continue  # not everything in a folder is a state machine
        none = False
        yield from found
    if none:
        raise BadInput(f"{path}: no file in it holds a state machine; give {SHOWN}")


def chosen(path: Path, machine: str | None = None) -> list[tuple[Path, Found]]:
    """The state machines of a file or a folder, or the one of a name.

    Raises:
        BadInput: there is none, or none of that name.
    """
    found = list(found_in(path))
    if machine is None:
        return found
    named = [(p, f) for p, f in found if f.name == machine]
    if not named:
        names = ", ".join(f.name or "(the definition itself)" for _, f in found)
        raise BadInput(f"{path}: no state machine {machine}; it has {names}")
    return named


def pipeline_of(
    path: Path,
    found: Found,
    given: Path | None = None,
    policies: Mapping[str, Path] | None = None,
) -> Pipeline:
    """A state machine of a file as evidence.

    Raises:
        BadInput: it cannot be judged, or a file beside it cannot be read.
    """
    source = f"{path.name}#{found.name}" if found.name else path.name
    if found.unread:
        raise BadInput(f"{source}: {found.unread}")
    read = {role: read_json(p, "an IAM policy (JSON)") for role, p in (policies or {}).items()}
    pipeline = Pipeline(source, found.definition, found.problems, policies=read)
    return replace(pipeline, **load_input(given)) if given is not None else pipeline


def load(
    path: Path, given: Path | None = None, policies: Mapping[str, Path] | None = None
) -> Pipeline:
    """Read the one definition of a file, what its starter sends, and its roles' policies.

    ``given`` holds an execution's input, or StartExecution's request.

    Raises:
        BadInput: a file cannot be read, or holds several.
    """
    found = chosen(path)
    if len(found) != 1:
        names = ", ".join(f.name for _, f in found)
        raise BadInput(f"{path}: {len(found)} state machines ({names}); give a file of one")
    return pipeline_of(*found[0], given, policies)


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
    document, _ = parse(answer["definition"], "definition.json")
    if not isinstance(document, dict):
        raise BadInput(f"{arn}: its definition is no object")
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


def validated(definition: dict[str, Any], client: Any) -> list[tuple[str, str]]:
    """What ValidateStateMachineDefinition says of a definition: severities and messages.

    Raises:
        BadInput: it cannot be asked.
    """
    import botocore.exceptions

    try:
        answer = client.validate_state_machine_definition(definition=json.dumps(definition))
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise BadInput(f"ValidateStateMachineDefinition: {' '.join(str(error).split())}") from None
    return [
        (d["severity"], f"{d.get('location', '')} {d['code']}: {d['message']}".strip())
        for d in answer["diagnostics"]
    ]

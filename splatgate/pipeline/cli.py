"""Verb ``pipeline``: judge a state machine and the requests that it renders."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from splatgate.evidence import Answer, BadInput, Pipeline
from splatgate.pipeline import report, source
from splatgate.pipeline.document import read_json
from splatgate.pipeline.findings import Finding
from splatgate.pipeline.judge import Verdict, judge
from splatgate.pipeline.roles import JOBS, MACHINE
from splatgate.pipeline.templates import SHOWN


def main(argv: Sequence[str]) -> int:
    """``pipeline FILE|FOLDER|ARN``. Returns 0 sound, 1 not sound, 3 something was not judged.

    Raises:
        BadInput: a file or an account cannot be read.
    """
    options = _parser().parse_args(argv)
    if options.run:
        from splatgate.pipeline import run

        return run.main(options)
    pipelines, unread = _pipelines(options)
    verdicts = [(file, _judged(pipeline, options)) for file, pipeline in pipelines]
    said = [verdict for _, verdict in verdicts]
    form = "json" if options.json else options.format
    if form == "sarif":
        sys.stdout.write(report.as_sarif(verdicts))
    elif form == "json":
        sys.stdout.write(report.as_json(said))
    else:
        for verdict in said:
            head = [f"{verdict.source}:"] if len(said) > 1 or unread else []
            sys.stdout.write("\n".join([*head, *report.lines(verdict)]) + "\n")
    for line in unread:
        _say(f"not judged: {line}")
    return 3 if unread else 0 if all(v.ok for v in said) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="splatgate pipeline",
        description="Judge a Step Functions state machine: its grammar, where each failure ends, "
        "its timeouts and retries, the requests that it renders, what its roles may do. "
        "Exit status: 0 sound as far as read, 1 a must is broken, 3 something could not be "
        "judged.",
    )
    parser.add_argument(
        "definition",
        metavar="FILE|FOLDER|ARN",
        nargs="+",
        help=f"{SHOWN} (JSON, YAML, CloudFormation, CDK, SAM, `terraform show -json`), a folder of "
        "such files, or a deployed one",
    )
    parser.add_argument("--machine", metavar="ID", help="the one of this name, of several")
    parser.add_argument(
        "--input",
        metavar="F",
        type=Path,
        help="what the starter sends: an execution's input, or a StartExecution request; without "
        "it, what depends on the input is not verified",
    )
    parser.add_argument(
        "--policy",
        metavar="[ROLE=]F",
        action="append",
        default=[],
        help=f"IAM policy of a role: {MACHINE} (as without ROLE) or {JOBS}",
    )
    parser.add_argument(
        "--registry",
        action="store_true",
        help="also ask the registries whether the images are there",
    )
    parser.add_argument(
        "--validate",
        action="store_true",
        help="also ask Step Functions itself (ValidateStateMachineDefinition; needs an account)",
    )
    parser.add_argument("--live", metavar="ARN", help="also compare FILE with what runs there")
    parser.add_argument(
        "--run",
        action="store_true",
        help="run the training state here, from the input to a .sog and an HTML viewer",
    )
    parser.add_argument("--image", metavar="REF", help="--run: in place of the request's image")
    parser.add_argument("--scene", metavar="DIR", help="--run: what the state before has written")
    parser.add_argument("--out", metavar="DIR", default="build/pipeline", help="--run: results")
    parser.add_argument(
        "--full",
        action="store_true",
        help="--run: with the request's own hyperparameters, not the profile's short CPU run",
    )
    parser.add_argument("--format", choices=("text", "json", "sarif"), default="text")
    parser.add_argument("--json", action="store_true", help="as --format json")
    return parser


def _pipelines(options: argparse.Namespace) -> tuple[list[tuple[str, Pipeline]], list[str]]:
    """What is to be judged, by file, and what of it cannot be."""
    policies: dict[str, Path] = {}
    for text in options.policy:
        role, equals, file = text.partition("=")
        role, file = (role, file) if equals else (MACHINE, text)
        if role not in (MACHINE, JOBS):
            raise BadInput(f"--policy {text}: no role {role}; {MACHINE} or {JOBS}")
        policies[role] = Path(file)
    if (arn := options.definition[0]).startswith("arn:"):
        found = source.live(arn, _client())
        extra = source.load_input(options.input) if options.input else {}
        read = {r: read_json(p, "an IAM policy (JSON)") for r, p in policies.items()}
        return [(arn, replace(found, policies=read, **extra))], []
    read_, unread = [], []
    every = [m for d in options.definition for m in source.chosen(Path(d), options.machine)]
    for path, machine in every:
        try:
            pipeline = source.pipeline_of(path, machine, options.input, policies)
        except BadInput as error:
            if len(every) == 1:
                raise
            unread.append(str(error))
            continue
        if options.live:
            pipeline = source.with_deployed(pipeline, options.live, _client())
        read_.append((str(path), pipeline))
    return read_, unread


def _judged(pipeline: Pipeline, options: argparse.Namespace) -> Verdict:
    verdict = judge(pipeline, _say, _ask if options.registry else None)
    if not options.validate:
        return verdict
    told = [
        Finding("", "aws", "must" if severity == "ERROR" else "should", f"Step Functions: {text}")
        for severity, text in source.validated(pipeline.definition, _client())
    ]
    return replace(verdict, findings=(*verdict.findings, *told))


def _ask(image: str) -> Answer:
    from splatgate.container import registry

    return registry.ask(image)[0]


def _client() -> Any:
    import boto3
    import botocore.exceptions

    try:
        return boto3.client("stepfunctions")
    except botocore.exceptions.BotoCoreError as error:
        raise BadInput(f"no account to look at: {error}; set a Region and credentials") from None


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()

"""Verb ``pipeline``: judge a state machine and the requests that it renders."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from splatgate.evidence import Answer, BadInput, Pipeline, to_json
from splatgate.pipeline import source
from splatgate.pipeline.definition import read_json
from splatgate.pipeline.judge import Verdict, judge
from splatgate.pipeline.roles import JOBS, MACHINE


def main(argv: Sequence[str]) -> int:
    """``pipeline FILE|ARN``. Returns 0 sound, 1 not sound, 3 bad input.

    Raises:
        BadInput: a file or an account cannot be read.
    """
    options = _parser().parse_args(argv)
    if options.run:
        from splatgate.pipeline import run

        return run.main(options)
    verdict = judge(_pipeline(options), _say, _ask if options.registry else None)
    if options.json:
        sys.stdout.write(to_json(verdict).decode())
    else:
        sys.stdout.write("\n".join(told(verdict)) + "\n")
    return 0 if verdict.ok else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="splatgate pipeline",
        description="Judge a Step Functions state machine: its grammar, where each failure ends, "
        "its timeouts and retries, the requests that it renders, what its roles may do. "
        "Exit status: 0 sound, 1 a must is broken, 3 bad input.",
    )
    parser.add_argument("definition", metavar="FILE|ARN", help=f"{source.SHOWN}, or a deployed one")
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
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser


def _pipeline(options: argparse.Namespace) -> Pipeline:
    policies: dict[str, Path] = {}
    for text in options.policy:
        role, equals, file = text.partition("=")
        role, file = (role, file) if equals else (MACHINE, text)
        if role not in (MACHINE, JOBS):
            raise BadInput(f"--policy {text}: no role {role}; {MACHINE} or {JOBS}")
        policies[role] = Path(file)
    if options.definition.startswith("arn:"):
        found = source.live(options.definition, _client())
        extra = source.load_input(options.input) if options.input else {}
        read = {r: read_json(p, "an IAM policy (JSON)") for r, p in policies.items()}
        return replace(found, policies=read, **extra)
    found = source.load(Path(options.definition), options.input, policies)
    return source.with_deployed(found, options.live, _client()) if options.live else found


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


def told(verdict: Verdict) -> list[str]:
    """A verdict in lines, the worst first."""
    lines = [
        f"{f.level:<7}{f.rule:<22}{f.state or 'the machine'}: {f.reason}"
        for f in sorted(verdict.findings, key=lambda f: f.level)
    ]
    for request in verdict.requests:
        wrong = f"{len(request.errors)} errors" if request.errors else "accepted"
        lines.append(f"request                      {request.state}: {wrong}")
    lines += [
        f"not verified: {g.state}{': ' if g.state else ''}{g.reason}" for g in verdict.not_verified
    ]
    return [*lines, "sound" if verdict.ok else "not sound"]


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()

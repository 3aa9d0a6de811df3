"""What is told of a verdict: lines for people, JSON, SARIF for code scanning."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from splatgate.evidence import to_json
from splatgate.pipeline.findings import DOCS, RULES, Finding
from splatgate.pipeline.judge import Verdict


def lines(verdict: Verdict) -> list[str]:
    """A verdict in lines, the worst first."""
    found = sorted(verdict.findings, key=lambda f: f.level)
    said: list[str] = []
    for finding in found:
        where = finding.state or "the machine"
        where += f" (line {finding.line})" if finding.line else ""
        said.append(f"{finding.level:<7}{finding.rule:<22}{where}: {finding.reason}")
        said += [f"{'':<29}also {way}" for way in finding.ways]
    for request in verdict.requests:
        wrong = f"{len(request.errors)} errors" if request.errors else "accepted"
        unknown = len(request.unknown)
        if not request.request:
            wrong = "nothing of it is known"
        elif unknown:
            wrong += f" as far as known ({unknown} values are not)"
        said.append(f"request                      {request.state}: {wrong}")
    said += [
        f"not verified: {g.state}{': ' if g.state else ''}{g.reason}" for g in verdict.not_verified
    ]
    for rule in dict.fromkeys(f.rule for f in found):
        said.append(f"{rule}: {RULES[rule]} ({DOCS}#{rule})")
    return [*said, conclusion(verdict)]


def conclusion(verdict: Verdict) -> str:
    """The last line."""
    count = len(verdict.not_verified)
    if not verdict.ok:
        return "not sound"
    return f"sound as far as read: {count} not verified" if count else "sound"


def as_json(verdicts: Sequence[Verdict]) -> str:
    """One verdict as an object, several as a list of them."""
    told = [{**json.loads(to_json(v)), "ok": v.ok, "conclusion": conclusion(v)} for v in verdicts]
    for verdict, object_ in zip(verdicts, told, strict=True):
        for finding, said in zip(verdict.findings, object_["findings"], strict=True):
            said |= {"remedy": finding.remedy, "page": finding.page}
    return json.dumps(told[0] if len(told) == 1 else told, indent=1, ensure_ascii=False) + "\n"


def as_sarif(verdicts: Sequence[tuple[str, Verdict]]) -> str:
    """SARIF 2.1.0 of verdicts by file, as code scanning takes it."""
    results = [_result(file, f) for file, verdict in verdicts for f in verdict.findings]
    rules = [
        {"id": rule, "shortDescription": {"text": remedy}, "helpUri": f"{DOCS}#{rule}"}
        for rule, remedy in RULES.items()
    ]
    driver = {"name": "splatgate pipeline", "rules": rules}
    document = {
        "$schema": "https://json.schemastore.org/sarif-2.1.0.json",
        "version": "2.1.0",
        "runs": [{"tool": {"driver": driver}, "results": results}],
    }
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _result(file: str, finding: Finding) -> dict[str, Any]:
    where = f"{finding.state}: " if finding.state else ""
    ways = "".join(f"\nalso {way}" for way in finding.ways)
    return {
        "ruleId": finding.rule,
        "level": "error" if finding.level == "must" else "warning",
        "message": {"text": f"{where}{finding.reason}{ways}"},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": file},
                    "region": {"startLine": max(finding.line, 1)},
                }
            }
        ],
    }

"""What is found: the rules by id, findings with their ways, and what could not be judged."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

#: Characters of a reason: somebody's text of a megabyte is no message.
LONGEST = 1000
#: Where each rule is explained, with a bad and a good example.
DOCS = "docs/pipeline-rules.md"


@dataclass(frozen=True)
class Finding:
    """Something wrong with a state. ``level`` is ``must`` or ``should``."""

    state: str
    rule: str
    level: str
    reason: str
    #: Findings of the same cause are one, with these as its other ways.
    root: str = ""
    #: The other ways in which the same cause shows, ``state: reason``.
    ways: tuple[str, ...] = ()
    #: The line where the state begins; 0: not known.
    line: int = 0

    @property
    def short(self) -> Finding:
        """The same with a reason of one line, whatever was quoted in it."""
        reason = " ".join(self.reason.split())
        return replace(self, reason=reason if len(reason) <= LONGEST else reason[:LONGEST] + "…")

    @property
    def remedy(self) -> str:
        """What to do, in general."""
        return RULES[self.rule]

    @property
    def page(self) -> str:
        """Where the rule is explained."""
        return f"{DOCS}#{self.rule}"


@dataclass(frozen=True)
class Gap:
    """What could not be judged: ``rules`` that have no answer, and why."""

    state: str
    rules: tuple[str, ...]
    reason: str


#: Every rule and its remedy.
RULES = {
    "json": "Give each member once, and fill every placeholder.",
    "asl": "Write it as Amazon States Language has it.",
    "integration": "Name an integration that Step Functions has.",
    "size": "Split the definition: nest a part as a state machine of its own.",
    "failure-ends-in-fail": "Let every way on which a stage failed end in a Fail state.",
    "status-leaves-loop": "Let the Choice leave its loop on every status that ends the job.",
    "ends": "Let something in the loop change what its Choice looks at.",
    "poll": "Put a Wait into the loop, and TimeoutSeconds on the machine.",
    "succeeds": "Let the way on which every job is well end in success.",
    "waits-for-job": "Use .sync, or ask for the job's status in a loop.",
    "notifier-masks": "Catch States.ALL of a notifier, and go on as if it had told.",
    "error-name": "Name errors as Step Functions and the service name them.",
    "timeout": "Let limits nest: program < MaxRuntimeInSeconds < TimeoutSeconds < machine.",
    "retry-algorithm-error": "Retry what can come out differently: a refused call, no failed job.",
    "name-unique": "Build a job's name from the execution, the stage and the attempt.",
    "reference": "Refer to what the starter sends or an earlier state has put there.",
    "path-as-text": "End the key in .$, or the path is sent as text.",
    "request": "Send what the service's model allows.",
    "environment": "Mend the variable: it hides the GPU, or shows a secret.",
    "image": "Name images by digest (…@sha256:…).",
    "hand-over": "Read the prefix, or the archive, that the stage before writes.",
    "output": "Build the output's prefix from the execution.",
    "permission": "Allow the role what the request needs.",
    "drift": "Deploy the source, or take over what is deployed.",
    "aws": "Mend what Step Functions itself refuses.",
}


def grouped(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings without repetition; those of one root are one, the others its ways."""
    found: dict[object, Finding] = {}
    for finding in dict.fromkeys(f.short for f in findings):
        key = (finding.rule, finding.level, finding.root or (finding.state, finding.reason))
        first = found.get(key)
        if first is None:
            found[key] = finding
        else:
            way = f"{finding.state}: {finding.reason}"
            found[key] = replace(first, ways=(*first.ways, way))
    return tuple(found.values())

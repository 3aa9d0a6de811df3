"""A state machine's definition, read as Amazon States Language: states, branches, what they call.

Sources: Amazon States Language specification (states-language.net); Step Functions Developer Guide,
"Integrating services".
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from splatgate.pipeline.json_values import words


@dataclass(frozen=True)
class Call:
    """What a Task's Resource names. ``operation`` is in the API's spelling (CreateTrainingJob)."""

    service: str
    operation: str
    #: ``sync``, ``waitForTaskToken`` or "" (request and response).
    pattern: str = ""
    #: Whether it is an integration of its own, not one of the SDK's (``aws-sdk:``).
    optimized: bool = True
    #: ``.sync:2``: a nested execution's output comes as JSON.
    second: bool = False

    @property
    def reads(self) -> bool:
        """Whether it only looks something up, so that its failure leaves nothing undone."""
        return bool(_READS.match(self.operation))


_RESOURCE = re.compile(
    r"arn:aws[a-z-]*:states:[^:]*:[^:]*:(?P<sdk>aws-sdk:)?(?P<service>(?!activity:)[A-Za-z0-9-]+):"
    r"(?P<operation>[A-Za-z0-9]+)(?:\.(?P<pattern>sync|waitForTaskToken)(?P<second>:2)?)?"
)
_READS = re.compile(
    r"(Describe|Get|List|Head|Query$|Scan$|BatchGet|Select|Search|Lookup|Receive|Count|Check|Test)"
)


@functools.cache
def call_of(text: str) -> Call | None:
    """What a Resource calls, or None where it cannot be told (an activity, a placeholder)."""
    # Deployments fill in the partition, and more: what is called stands beside.
    text = re.sub(r"\$\{[^}]*\}|\{\{[^}]*\}\}", "aws", text)
    if re.match(r"arn:aws[a-z-]*:lambda:", text):
        return Call("lambda", "Invoke", optimized=False)
    found = _RESOURCE.fullmatch(text)
    if found is None:
        return None
    operation = found["operation"]
    return Call(
        found["service"].lower(),
        operation[:1].upper() + operation[1:],
        found["pattern"] or "",
        not found["sdk"],
        bool(found["second"]),
    )


@dataclass(frozen=True)
class State:
    """One state; ``branches`` are the machines inside a Parallel or a Map."""

    name: str
    type: str
    body: dict[str, Any]
    jsonata: bool
    branches: tuple[Machine, ...] = ()

    @functools.cached_property
    def call(self) -> Call | None:
        """What a Task calls."""
        return call_of(str(self.body.get("Resource"))) if self.type == "Task" else None

    @property
    def arguments(self) -> Any:
        """What a Task sends: Parameters, or Arguments in JSONata."""
        return self.body.get("Arguments" if self.jsonata else "Parameters", {})

    @property
    def line(self) -> int:
        """The line where it begins; 0: not known."""
        return getattr(self.body, "line", 0)

    @functools.cached_property
    def function(self) -> str:
        """The name of the Lambda function that a Task calls; "": it calls none, or it is hidden."""
        call = self.call
        if self.type != "Task" or (call and (call.service, call.operation) != _INVOKE):
            return ""
        named = self.arguments.get("FunctionName") if isinstance(self.arguments, dict) else None
        return str(named or self.body.get("Resource")).rpartition(":function:")[2]

    @functools.cached_property
    def notifies(self) -> bool:
        """Whether it only tells somebody, so that its failure must decide nothing."""
        call = self.call
        if self.type != "Task" or (call and call.pattern == "waitForTaskToken"):
            return False
        if call and call.service in _TELLING:
            return call.operation.startswith(("Publish", "Send", "PutEvents", "PutMetric"))
        named = self._words
        return bool(self.function) and bool(_TELLS.search(named)) and not _PREPARES.search(named)

    @functools.cached_property
    def keeps_house(self) -> bool:
        """Whether it notes or tidies up, and is no stage of the work."""
        call = self.call
        if call and call.operation.startswith(_HOUSE):
            return True
        return self.notifies or (bool(self.function) and bool(_TIDIES.search(self._words)))

    @functools.cached_property
    def looks_up(self) -> bool:
        """Whether it only asks for something, a status for instance."""
        call = self.call
        if call and (call.service, call.operation) != _INVOKE:
            return call.reads
        return bool(self.function) and bool(_ASKS.search(self._words))

    @property
    def _words(self) -> str:
        return f"{self.name} {self.function}"


_INVOKE = ("lambda", "Invoke")
_TELLING = ("sns", "sqs", "events", "eventbridge", "ses", "sesv2", "chatbot", "cloudwatch")
_HOUSE = words("Stop Delete Update Put Add Tag Untag Terminate Cancel Disable")
_TELLS = re.compile(r"notif|alert|slack|e-?mail|page(r|duty)|webhook|announce", re.IGNORECASE)
_PREPARES = re.compile(r"prepare|build|render|format|compose|payload|template|creat", re.IGNORECASE)
_TIDIES = re.compile(
    r"clean|tidy|delete|record|audit|\blog|metric|mark|persist|rollback|compensat", re.IGNORECASE
)
_ASKS = re.compile(
    r"status|poll|\b(check|describe|get|list|look-?up|is|has)(?![a-z])|"
    r"(Check|Describe|Get|List|Lookup|Status|Is|Has)(?![a-z])"
)


@dataclass(frozen=True)
class Machine:
    """A machine or one branch: states by name. ``start`` may name none that is there."""

    start: str
    states: dict[str, State]
    timeout: int | None = None

    def every(self) -> Iterator[State]:
        """All states, those of branches after the state that holds them."""
        for state in self.states.values():
            yield state
            for branch in state.branches:
                yield from branch.every()

    def machines(self) -> Iterator[Machine]:
        """Itself, and the branches inside it."""
        yield self
        for state in self.states.values():
            for branch in state.branches:
                yield from branch.machines()


def machine_of(document: Any, jsonata: bool = False) -> Machine:
    """Read a machine from ASL's JSON; what is malformed reads as absent: the grammar tells."""
    document = document if isinstance(document, dict) else {}
    jsonata = document.get("QueryLanguage", "JSONata" if jsonata else "JSONPath") == "JSONata"
    states = document.get("States")
    states = states if isinstance(states, dict) else {}
    timeout = document.get("TimeoutSeconds")
    return Machine(
        start=str(document.get("StartAt", "")),
        states={
            name: _state(name, body, jsonata)
            for name, body in states.items()
            if isinstance(body, dict)
        },
        timeout=timeout if isinstance(timeout, int) else None,
    )


def _state(name: str, body: dict[str, Any], jsonata: bool) -> State:
    jsonata = body.get("QueryLanguage", "JSONata" if jsonata else "JSONPath") == "JSONata"
    kind = str(body.get("Type", ""))
    inner: list[Any] = []
    if kind == "Parallel" and isinstance(body.get("Branches"), list):
        inner = body["Branches"]
    elif kind == "Map":
        inner = [body.get("ItemProcessor", body.get("Iterator"))]
    return State(name, kind, body, jsonata, tuple(machine_of(b, jsonata) for b in inner))

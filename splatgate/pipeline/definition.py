"""A state machine's definition, read as Amazon States Language: states, branches, what they call.

Sources: Amazon States Language specification (states-language.net); Step Functions Developer Guide,
"Call other AWS services".
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splatgate.evidence import BadInput
from splatgate.pipeline import deployment

#: Step Functions takes definitions up to 1 MB; more is some other file.
MAX_FILE = 4 * 1024**2


@dataclass(frozen=True)
class Kind:
    """A kind of SageMaker job: its operations and the members that name it and its status."""

    word: str
    create: str
    describe: str
    name: str
    status: str


def _kind(word: str) -> Kind:
    return Kind(
        word.lower(),
        f"Create{word}Job",
        f"Describe{word}Job",
        f"{word}JobName",
        f"{word}JobStatus",
    )


KINDS: tuple[Kind, ...] = tuple(map(_kind, ("Training", "Processing", "Transform")))


@dataclass(frozen=True)
class Call:
    """What a Task's Resource names. ``operation`` is in the API's spelling (CreateTrainingJob)."""

    service: str
    operation: str
    #: ``sync``, ``waitForTaskToken`` or "" (request and response).
    pattern: str = ""

    @property
    def creates(self) -> Kind | None:
        """The kind of job that this starts."""
        found = (k for k in KINDS if self.service == "sagemaker" and k.create == self.operation)
        return next(found, None)

    @property
    def describes(self) -> Kind | None:
        """The kind of job that this asks about."""
        found = (k for k in KINDS if self.service == "sagemaker" and k.describe == self.operation)
        return next(found, None)


_RESOURCE = re.compile(
    r"arn:aws[a-z-]*:states:[^:]*:[^:]*:(?:aws-sdk:)?(?P<service>[a-z0-9-]+):"
    r"(?P<operation>[A-Za-z0-9]+)(?:\.(?P<pattern>sync|waitForTaskToken)(?::\d)?)?"
)


@functools.cache
def call_of(text: str) -> Call | None:
    """What a Resource calls, or None where it cannot be told (an activity, a placeholder)."""
    # Deployments fill in the partition, and more: what is called stands beside.
    text = re.sub(r"\$\{[^}]*\}", "aws", text)
    if re.match(r"arn:aws[a-z-]*:lambda:", text):
        return Call("lambda", "Invoke")
    found = _RESOURCE.fullmatch(text)
    if found is None:
        return None
    operation = found["operation"]
    return Call(found["service"], operation[:1].upper() + operation[1:], found["pattern"] or "")


@dataclass(frozen=True)
class State:
    """One state; ``branches`` are the machines inside a Parallel or a Map."""

    name: str
    type: str
    body: dict[str, Any]
    jsonata: bool
    branches: tuple[Machine, ...] = ()

    @property
    def call(self) -> Call | None:
        """What a Task calls."""
        return call_of(str(self.body.get("Resource"))) if self.type == "Task" else None

    @property
    def arguments(self) -> Any:
        """What a Task sends: Parameters, or Arguments in JSONata."""
        return self.body.get("Arguments" if self.jsonata else "Parameters", {})

    @property
    def notifies(self) -> bool:
        """Whether it only tells somebody, so that its failure must decide nothing."""
        call = self.call
        if self.type != "Task" or (call and call.pattern == "waitForTaskToken"):
            return False
        if call and call.service in _TELLING:
            return True
        return self._is_lambda(_TELLS)

    @property
    def keeps_house(self) -> bool:
        """Whether it notes or tidies up, and is no stage of the work."""
        call = self.call
        if call and call.operation.startswith(("Stop", "Delete", "Update", "Put", "Add", "Tag")):
            return True
        return self.notifies or self._is_lambda(_TIDIES)

    def _is_lambda(self, words: re.Pattern[str]) -> bool:
        """Whether a function has one of some words in its name, or its state's."""
        function = self.arguments.get("FunctionName") if isinstance(self.arguments, dict) else None
        names = f"{self.name} {function or self.body.get('Resource')}"
        called = self.call
        return (
            self.type == "Task"
            and (not called or called.service == "lambda")
            and bool(words.search(names))
        )


_TELLING = ("sns", "sqs", "events", "eventbridge", "ses", "sesv2", "chatbot", "cloudwatch")
_TELLS = re.compile(r"notif|alert|slack|e-?mail|page(r|duty)|webhook|announce", re.IGNORECASE)
_TIDIES = re.compile(r"clean|tidy|delete|record|audit|\blog|metric|mark|persist", re.IGNORECASE)


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


def machine_of(document: Any, jsonata: bool = False) -> Machine:
    """Read a machine from ASL's JSON; what is malformed reads as absent, for statelint to tell."""
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


#: A placeholder where JSON wants a value, as in a template of Terraform.
_BARE = re.compile(r"[:\[,]\s*[$%]\{")


def parse(text: str) -> tuple[dict[str, Any], list[str]]:
    """A definition's text as JSON, and what is wrong with it as text.

    Takes what holds one as well: what describe-state-machine printed, a template of CloudFormation.
    """
    twice: list[str] = []

    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                twice.append(f"{key!r} is there twice in one object; the first is lost")
            found[key] = value
        return found

    try:
        document = json.loads(text, object_pairs_hook=members)
        if isinstance(document, dict) and isinstance(document.get("definition"), str):
            document = json.loads(document["definition"], object_pairs_hook=members)
        if deployment.is_template(document):
            try:
                document = deployment.definition_of(document)
            except ValueError as error:
                return {}, [str(error)]
            if isinstance(document, str):
                document = json.loads(document, object_pairs_hook=members)
    except (ValueError, RecursionError) as error:
        bare = "; it has a bare ${…}: render the template first" if _BARE.search(text) else ""
        return {}, [f"not JSON: {str(error).splitlines()[0]}{bare}"]
    if not isinstance(document, dict):
        return {}, ["not a JSON object"]
    return document, twice


def read_text(path: Path, what: str) -> str:
    """The text of a small file.

    Raises:
        BadInput: unreadable, or too large to be one.
    """
    try:
        if path.stat().st_size > MAX_FILE:
            raise BadInput(f"{path}: larger than {MAX_FILE} bytes; give {what}")
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise BadInput(f"{path}: {error.strerror}; give {what}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: not UTF-8 text; give {what}") from None


def read_json(path: Path, what: str) -> Any:
    """A JSON file.

    Raises:
        BadInput: unreadable or not JSON.
    """
    try:
        return json.loads(read_text(path, what))
    except (ValueError, RecursionError) as error:
        line = str(error).splitlines()[0]
        raise BadInput(f"{path}: not JSON: {line}; give {what}") from None

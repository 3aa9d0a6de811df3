"""The state machines of a document: a definition, or what holds some.

Taken: Amazon States Language itself; what describe-state-machine prints; templates of
CloudFormation, CDK and SAM; what ``terraform show -json`` prints; the Serverless Framework's file.
What only a deployment knows stays as ``{{Name}}``, and is unknown to all that follows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splatgate.evidence import BadInput
from splatgate.pipeline.document import Placed, parse, read_text
from splatgate.pipeline.json_values import changed, member, objects

_TYPES = ("AWS::StepFunctions::StateMachine", "AWS::Serverless::StateMachine")
_SUB = re.compile(r"\$\{(!?)([^}]+)\}")
SHOWN = "a definition in Amazon States Language, or a template that holds one"
_UNREAD = object()


@dataclass(frozen=True)
class Found:
    """A state machine of a document."""

    #: Its name in the template; "": the document is the definition.
    name: str
    definition: dict[str, Any]
    #: What is wrong with it as text.
    problems: tuple[str, ...] = ()
    #: Why it cannot be judged; "": it can.
    unread: str = ""


def machines(document: Any, twice: list[str], name: str, folder: Path) -> list[Found]:
    """Every state machine of a document; ``folder`` is where files that it names lie.

    Raises:
        BadInput: there is none; says what it is and what to give.
    """
    if isinstance(document, dict):
        if isinstance(text := document.get("definition"), str):
            return [_read(text, "", {}, f"{name}: its `definition`")]
        if "StartAt" in document or "States" in document:
            return [Found("", _Template({}).resolved(document), tuple(twice))]
        found = [*_of_template(document, name, folder), *_of_terraform(document, name)]
        steps = document.get("stepFunctions", document)
        named = member(steps, "stateMachines")
        for key, value in named.items() if isinstance(named, dict) else ():
            inner = member(value, "definition")
            if isinstance(inner, dict):
                found.append(Found(str(key), _Template({}).resolved(inner), tuple(twice)))
        if found:
            return found
    keys = ", ".join(map(repr, list(document)[:5])) if isinstance(document, dict) else ""
    what = f"an object of {keys or 'nothing'}" if isinstance(document, dict) else "no object"
    raise BadInput(
        f"{name}: no state machine in it: it is {what}; give {SHOWN} (StartAt and States, or "
        f"a resource of {' or '.join(_TYPES)})"
    )


def _read(text: str, name: str, filled: dict[str, Any], shown: str, line: int = 0) -> Found:
    """A definition that lies in a template as text."""
    text = _SUB.sub(lambda m: str(filled[m[2]]) if m[2] in filled else m[0], text)
    try:
        document, twice = parse(text, "definition.json")
    except BadInput as error:
        return Found(name, {}, unread=f"{shown}: {str(error).partition(': ')[2]}")
    if not isinstance(document, dict):
        return Found(name, {}, unread=f"{shown}: not a JSON object")
    return Found(name, _placed(document, line) if line else document, tuple(twice))


def _placed(value: Any, line: int) -> Any:
    """A value whose objects all lie at one line."""
    if isinstance(value, dict):
        found = Placed({k: _placed(v, line) for k, v in value.items()})
        found.line = line
        return found
    return [_placed(v, line) for v in value] if isinstance(value, list) else value


class _Template:
    """What a template says of itself: the defaults of its parameters, its mappings."""

    def __init__(self, template: dict[str, Any]) -> None:
        self._values: dict[str, Any] = {"AWS::Partition": "aws", "AWS::URLSuffix": "amazonaws.com"}
        parameters = template.get("Parameters")
        for name, parameter in parameters.items() if isinstance(parameters, dict) else ():
            default = member(parameter, "Default")
            if default is not None and "SSM" not in str(member(parameter, "Type")):
                self._values[name] = default
        self._maps = template.get("Mappings")

    def resolved(self, value: Any) -> Any:
        """A value as it is deployed, as far as the template tells."""
        if isinstance(value, list):
            found = [self.resolved(v) for v in value]
            return [v for v in found if v is not _UNREAD]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            ((key, given),) = value.items()
            if key == "Ref" or key.startswith("Fn::"):
                return self._function(key, given)
        kept = Placed((k, r) for k, v in value.items() if (r := self.resolved(v)) is not _UNREAD)
        kept.line = getattr(value, "line", 0)
        return kept

    def _function(self, key: str, given: Any) -> Any:
        if key == "Ref" and given == "AWS::NoValue":
            return _UNREAD
        if key == "Ref":
            return self._values.get(str(given), "{{" + str(given) + "}}")
        if key == "Fn::Join" and isinstance(given, list) and len(given) == 2:
            parts = given[1] if isinstance(given[1], list) else [given[1]]
            return str(given[0]).join(str(self.resolved(part)) for part in parts)
        if key == "Fn::Sub":
            text, own = given if isinstance(given, list) and len(given) == 2 else (given, {})
            return self._sub(str(text), own if isinstance(own, dict) else {})
        if key == "Fn::If" and isinstance(given, list) and len(given) == 3:
            return self.resolved(given[1])
        if key == "Fn::FindInMap" and isinstance(given, list):
            found = member(self._maps, *(str(self.resolved(g)) for g in given))
            return "{{FindInMap}}" if found is None else found
        if key == "Fn::ToJsonString":
            return self.resolved(given)
        names = given if isinstance(given, list) else [given]
        known = all(isinstance(n, str) for n in names)
        return "{{" + (".".join(names) if known else key) + "}}"

    def _sub(self, text: str, own: dict[str, Any]) -> str:
        values = {**self._values, **{k: self.resolved(v) for k, v in own.items()}}

        def put(found: re.Match[str]) -> str:
            if found[1]:
                return "${" + found[2] + "}"
            return str(values.get(found[2], "{{" + found[2] + "}}"))

        return _SUB.sub(put, text)


def _of_template(document: dict[str, Any], name: str, folder: Path) -> Iterator[Found]:
    resources = document.get("Resources")
    template = _Template(document)
    for key, resource in resources.items() if isinstance(resources, dict) else ():
        if member(resource, "Type") not in _TYPES:
            continue
        properties = member(resource, "Properties")
        properties = properties if isinstance(properties, dict) else {}
        given = template.resolved(member(properties, "DefinitionSubstitutions") or {})
        filled = given if isinstance(given, dict) else {}
        yield _of_resource(key, resource, properties, filled, template, folder)


def _of_resource(
    key: str,
    resource: Any,
    properties: dict[str, Any],
    filled: dict[str, Any],
    template: _Template,
    folder: Path,
) -> Found:
    line = getattr(resource, "line", 0)
    where = properties.get("DefinitionUri", properties.get("DefinitionS3Location"))
    if where is not None:
        path = folder / where if isinstance(where, str) else None
        if path is None or not path.is_file():
            return Found(key, {}, unread=f"its definition lies elsewhere ({where}); give that file")
        document, twice = parse(read_text(path, SHOWN), path.name)
        read = Found(key, document if isinstance(document, dict) else {}, tuple(twice))
    else:
        value = properties.get("DefinitionString", properties.get("Definition"))
        value = template.resolved(value)
        if isinstance(value, str):
            read = _read(value, key, filled, "its DefinitionString", line)
        elif isinstance(value, dict):
            read = Found(key, value)
        else:
            return Found(key, {}, unread="it has no definition")
    return _filled(read, filled)


def _filled(read: Found, filled: dict[str, Any]) -> Found:
    """A definition with its substitutions; one that nobody makes is a problem."""
    nobody: dict[str, None] = {}

    def put(value: Any) -> Any:
        if not isinstance(value, str) or "${" not in value:
            return value
        whole = _SUB.fullmatch(value)
        if whole and whole[2] in filled:
            return _number(filled[whole[2]])
        for found in _SUB.finditer(value):
            if found[2] not in filled:
                nobody.setdefault(found[2])
        return _SUB.sub(lambda m: str(filled.get(m[2], m[0])), value)

    definition = _same_lines(read.definition, changed(read.definition, put))
    problems = (
        f"${{{n}}} is filled by nobody: DefinitionSubstitutions does not name it" for n in nobody
    )
    return Found(read.name, definition, (*read.problems, *problems), read.unread)


def _number(value: Any) -> Any:
    text = str(value)
    return int(text) if re.fullmatch(r"\d{1,9}", text) and not isinstance(value, bool) else value


def _same_lines(before: Any, after: Any) -> Any:
    """A changed copy of a document, each object at the line it had."""
    if isinstance(before, dict):
        found = Placed({k: _same_lines(v, after[k]) for k, v in before.items()})
        found.line = getattr(before, "line", 0)
        return found
    if isinstance(before, list):
        return [_same_lines(b, a) for b, a in zip(before, after, strict=True)]
    return after


def _of_terraform(document: dict[str, Any], name: str) -> Iterator[Found]:
    """What ``terraform show -json`` prints of a plan or a state."""
    modules = [
        root
        for top in ("planned_values", "values")
        if isinstance(root := member(document, top, "root_module"), dict)
    ]
    while modules:
        module = modules.pop(0)
        modules += objects(module.get("child_modules"))
        for resource in objects(module.get("resources")):
            if resource.get("type") != "aws_sfn_state_machine":
                continue
            address = str(resource.get("address", "?"))
            text = member(resource, "values", "definition")
            if isinstance(text, str):
                line = getattr(resource, "line", 0)
                yield _read(text, address, {}, f"{name}: {address}", line)
            else:
                yield Found(
                    address,
                    {},
                    unread="its definition is known after apply only; give a state's JSON",
                )

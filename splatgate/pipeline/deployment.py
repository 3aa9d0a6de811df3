"""A state machine inside a template of CloudFormation, CDK or SAM (JSON)."""

from __future__ import annotations

from typing import Any

_TYPES = ("AWS::StepFunctions::StateMachine", "AWS::Serverless::StateMachine")


def is_template(document: Any) -> bool:
    """Whether this is a template, and no definition."""
    return isinstance(document, dict) and isinstance(document.get("Resources"), dict)


def definition_of(template: dict[str, Any]) -> Any:
    """The definition of the one state machine in a template, as text or as an object.

    What only a deployment knows (``Ref``, ``Fn::GetAtt``, …) is a placeholder, ``${Name}``.

    Raises:
        ValueError: there is none, or more than one, or its definition lies elsewhere.
    """
    found = {
        name: resource.get("Properties")
        for name, resource in template["Resources"].items()
        if isinstance(resource, dict) and resource.get("Type") in _TYPES
    }
    if len(found) != 1:
        names = f" ({', '.join(found)})" if found else ""
        raise ValueError(f"a template of {len(found)} state machines{names}; give one's definition")
    ((name, properties),) = found.items()
    for member in ("DefinitionString", "Definition"):
        if isinstance(properties, dict) and member in properties:
            return _filled(properties[member])
    raise ValueError(f"the definition of {name} lies outside the template; give that file")


def _filled(value: Any) -> Any:
    """A value with placeholders for what a deployment fills in."""
    if isinstance(value, list):
        return [_filled(v) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1:
        ((key, given),) = value.items()
        if key == "Fn::Join" and isinstance(given, list) and len(given) == 2:
            parts = given[1] if isinstance(given[1], list) else [given[1]]
            return str(given[0]).join(str(_filled(part)) for part in parts)
        if key == "Fn::Sub":
            return str(given[0] if isinstance(given, list) and given else given)
        if key == "Ref" or key.startswith("Fn::"):
            names = given if isinstance(given, list) else [given]
            known = all(isinstance(n, str) for n in names)
            return "${" + (".".join(names) if known else key) + "}"
    return {k: _filled(v) for k, v in value.items()}

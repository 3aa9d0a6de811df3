"""Checks a request against the service model, as the service would and its Python client does not.

botocore refuses unknown and missing members, wrong types and what is too short; maxima, patterns
and enumerations pass (contract 7.1, measured). This walk reads them from the same model.
"""

from __future__ import annotations

import difflib
import functools
import gzip
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from splatgate.evidence import BadInput
from splatgate.instances import DECLARED, INSTANCES

_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "boolean": (bool,),
    "list": (list, tuple),
    "map": (dict,),
    "structure": (dict,),
}


def validate(
    request: object, *, operation: str = "CreateTrainingJob", unknown: Sequence[str] = ()
) -> list[str]:
    """List what the service would refuse in ``request``, each as ``path: reason``.

    ``request`` is the document itself, or a ``Request``, whose ``raw`` is taken. ``unknown``: paths
    of what was left out of it, since only an execution knows the value. For
    CreateTrainingJob the rules that the model cannot state are added (contract 1.4, 2.4, 2.6, 7.1).
    """
    document = getattr(request, "raw", request)
    found = [e for e in _walk(_shape(operation), document, "") if not _within(e, unknown)]
    if operation == "CreateTrainingJob" and isinstance(document, Mapping) and not found:
        found += [e for e in _rules(document) if not _within(e, unknown)]
    return found


def instance_type(name: str) -> None:
    """Refuse what is no instance type for training; where botocore is missing, nothing is known.

    Raises:
        BadInput: SageMaker has no such type; names the nearest.
    """
    if find_spec("botocore") is None:
        return
    types = model()["shapes"]["TrainingInstanceType"]["enum"]
    if name not in types:
        near = difflib.get_close_matches(name, types, 1) or [DECLARED[0]]
        raise BadInput(f"SageMaker trains on no instance type {name!r}; did you mean {near[0]}?")


def _within(error: str, unknown: Sequence[str]) -> bool:
    """Whether an error is about what is unknown, or about what holds it."""
    where = error.partition(": ")[0]
    return any(p == where or p.startswith((f"{where}.", f"{where}[")) for p in unknown)


@functools.cache
def model(service: str = "sagemaker") -> Any:
    """botocore's model of a service, newest version.

    Read without botocore, whose loader brings a client's machinery along: half of what a short verb
    takes to start.
    """
    found = find_spec("botocore")
    assert found is not None
    assert found.origin is not None
    models = Path(found.origin).parent.joinpath("data", service).glob("*/service-2.json*")
    path = max(models, key=lambda p: p.parent.name)
    packed = path.read_bytes()
    return msgspec.json.decode(gzip.decompress(packed) if path.suffix == ".gz" else packed)


def _shape(operation: str) -> dict[str, Any]:
    """The shape of an operation's request, without members where it has none."""
    known = model()
    named = known["operations"][operation].get("input")
    found: dict[str, Any] = known["shapes"][named["shape"]] if named else {"members": {}}
    return found


def _walk(shape: Mapping[str, Any], value: object, path: str) -> Iterator[str]:
    kind = shape["type"]
    expected = _TYPES.get(kind)
    if expected and (
        not isinstance(value, expected) or (isinstance(value, bool) and kind != "boolean")
    ):
        yield f"{path or 'request'}: {_show(value)} is not of type {kind}"
        return
    shapes = model()["shapes"]
    if isinstance(value, dict) and kind == "structure":
        for name in shape.get("required", ()):
            if name not in value:
                yield f"{_join(path, name)}: missing"
        for name, member in value.items():
            if name not in shape["members"]:
                yield f"{_join(path, name)}: no such member"
            else:
                inner = shapes[shape["members"][name]["shape"]]
                yield from _walk(inner, member, _join(path, name))
    elif isinstance(value, dict) and kind == "map":
        yield from _size(shape, len(value), path, "entries")
        for key, member in value.items():
            yield from _walk(shapes[shape["key"]["shape"]], key, f"{path}[{_show(key)}] (key)")
            yield from _walk(shapes[shape["value"]["shape"]], member, f"{path}[{_show(key)}]")
    elif isinstance(value, (list, tuple)):
        yield from _size(shape, len(value), path, "items")
        for number, member in enumerate(value):
            yield from _walk(shapes[shape["member"]["shape"]], member, f"{path}[{number}]")
    elif isinstance(value, str):
        yield from _size(shape, len(value), path, "characters")
        pattern = shape.get("pattern")
        if pattern and not _pattern(pattern, value).fullmatch(value):
            yield f"{path}: {_show(value)} does not match {pattern}"
        enum = shape.get("enum")
        if enum and value not in enum:
            yield f"{path}: {_show(value)} is none of the {len(enum)} values that the service knows"
    elif isinstance(value, (int, float)):
        yield from _size(shape, value, path, "")


def _size(shape: Mapping[str, Any], size: float, path: str, unit: str) -> Iterator[str]:
    low, high = shape.get("min"), shape.get("max")
    if low is not None and size < low:
        yield f"{path}: {size} {unit}".rstrip() + f", at least {low}"
    if high is not None and size > high:
        yield f"{path}: {size} {unit}".rstrip() + f", at most {high}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


#: \p{Alnum} is Java's, ASCII only; the others are Unicode general categories, here their ASCII.
#: Python's re knows neither.
_CLASSES = {"Alnum": "a-zA-Z0-9", "L": "a-zA-Z", "Z": " ", "N": "0-9"}


def _pattern(pattern: str, value: str) -> re.Pattern[str]:
    """A pattern of the model for one value: a category stands for its characters that occur there.

    All uses in the model are inside a character class; re would warn of a nested set.
    """

    def characters(found: re.Match[str]) -> str:
        there = {c for c in value if c > "\x7f" and unicodedata.category(c)[0] == found[1]}
        return _CLASSES[found[1]] + "".join(sorted(there))

    return re.compile(re.sub(r"\\p\{(Alnum|[LZN])\}", characters, pattern))


def _rules(request: Mapping[str, Any]) -> Iterator[str]:
    algorithm = request.get("AlgorithmSpecification")
    if algorithm is None:
        # A serverless job has none; this project starts containers.
        yield "AlgorithmSpecification: missing"
        algorithm = {}
    elif ("TrainingImage" in algorithm) == ("AlgorithmName" in algorithm):
        yield "AlgorithmSpecification: give exactly one of TrainingImage and AlgorithmName"
    for name in ("ResourceConfig", "StoppingCondition"):
        if name not in request:
            yield f"{name}: missing; the model does not require it, a job does"
    resources = request.get("ResourceConfig", {})
    instance = INSTANCES.get(resources.get("InstanceType", ""))
    if "VolumeKmsKeyId" in resources and instance and instance.nvme_gb:
        yield f"ResourceConfig.VolumeKmsKeyId: refused for {instance.name}, which has local storage"
    limits = request.get("StoppingCondition", {})
    spot = request.get("EnableManagedSpotTraining", False)
    if spot and limits.get("MaxWaitTimeInSeconds", 0) < limits.get("MaxRuntimeInSeconds", 86400):
        yield "StoppingCondition.MaxWaitTimeInSeconds: less than MaxRuntimeInSeconds, or missing"
    for number, channel in enumerate(request.get("InputDataConfig", ())):
        path = f"InputDataConfig[{number}]"
        mode = channel.get("InputMode") or algorithm.get("TrainingInputMode", "File")
        source = channel.get("DataSource", {}).get("S3DataSource", {})
        if mode == "FastFile" and source.get("S3DataType") != "S3Prefix":
            yield f"{path}.DataSource.S3DataSource.S3DataType: FastFile takes S3Prefix only"
        if mode == "FastFile" and not source.get("S3Uri", "").endswith("/"):
            yield f"{path}.DataSource.S3DataSource.S3Uri: FastFile needs a final /"
        if mode != "Pipe" and channel.get("CompressionType", "None") == "Gzip":
            yield f"{path}.CompressionType: Gzip is for Pipe mode; nothing is unpacked in {mode}"

"""Checks a request against the service model, as the service would and its Python client does not.

botocore refuses unknown and missing members, wrong types and what is too short; maxima, patterns
and enumerations pass (contract 7.1, measured). This walk reads them from the same model.
"""

from __future__ import annotations

import functools
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Any

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
#: Instance families with an instance store (contract 2.6).
_NVME = ("ml.g4dn.", "ml.g5.", "ml.g6.", "ml.p4d.")


def validate(request: object, *, operation: str = "CreateTrainingJob") -> list[str]:
    """List what the service would refuse in ``request``, each as ``path: reason``.

    ``request`` is the document itself, or a ``Request``, whose ``raw`` is taken. For
    CreateTrainingJob the rules that the model cannot state are added (contract 1.4, 2.4, 2.6, 7.1).
    """
    document = getattr(request, "raw", request)
    found = list(_walk(_input_shape(operation), document, ""))
    if operation == "CreateTrainingJob" and isinstance(document, Mapping) and not found:
        found += _rules(document)
    return found


@functools.cache
def _model(service: str = "sagemaker") -> Any:
    # Most verbs never need it; a session would bring a client's machinery along.
    from botocore.loaders import Loader
    from botocore.model import ServiceModel

    return ServiceModel(Loader().load_service_model(service, "service-2"), service)


@functools.cache
def _input_shape(operation: str) -> Any:
    return _model().operation_model(operation).input_shape


@functools.cache
def members_of_answer(operation: str, service: str = "sagemaker") -> tuple[str, ...]:
    """Members of an operation's answer; none where the service has no such operation."""
    if operation not in _model(service).operation_names:
        return ()
    shape = _model(service).operation_model(operation).output_shape
    return tuple(shape.members) if shape else ()


def unfit_members(request: Mapping[str, Any], operation: str, service: str) -> list[str]:
    """Members of a request that an operation does not have, and those that it lacks."""
    if operation not in _model(service).operation_names:
        return [f"{service} has no {operation}"]
    shape = _model(service).operation_model(operation).input_shape
    known, needed = (shape.members, shape.required_members) if shape else ({}, ())
    missing = [f"{name}: missing" for name in needed if name not in request]
    return missing + [f"{name}: no such member" for name in request if name not in known]


def _walk(shape: Any, value: object, path: str) -> Iterator[str]:
    kind = shape.type_name
    expected = _TYPES.get(kind)
    if expected and (
        not isinstance(value, expected) or (isinstance(value, bool) and kind != "boolean")
    ):
        yield f"{path or 'request'}: {_show(value)} is not of type {kind}"
        return
    if isinstance(value, dict) and kind == "structure":
        for name in shape.required_members:
            if name not in value:
                yield f"{_join(path, name)}: missing"
        for name, member in value.items():
            if name not in shape.members:
                yield f"{_join(path, name)}: no such member"
            else:
                yield from _walk(shape.members[name], member, _join(path, name))
    elif isinstance(value, dict) and kind == "map":
        yield from _size(shape, len(value), path, "entries")
        for key, member in value.items():
            yield from _walk(shape.key, key, f"{path}[{_show(key)}] (key)")
            yield from _walk(shape.value, member, f"{path}[{_show(key)}]")
    elif isinstance(value, (list, tuple)):
        yield from _size(shape, len(value), path, "items")
        for number, member in enumerate(value):
            yield from _walk(shape.member, member, f"{path}[{number}]")
    elif isinstance(value, str):
        yield from _size(shape, len(value), path, "characters")
        pattern = shape.metadata.get("pattern")
        if pattern and not _pattern(pattern).fullmatch(value):
            yield f"{path}: {_show(value)} does not match {pattern}"
        enum = shape.metadata.get("enum")
        if enum and value not in enum:
            yield f"{path}: {_show(value)} is none of the {len(enum)} values that the service knows"
    elif isinstance(value, (int, float)):
        yield from _size(shape, value, path, "")


def _size(shape: Any, size: float, path: str, unit: str) -> Iterator[str]:
    low, high = shape.metadata.get("min"), shape.metadata.get("max")
    if low is not None and size < low:
        yield f"{path}: {size} {unit}".rstrip() + f", at least {low}"
    if high is not None and size > high:
        yield f"{path}: {size} {unit}".rstrip() + f", at most {high}"


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


#: \p{Alnum} is Java's, ASCII only; the others are Unicode general categories. Python's re knows
#: neither.
_CLASSES = {r"\p{Alnum}": "a-zA-Z0-9", r"\p{L}": "L", r"\p{Z}": "Z", r"\p{N}": "N"}


@functools.cache
def _pattern(pattern: str) -> re.Pattern[str]:
    for name, stands_for in _CLASSES.items():
        if name in pattern:
            text = stands_for if len(stands_for) > 1 else _category(stands_for)
            # All uses in the model are inside a character class; re would warn of a nested set.
            pattern = pattern.replace(name, text)
    return re.compile(pattern)


@functools.cache
def _category(letter: str) -> str:
    """Ranges of a Unicode general category, fit for the inside of a character class."""
    ranges: list[list[int]] = []
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code))[0] == letter:
            if ranges and ranges[-1][1] == code - 1:
                ranges[-1][1] = code
            else:
                ranges.append([code, code])
    return "".join(rf"\U{low:08x}-\U{high:08x}" for low, high in ranges)


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
    family = resources.get("InstanceType", "")
    if "VolumeKmsKeyId" in resources and family.startswith(_NVME):
        yield f"ResourceConfig.VolumeKmsKeyId: refused for {family}, which has local storage"
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

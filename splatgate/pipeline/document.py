"""Text to a document: JSON, JSON with comments, or YAML. Objects know the line they begin in."""

from __future__ import annotations

import bisect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from splatgate.evidence import BadInput

#: Step Functions takes definitions up to 1 MB; templates that hold some are not much larger.
MAX_FILE = 4 * 1024**2
#: Values of one document, aliases of YAML followed: a megabyte of definition has some 60,000.
MAX_VALUES = 500_000
#: A string, or what JSON does not have: a comment, a comma before a closing bracket.
_BESIDE = re.compile(
    r'(?P<text>"(?:[^"\\\n]|\\.)*")|(?P<comment>//[^\n]*|/\*.*?\*/)|(?P<comma>,(?=\s*[}\]]))',
    re.DOTALL,
)
#: A string, or a placeholder where JSON wants a value: CloudFormation and Terraform fill it in.
_BARE = re.compile(r'"(?:[^"\\\n]|\\.)*"|(?P<bare>[$%]\{[^{}"\n]+\})')


class Placed(dict[str, Any]):
    """An object of a document. ``line``: where it begins, from 1; 0: not known."""

    line = 0


def parse(text: str, name: str) -> tuple[Any, list[str]]:
    """The document in a text, and members that are there twice. ``name`` decides on comments.

    Raises:
        BadInput: it is neither JSON nor YAML; says what to do.
    """
    if name.endswith((".tf", ".hcl")):
        raise BadInput(
            f"{name}: Terraform's own language is not read; give what `terraform show -json` "
            f"prints of a plan or a state"
        )
    if name.endswith((".jsonc", ".json5")):
        text = _without(_without(text, "comment"), "comma")
    if name.endswith((".yaml", ".yml")) or not re.match(r"\s*(?:[\[{]|//|/\*)", text):
        return _checked(*_yaml(text, name), name)
    try:
        return _checked(*_json(text), name)
    except (ValueError, RecursionError) as error:
        # Placeholders without quotes are text until somebody fills them in.
        quoted = _BARE.sub(lambda m: json.dumps(m["bare"]) if m["bare"] else m[0], text)
        try:
            return _checked(*_json(quoted), name)
        except (ValueError, RecursionError):
            raise BadInput(f"{name}: {_why(text, error)}") from None


def _why(text: str, error: Exception) -> str:
    for kind, shown in (("comment", "a comment"), ("comma", "a comma before a closing bracket")):
        found = next((m for m in _BESIDE.finditer(text) if m[kind]), None)
        if found:
            line = text.count("\n", 0, found.start()) + 1
            return f"line {line}: {shown}, which JSON does not have; remove it, or name it .jsonc"
    bare = "; render the template first" if re.search(r"[$%]\{|\{\{|\{%", text) else ""
    return f"not JSON: {str(error).splitlines()[0]}{bare}"


def _without(text: str, kind: str) -> str:
    """A text without comments or trailing commas, each line where it was."""
    return _BESIDE.sub(lambda m: "\n" * m[0].count("\n") if m[kind] else m[0], text)


def _json(text: str) -> tuple[Any, list[str]]:
    starts = [m.end() for m in re.finditer("\n", text)]
    twice: list[str] = []

    def members(pairs: list[tuple[str, Any]]) -> Placed:
        found = Placed(pairs)
        twice.extend(_again([key for key, _ in pairs]) if len(found) < len(pairs) else ())
        return found

    def placed(start: tuple[str, int], *others: Any) -> tuple[Any, int]:
        value, end = inner(start, *others)
        value.line = bisect.bisect_right(starts, start[1]) + 1
        return value, end

    decoder: Any = json.JSONDecoder(object_pairs_hook=members)
    inner, decoder.parse_object = decoder.parse_object, placed
    # The scanner in C would not call it.
    decoder.scan_once = json.scanner.py_make_scanner(decoder)  # type: ignore[attr-defined]
    return decoder.decode(text), twice


def _again(keys: list[str]) -> Iterator[str]:
    for key in dict.fromkeys(k for k in keys if keys.count(k) > 1):
        yield f"{key!r} is there twice in one object; the first is lost"


def _yaml(text: str, name: str) -> tuple[Any, list[str]]:
    import yaml

    twice: list[str] = []

    class Loader(yaml.CSafeLoader):  # type: ignore[misc]
        """Of CloudFormation: its short tags, dates as text."""

        yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
            first: [(tag, r) for tag, r in found if not tag.endswith(":timestamp")]
            for first, found in yaml.CSafeLoader.yaml_implicit_resolvers.items()
        }

    def mapping(loader: Any, node: Any) -> Iterator[Placed]:
        found = Placed()
        found.line = node.start_mark.line + 1
        yield found
        loader.flatten_mapping(node)
        pairs = [(loader.construct_object(k), loader.construct_object(v)) for k, v in node.value]
        for key, value in pairs:
            found[str(key)] = value
        twice.extend(_again([str(k) for k, _ in pairs]))

    def short(loader: Any, tag: str, node: Any) -> Any:
        value = (
            loader.construct_scalar(node)
            if isinstance(node, yaml.ScalarNode)
            else loader.construct_sequence(node, deep=True)
            if isinstance(node, yaml.SequenceNode)
            else loader.construct_mapping(node, deep=True)
        )
        found = Placed({tag if tag in ("Ref", "Condition") else f"Fn::{tag}": value})
        found.line = node.start_mark.line + 1
        return found

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    Loader.add_multi_constructor("!", short)
    try:
        documents = list(yaml.load_all(text, Loader))  # a safe loader
    except (yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise BadInput(f"{name}: neither JSON nor YAML: {line[:200]}") from None
    if len(documents) != 1:
        raise BadInput(f"{name}: {len(documents)} YAML documents; give one")
    return documents[0], twice


def _checked(document: Any, twice: list[str], name: str) -> tuple[Any, list[str]]:
    """A document that is small enough to walk, its aliases followed."""
    left, todo = MAX_VALUES, [document]
    while todo:
        value = todo.pop()
        inner = value.values() if isinstance(value, dict) else value
        if isinstance(value, dict | list):
            left -= len(value)
            todo.extend(inner)
        if left < 0:
            raise BadInput(f"{name}: more than {MAX_VALUES} values, its aliases followed")
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

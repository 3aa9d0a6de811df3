"""Makes docs/subject-profile.md from the types of the subject profile and from ours.

Run it after a change of either: ``python tests/profile_page.py``. A unit test holds the page.
"""

from __future__ import annotations

import inspect
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT)]

from msgspec import inspect as types  # noqa: E402

from splatgate import subject  # noqa: E402

PAGE = ROOT / "docs" / "subject-profile.md"
HEAD = """# The subject profile

A TOML file that says how to ask a trainer for a short run, and where it puts what it made. It
describes; it relaxes nothing. Put it into the image and name it in the label
`io.splatgate.subject`, or give `--subject FILE`. Without one, what needs training is *not
verified*. A key that nothing reads is an error that names the nearest known one.

Made from `splatgate/subject.py` and `image/subject.toml` by `python tests/profile_page.py`; not
edited by hand. Examples are of the trainer in `image/`; where it leaves a key out, the example is
the default.
"""


def page() -> str:
    """The page as Markdown."""
    example = tomllib.loads((ROOT / "image" / "subject.toml").read_text())
    return "\n".join([HEAD, *_table(types.type_info(subject.Profile), example, "")]) + "\n"


def _table(kind: types.DataclassType, example: dict, name: str) -> list[str]:
    says = _comments(kind.cls)
    about = inspect.getdoc(kind.cls) or ""
    lines = [
        f"## `[{name}]`" if name else "## Top of the file",
        "",
        " ".join(about.replace("``", "`").split()),
        "",
    ]
    lines += ["| key | kind | example | meaning |", "|---|---|---|---|"]
    below = []
    for field in kind.fields:
        inner, value = _record(field.type), example.get(field.encode_name)
        path = f"{name}.{field.encode_name}" if name else field.encode_name
        if inner and not isinstance(field.type, types.VarTupleType):
            below.append((inner, value or {}, path))
            continue
        if value is None:
            value = None if field.required else field.default
            value = None if value is types.NODEFAULT or not isinstance(value, str | int) else value
        shown = "" if value in (None, {}, ()) else f"`{_short(value)}`"
        needed = " (required)" if field.required else ""
        meaning = says.get(field.encode_name, "").replace("|", "\\|")
        lines.append(
            f"| `{field.encode_name}` | {_kind(field.type)}{needed} | {shown} | {meaning} |"
        )
    lines.append("")
    told = set()
    for inner, value, path in below:
        # Stages are alike: one table stands for them.
        if inner.cls not in told:
            lines += _table(inner, value, path)
        told.add(inner.cls)
    return lines


def _record(kind: types.Type) -> types.DataclassType | None:
    if isinstance(kind, types.UnionType):
        return next((r for of in kind.types if (r := _record(of))), None)
    return kind if isinstance(kind, types.DataclassType) else None


def _kind(kind: types.Type) -> str:
    match kind:
        case types.UnionType():
            return " or ".join(_kind(of) for of in kind.types if not isinstance(of, types.NoneType))
        case types.DictType():
            return "table of text"
        case types.VarTupleType() | types.TupleType():
            return "list"
        case types.LiteralType():
            return " or ".join(kind.values)
    words = {"Str": "text", "Int": "integer", "Bool": "true or false", "Float": "number"}
    return words.get(type(kind).__name__.removesuffix("Type"), "table")


def _short(value: object) -> str:
    if isinstance(value, dict):
        key, of = next(iter(value.items()))
        more = ", …" if len(value) > 1 else ""
        return f"{{ {key} = {_short(of)}{more} }}"
    if isinstance(value, list | tuple):
        return f"[{_short(value[0])}, …]" if len(value) > 1 else f"[{_short(value[0])}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _comments(cls: type) -> dict[str, str]:
    """What the ``#:`` lines before each field say."""
    found, said = {}, []
    for line in inspect.getsource(cls).splitlines():
        if comment := re.match(r"\s+#: (.*)", line):
            said.append(comment[1])
        elif field := re.match(r"    (\w+): ", line):
            found[field[1]] = " ".join(said).replace("``", "`")
            said = []
    return found


if __name__ == "__main__":
    PAGE.write_text(page())

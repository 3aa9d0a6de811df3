"""The one exit: what leaves for screen, JSON, note and request goes through here.

Takes out what must not be shared (accounts, signed URLs, credentials, people, places), strips what
a terminal would obey, and escapes what Markdown or HTML would. Every pattern runs in linear time.
"""

from __future__ import annotations

import functools
import itertools
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from splatgate.container.secrets import SHAPES, is_secret

#: Sequences that a terminal obeys (CSI, OSC, DCS, …), other control characters, and those that turn
#: the direction of text or have no width.
_CONTROL = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b[\]PX^_][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)?|\x1b.?|"
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
)
_ACCOUNT = re.compile(
    r"(?i)arn:aws[\w-]*:[^:\s\"]*:[^:\s\"]*:(\d{12}):|\b(\d{12})\.dkr\.ecr\.|(?<![\d.])((?!20)\d{12})(?![\d.])"
)
#: Forms that their makers document.
FORMS = tuple(
    (name, re.compile(form))
    for name, forms in tomllib.loads(Path(__file__).with_name("forms.toml").read_text()).items()
    for form in forms
)
#: NAME=VALUE, "NAME": "VALUE", --name VALUE, quotes of JSON inside JSON included.
_PAIR = re.compile(
    r"(?<![\w$])((?:--?)?[A-Za-z_][\w-]{0,80})(\\*[\"']?\s{0,3}[:=]\s{0,3}\\*[\"']?|(?<=[\w])\s(?=\S))([^\s\"'\\,;&}]{4,})"
)
_NAMES = re.compile(
    r"(?i)(?:^|[_-])(?:\w*token|secret|\w*passw(?:or)?d|pwd|passphrase|pass|credentials?|cookie|dsn|salt|signature|pat"
    r"|api_?key|apikey|access_?key(?:_?id)?|secret_?(?:access_?)?key|auth_?key|private_?key|account_?key|signing_?key"
    r"|encryption_?key|license_?key|(?-i:[A-Z0-9_]+_KEY)|webhook|connection_?string|authorization|login)$"
)
_PLACE = re.compile(r"(?i)^(?:lat|lon|lng|latitude|longitude)$|gps")
_PLAIN = re.compile(
    r"(?i)(?:true|false|none|null|yes|no|\d{1,11}(?:\.\d{1,3})?|[/.~$<{(\[%*].*|\W+)"
)
#: A long word of many changes between small, capital and digit is random, and somebody's secret.
_RANDOM = re.compile(r"(?<![\w+/=.$-])(?=[A-Za-z0-9+/_=-]{28,512}(?![\w+/=.-]))[A-Za-z0-9+/_=-]+")


class Redactor:
    """Replaces the same account by the same stand-in in all that one run writes."""

    def __init__(self) -> None:
        self._accounts: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        """The text without what must not be shared; ARNs and image names keep their form."""
        for name, pattern in FORMS:
            text = pattern.sub(functools.partial(_form, name), text)
        for shape in SHAPES:
            text = shape.pattern.sub(f"[redacted: {shape.name}]", text)
        text = _ACCOUNT.sub(self._account, text)
        text = _PAIR.sub(_pair, text)
        return _RANDOM.sub(_random, text)

    def _account(self, found: re.Match[str]) -> str:
        account = found[1] or found[2] or found[3]
        stand_in = self._accounts.setdefault(account, f"{len(self._accounts) + 1:012d}")
        return found[0].replace(account, stand_in)


def _form(name: str, found: re.Match[str]) -> str:
    return f"{found.groupdict().get('keep') or ''}[redacted: {name}]"


def _pair(found: re.Match[str]) -> str:
    name, between, value = found.groups()
    bare = name.lstrip("-")
    if between.isspace() and not name.startswith("-"):
        return found[0]
    named = _NAMES.search(bare) is not None and _PLAIN.fullmatch(value) is None
    secret = value.startswith("[redacted") is False and (named or is_secret(bare.upper(), value))
    return f"{name}{between}[redacted]" if secret else found[0]


def _random(found: re.Match[str]) -> str:
    word = found[0]
    kinds = [
        "l" if c.islower() else "u" if c.isupper() else "d" if c.isdigit() else "o" for c in word
    ]
    changes = sum(a != b for a, b in itertools.pairwise(kinds))
    mixed = {"l", "u", "d"} <= set(kinds) and "/" not in word[:1]
    return "[redacted: a long random word]" if mixed and changes > 0.4 * len(word) else word


def stripped(text: str) -> str:
    """The text without what a terminal would obey."""
    return _CONTROL.sub("", text)


def shown(value: Any, clean: Callable[[str], str], name: str = "") -> Any:
    """A value of JSON, every text in it, names of members included, as it may leave.

    A secret's ``name`` stands beside its value, not in it.
    """
    if isinstance(value, str):
        told = clean(stripped(value))
        secret = len(value) > 3 and _NAMES.search(name) and not _PLAIN.fullmatch(value)
        return "[redacted]" if secret and isinstance(clean, Redactor) else told
    if isinstance(value, float) and _PLACE.search(name) and isinstance(clean, Redactor):
        return "[redacted: a place]"
    if isinstance(value, Mapping):
        return {shown(k, clean): shown(v, clean, str(k)) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [shown(v, clean) for v in value]
    return value


def prose(text: str) -> str:
    """One line that Markdown and HTML show as it is, and that a person can still read as it is."""
    line = " ".join(stripped(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]]|(?<!\w)_|_(?!\w)|(?<=\])\(|~(?=~))", r"\\\1", line)
    return re.sub(r"(?i)\b(https?|javascript|ftp|file|data)(?=:)", r"\1\\", line)

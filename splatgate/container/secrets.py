"""Finds secrets in texts that everyone who may pull an image may read: environment, labels,
history.

An answer names the variable or the kind of secret, never its value: it ends in logs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A kind of secret that is known by its form wherever it stands."""

    name: str
    pattern: re.Pattern[str]


#: Forms that their issuers document, so that scanners can find them.
SHAPES = (
    Shape("an AWS access key id", re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b")),
    Shape("a private key", re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")),
    Shape(
        "a GitHub token", re.compile(r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22})")
    ),
    Shape("a GitLab token", re.compile(r"\bglpat-[\w-]{20}")),
    Shape("a Hugging Face token", re.compile(r"\bhf_[A-Za-z0-9]{30}")),
    Shape("a PyPI token", re.compile(r"\bpypi-AgEI[\w-]{20}")),
    Shape("a Slack token", re.compile(r"\bxox[abprs]-[\w-]{10}")),
    Shape("a Google API key", re.compile(r"\bAIza[\w-]{35}")),
    # A variable in the password's place is expanded later, and its value is not in the text.
    Shape("an address with a password", re.compile(r"\b[a-z][a-z0-9+.-]*://[^/\s:@]+:[^/\s:@$]+@")),
)
#: Names of variables that hold secrets. GPG_KEY of Python's official images is a fingerprint, and
#: TOKENIZERS_PARALLELISM, SECRET_ARN and PASSWORD_FILE only sound alike: the word stands last.
_NAME = re.compile(
    r"(?:^|_)(?:TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIALS?|APIKEY"
    r"|(?:SECRET|PRIVATE|ACCESS|API|AUTH|ENCRYPTION|SIGNING|DEPLOY|LICENSE)_?KEY(?:_ID)?)$",
    re.IGNORECASE,
)
#: Values that give nothing away: none, a switch, a number, a path, a reference, asterisks.
_HARMLESS = re.compile(r"(?:|true|false|yes|no|none|null|\d+|[/.~].*|\$.*|\*+|<.*>)", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"(?<![\w$-])([A-Za-z_]\w*)=(\"[^\"]*\"|'[^']*'|[^\s;&|]*)")


def in_text(text: str) -> Iterator[str]:
    """Each secret in a command, a label or a value, by kind or by the name of its variable."""
    for shape in SHAPES:
        if shape.pattern.search(text):
            yield shape.name
    for name, value in _ASSIGNMENT.findall(text):
        if is_secret(name, value.strip("\"'")):
            yield name


def in_environment(variables: Mapping[str, str]) -> Iterator[str]:
    """Each secret in an environment, by the name of its variable."""
    for name, value in variables.items():
        if is_secret(name, value) or any(shape.pattern.search(value) for shape in SHAPES):
            yield name


def is_secret(name: str, value: str) -> bool:
    """Whether a variable of this name and value holds a secret."""
    return _NAME.search(name) is not None and _HARMLESS.fullmatch(value) is None

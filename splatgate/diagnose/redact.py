"""Takes out of a bundle what must not be shared: account numbers, signed URLs, credentials."""

from __future__ import annotations

import re

from splatgate.container.secrets import SHAPES, is_secret

_ACCOUNT = re.compile(r"arn:aws[\w-]*:[^:\s\"]*:[^:\s\"]*:(\d{12}):|\b(\d{12})\.dkr\.ecr\.")
_SIGNED = re.compile(
    r"(https?://[^\s\"?]+)\?[^\s\"]*\b(?:X-Amz-Signature|Signature|X-Amz-Security-Token)="
    r"[^\s\"]*"
)
#: NAME=VALUE and "NAME": "VALUE", quotes of JSON inside JSON included.
_PAIR = re.compile(r"([A-Za-z_]\w*)(\\*[\"']?\s*[:=]\s*\\*[\"']?)([^\s\"'\\,;&}]+)")
_SESSION = re.compile(r"(?i)(session[_-]?token|secret[_-]?access[_-]?key)")


class Redactor:
    """Replaces the same account by the same stand-in in every file of one bundle."""

    def __init__(self) -> None:
        self._accounts: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        """The text without what must not be shared; ARNs and image names keep their form."""
        for found in _ACCOUNT.finditer(text):
            account = found[1] or found[2]
            self._accounts.setdefault(account, f"{len(self._accounts) + 1:012d}")
        if self._accounts:
            every = re.compile(rf"(?<!\d)(?:{'|'.join(self._accounts)})(?!\d)")
            text = every.sub(lambda m: self._accounts[m[0]], text)
        text = _SIGNED.sub(r"\1?[redacted]", text)
        for shape in SHAPES:
            text = shape.pattern.sub(f"[redacted: {shape.name}]", text)
        return _PAIR.sub(_pair, text)


def _pair(found: re.Match[str]) -> str:
    name, between, value = found.groups()
    secret = is_secret(name, value) or _SESSION.search(name)
    return f"{name}{between}[redacted]" if secret else found[0]

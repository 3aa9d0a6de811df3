"""The one exit: what leaves for screen, JSON, note and request goes through here.

Takes out what must not be shared (accounts, signed URLs, credentials, people, places), strips what
a terminal would obey, and escapes what Markdown or HTML would. Every pattern runs in linear time.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
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
_MAKERS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (name, re.compile(pattern))
    for name, pattern in (
        (
            "a private key",
            r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----[\s\S]{0,8000}?"
            r"(?:-----END [A-Z ]{0,40}PRIVATE KEY(?: BLOCK)?-----|\Z)",
        ),
        (
            "a signed address",
            r"(?i)(?<=\?)[^\s\"'<>]*\b(?:X-Amz-[\w-]+|Signature|sig|se|token|access_token)=[^\s\"'<>]*",
        ),
        ("a JSON web token", r"\beyJ[\w-]{8,}\.[\w-]{4,}(?:\.[\w-]*)?"),
        (
            "a bearer's token",
            r"(?i)\b(?<=bearer )[\w.~+/=-]{8,}|(?i:(?<=basic ))[A-Za-z0-9+/]{12,}={0,2}",
        ),
        (
            "an AWS key",
            r"\b(?:AKIA|ASIA|AROA|AIDA|ABIA|ACCA)[A-Z0-9]{12,}\b|\bIQoJb3[\w+/=%-]{20,}",
        ),
        ("a GitHub token", r"\b(?:gh[pousr]_\w{20,}|github_pat_\w{20,})"),
        (
            "a token",
            r"\b(?:glpat|gldt|glrt|glcbt|glptt)-[\w.-]{16,}|\bhf_[A-Za-z0-9]{16,}|\bpypi-[\w-]{20,}",
        ),
        ("a token", r"\bxox[a-z]-[\w-]{10,}|\bxapp-[\w-]{10,}|hooks\.slack\.com/services/[\w/]+"),
        ("a token", r"\bAIza[\w-]{30,}|\bya29\.[\w-]{20,}|\bGOCSPX-[\w-]{20,}|\b1//0[\w-]{20,}"),
        ("a token", r"\b(?:sk|rk|pk)_(?:live|test)_\w{10,}|\bwhsec_\w{16,}|\bsq0\w{3}-[\w-]{20,}"),
        (
            "a token",
            r"\bsk-[\w-]{16,}|\bnvapi-[\w-]{20,}|\br8_\w{20,}|\bgsk_\w{20,}|\bxai-\w{20,}|\bpplx-\w{20,}",
        ),
        (
            "a token",
            r"\bSG\.[\w-]{16,}\.[\w-]{16,}|\bkey-[0-9a-f]{32}\b|\bAC[0-9a-f]{32}\b|\bSK[0-9a-f]{32}\b",
        ),
        (
            "a token",
            r"\bnpm_\w{20,}|\bdckr_\w{2,4}_[\w-]{20,}|\bdapi[0-9a-f]{30,}(?:-\d)?|\bdo[opr]_v1_\w{32,}",
        ),
        (
            "a token",
            r"\bhvs\.[\w-]{20,}|\bglsa_\w{20,}|\bglc_[\w+/=]{20,}|\bPMAK-[\w-]{20,}|\blin_api_\w{20,}",
        ),
        (
            "a token",
            r"\bntn_\w{20,}|\bsecret_\w{32,}|\bsbp_\w{20,}|\bshp(?:at|ca|pa|ss)_\w{20,}|\bpat[A-Za-z0-9]{14}\.\w{32,}",
        ),
        (
            "a token",
            r"\bdp\.[a-z]{2,8}\.\w{20,}|\b[spt]k\.eyJ[\w.-]{16,}|\bAGE-SECRET-KEY-1\w{20,}|\bNRAK-\w{20,}|\bwandb_v1_\w{20,}",
        ),
        (
            "a token",
            r"\b\d{8,10}:AA[\w-]{30,}|\b[MNO][\w-]{23,25}\.[\w-]{6}\.[\w-]{27,}|discord(?:app)?\.com/api/webhooks/\S+",
        ),
        (
            "a token",
            r"\bATATT3[\w=-]{20,}|\bCFPAT-[\w-]{20,}|\bFlyV1 \S{20,}|\bfio-u-[\w-]{20,}|\bsntr[ysu]_\S{20,}|\bphc_\w{20,}",
        ),
        (
            "a password",
            r"(?i)(?<=://)[^/\s:@\"']{0,128}:[^/\s@\"']{1,256}(?=@)|(?<=://)[^/\s:@\"']{16,256}(?=@)",
        ),
        ("a key", r"(?i)(?<=AccountKey=)[\w+/=]{16,}|(?<=SharedAccessKey=)[\w+/=]{16,}"),
        (
            "an e-mail address",
            r"\b[\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){0,4}\.[A-Za-z]{2,24}\b",
        ),
        (
            "an address",
            r"(?i)(?<![\w.-])(?!127\.|0\.0\.0\.0)(?<!version )(?<!version: )(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}"
            r"(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.]*\d)|\bip-\d{1,3}-\d{1,3}-\d{1,3}-\d{1,3}\b",
        ),
        (
            "an address",
            r"(?i)(?<![\w:.])(?:[0-9a-f]{1,4}:){3,7}(?::?[0-9a-f]{1,4}){1,4}(?![\w:])|(?<![\w:])[0-9a-f]{1,4}(?::[0-9a-f]{1,4}){1,5}::[0-9a-f:]{0,20}",
        ),
        (
            "a place",
            r"(?i)(?<=gps)[\w ]{0,24}\W{1,4}[-+(\[]*\d{1,3}\.\d+\W{1,6}[-+]?\d{1,3}\.\d+(?:\W{1,4}[-+]?\d+\.\d+)?"
            r"|\b(?:lat|lon|lng|long|latitude|longitude|gps_?\w{0,12})\b[\"']?\s*[=:]?\s*[-+(\[]?\d{1,3}\.\d{2,}"
            r"|\d{1,3}\s?°\s?\d{1,2}\s?[′'](?:\s?[\d.]{1,8}\s?[″\"]?)?\s?[NSEWnsew]?"
            r"|[-+]?\d{1,3}\.\d{3,}°?\s?[NS]\b\W{1,4}[-+]?\d{1,3}\.\d{3,}°?\s?[EW]\b|[-+]?\d{1,2}\.\d{5,}, ?[-+]?\d{1,3}\.\d{5,}",
        ),
    )
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
_PLAIN = re.compile(r"(?i)(?:true|false|none|null|yes|no|\d{1,11}(?:\.\d+)?|[/.~$<{(\[%*].*|\W+)")
#: A long word of many changes between small, capital and digit is random, and somebody's secret.
_RANDOM = re.compile(r"(?<![\w+/=.$-])(?=[A-Za-z0-9+/_=-]{28,512}(?![\w+/=.-]))[A-Za-z0-9+/_=-]+")


class Redactor:
    """Replaces the same account by the same stand-in in all that one run writes."""

    def __init__(self) -> None:
        self._accounts: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        """The text without what must not be shared; ARNs and image names keep their form."""
        for name, pattern in _MAKERS:
            text = pattern.sub(f"[redacted: {name}]", text)
        for shape in SHAPES:
            text = shape.pattern.sub(f"[redacted: {shape.name}]", text)
        text = _ACCOUNT.sub(self._account, text)
        text = _PAIR.sub(_pair, text)
        return _RANDOM.sub(_random, text)

    def _account(self, found: re.Match[str]) -> str:
        account = found[1] or found[2] or found[3]
        stand_in = self._accounts.setdefault(account, f"{len(self._accounts) + 1:012d}")
        return found[0].replace(account, stand_in)


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


def shown(value: Any, clean: Callable[[str], str]) -> Any:
    """A value of JSON, every text in it, names of members included, as it may leave."""
    if isinstance(value, str):
        return clean(stripped(value))
    if isinstance(value, Mapping):
        # A secret's name stands beside its value, not in it.
        return {shown(k, clean): _beside(str(k), shown(v, clean), clean) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [shown(v, clean) for v in value]
    return value


def _beside(name: str, value: Any, clean: Callable[[str], str]) -> Any:
    if not isinstance(value, str) or not isinstance(clean, Redactor):
        return value
    return (
        "[redacted]"
        if _NAMES.search(name) and not _PLAIN.fullmatch(value) and len(value) > 3
        else value
    )


def prose(text: str) -> str:
    """One line that Markdown and HTML show as it is, and that a person can still read as it is."""
    line = " ".join(stripped(text).split())
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*\[\]]|(?<!\w)_|_(?!\w)|(?<=\])\(|~(?=~))", r"\\\1", line)
    return re.sub(r"(?i)\b(https?|javascript|ftp|file|data)(?=:)", r"\1\\", line)

"""TOML that people write: a key that nothing reads is an error with the nearest known one."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splatgate import checklist, subject
from splatgate.evidence import BadInput, strict
from splatgate.paths import ROOT
from splatgate.proof import catalogue
from splatgate.signoff import policy
from tests import profile_page

PROFILE = (ROOT / "image" / "subject.toml").read_text()
FAULT = 'story = "s"\norigin = "K01"\nkind = "evidence"\ncontrol = true\n'


@dataclass(frozen=True)
class Inner:
    depth: int = 0


@dataclass(frozen=True)
class Outer:
    one: Inner = Inner()
    maybe: Inner | None = None
    many: tuple[Inner, ...] = ()
    named: dict[str, Inner] = field(default_factory=dict)
    free: dict[str, str] = field(default_factory=dict)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ones = 1", r"^here: ones: unknown key; did you mean one\?$"),
        ("[one]\ndepht = 1", r"\[one\] depht: unknown key; did you mean depth\?"),
        ("[maybe]\ndeep = 1", r"\[maybe\] deep: .* did you mean depth\?"),
        ("[[many]]\ndepth = 1\n[[many]]\nx = 1", r"\[many\] x: unknown key"),
        ("[named.a]\nx = 1", r"\[named.a\] x: unknown key"),
        ("[one]\ndepth = 'x'", r"^here: Expected `int`, got `str` - at `\$.one.depth`$"),
        ("[one", r"^here: "),
    ],
)
def test_what_says_nothing_is_refused(text, said):
    with pytest.raises(BadInput, match=said):
        strict.parse(text, Outer, "here")


def test_what_is_free_is_taken():
    assert strict.parse('[free]\nany = "thing"', Outer, "here").free == {"any": "thing"}


@given(st.from_regex(r"[a-z_]{1,12}", fullmatch=True))
def test_no_unknown_key_passes(key):
    text = f"[one]\n{key} = 1"
    if key == "depth":
        assert strict.parse(text, Outer, "x").one.depth == 1
    else:
        with pytest.raises(BadInput, match=key):
            strict.parse(text, Outer, "x")


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(BadInput, match="No such file"):
        strict.read(tmp_path / "none.toml", Outer)
    (tmp_path / "x.toml").write_bytes(b"a = '\xff'")
    with pytest.raises(BadInput, match="UTF-8"):
        strict.read(tmp_path / "x.toml", Outer)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[run.smoke]", "[run.smokee]", r"\[run\] smokee: unknown key; did you mean smoke\?"),
        ("selftest =", "selftset =", "selftset: unknown key; did you mean selftest"),
        ("schema = 2", "schema = 9", "schema 9; this version reads 1 and 2"),
        ('status = "status"', 'train_views = "x"', "train_views: unknown key"),
    ],
)
@pytest.mark.parametrize("schema", [1, 2])
def test_a_misspelt_profile_is_refused(old, new, said, schema):
    text = PROFILE.replace(old, new).replace("schema = 2", f"schema = {schema}")
    if schema == 1 and new.startswith("train_views"):
        assert "schema 1" in subject.parse(text, "x").note
        return
    with pytest.raises(BadInput, match=said):
        subject.parse(text, "subject.toml")


def test_what_people_write_here_is_read():
    assert subject.parse(PROFILE, "image/subject.toml").note == ""
    for path in ROOT.glob("tests/**/subject.toml"):
        subject.parse(path.read_text(), str(path))


def test_the_page_of_the_profile_is_made_from_the_types():
    assert profile_page.PAGE.read_text() == profile_page.page(), "run python tests/profile_page.py"


def test_the_other_files_are_strict(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "fault.toml").write_text(FAULT + 'lanes = "gpu"\n')
    with pytest.raises(BadInput, match=r"lanes: unknown key; did you mean lane\?"):
        catalogue.load(tmp_path)
    lines = tmp_path / "checklist.toml"
    lines.write_text((ROOT / "checklist.toml").read_text().replace("remedy =", "remedi =", 1))
    with pytest.raises(BadInput, match="remed"):
        checklist.load(lines)
    policies = tmp_path / "policy.toml"
    text = (ROOT / "policy.toml").read_text().replace("lanes =", "max_age_day = 3\nlanes =", 1)
    policies.write_text(text)
    with pytest.raises(BadInput, match=r"max_age_day: unknown key; did you mean max_age_days\?"):
        policy.load(policies, "staging", checklist.load())

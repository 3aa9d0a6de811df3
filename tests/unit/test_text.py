"""What an image prints, and patterns that others wrote, do no harm."""

import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splatgate import subject
from splatgate.container import backends
from splatgate.evidence import BadInput
from splatgate.evidence.text import pattern, plain
from splatgate.sources.recorded import stop_when


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\tb\nc", "a\tb\nc"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]52;c;cm0gLXJm\x07after", "after"),
        ("\x1b]0;title\x1b\\after", "after"),
        ("\x9b2Jafter", "after"),
        ("a\0b\r", "a\ufffdb\ufffd"),
        ("\u202eevil", "\ufffdevil"),
        ("name-\udcff", "name-\\udcff"),
        ("x" * 5000, "x" * 4000 + " … (5000 characters)"),
    ],
)
def test_what_is_shown_holds_no_control_sequence(text, shown):
    assert plain(text) == shown


@given(st.text(st.characters(codec=None)))
def test_any_text_is_fit_to_be_shown(text):
    found = plain(text)
    found.encode()
    assert all(c in "\n\t" or c.isprintable() for c in found)


def test_no_pattern_keeps_the_judge():
    started = time.monotonic()
    assert pattern("^(.|.)*#$").search("a" * 100_000) is None
    assert not stop_when("^(a+)+$")("a" * 10_000 + "b")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("expression", ["(?=x)", "(", r"(a)\1"])
def test_a_pattern_that_is_not_linear_is_one_line(expression):
    text = f"schema = 2\nname = \"t\"\n[log]\nfirst_line = '{expression}'\n"
    with pytest.raises(BadInput, match="subject profile: regular expression") as told:
        subject.parse(text, "subject profile")
    assert "\n" not in str(told.value)


def test_an_answer_without_end_is_cut(monkeypatch):
    monkeypatch.setattr(backends, "ANSWER", 1000)
    flood = "import sys\nwhile True: sys.stdout.write('x' * 100)"
    status, out, err = backends.bounded([sys.executable, "-c", flood], b"", 60)
    assert (status != 0, len(out), err) == (True, 1001, b"")


def test_what_a_program_says_is_read_whole():
    copy = "import sys; sys.stdout.write(sys.stdin.read()); sys.stderr.write('e')"
    found = backends.bounded([sys.executable, "-c", copy], b"x" * 300_000, 60)
    assert found == (0, b"x" * 300_000, b"e")

"""Replay gives testinfra the bytes that were recorded, and refuses what was not."""

import pytest
from testinfra.host import Host

from splatgate.container.backends import NotRecorded, Recording, RecordingBackend, ReplayBackend
from splatgate.evidence import BadInput, Command


class FakeBackend(RecordingBackend):
    """Answers without an engine, and counts how often it was asked."""

    asked = 0

    def ask(self, text):
        FakeBackend.asked += 1
        record = Command(text, 0, "root ünï\n", "", 0.1)
        self.recording.add(record)
        return record


def test_each_command_is_asked_once_by_all_processes(tmp_path):
    path = tmp_path / "commands.jsonl"
    FakeBackend.asked = 0
    for _ in range(3):
        host = Host(FakeBackend("c", Recording(path)))
        assert host.run("whoami").stdout == "root ünï\n"
    assert FakeBackend.asked == 1


def test_replay_equals_live(tmp_path):
    path = tmp_path / "commands.jsonl"
    live = Host(FakeBackend("c", Recording(path))).run("stat %s", "/a b")
    replay = Host(ReplayBackend("recorded", Recording(path))).run("stat %s", "/a b")
    assert (replay.rc, replay.stdout_bytes) == (live.rc, live.stdout_bytes)


def test_what_was_not_recorded_is_refused(tmp_path):
    host = Host(ReplayBackend("recorded", Recording(tmp_path / "none.jsonl")))
    with pytest.raises(NotRecorded, match="not recorded: true"):
        host.run("true")


def test_a_broken_recording_is_named(tmp_path):
    path = tmp_path / "commands.jsonl"
    path.write_text('{"command": 1}\n')
    with pytest.raises(BadInput, match=r"commands\.jsonl"):
        Host(ReplayBackend("recorded", Recording(path))).run("true")

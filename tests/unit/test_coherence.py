"""A job's record that contradicts itself, or is of another job, is refused and no verdict."""

from dataclasses import replace

import pytest

from splatgate.evidence import BadInput, Header, Job, Limits, Machine, Member, write, write_bytes
from splatgate.sagemaker.result import contradictions, ending
from splatgate.sources.recorded import JobSpec, Recorded

SPEC = JobSpec("smoke", {"max_iterations": "1"})


def job(exit_code=0, ended_by=None, failure=None, **changes):
    end = ending(exit_code, ended_by, failure)
    made = Job(
        key="", name="splatgate-smoke", image_id="sha256:a", request={},
        channels={"training": "s"}, status=end.status, secondary_status=end.secondary,
        failure_reason=end.reason, exit=exit_code, oom=False, ended_by=ended_by,
        stop_seconds=1.0 if ended_by else None, command=("train",), limits_asked=Limits(),
        limits_applied=Limits(), phases={}, log=(), failure=failure, env_names=(), members=(),
        output_members=(), checkpoint_members=(), writes_outside=(),
    )  # fmt: skip
    return replace(made, **changes)


@pytest.mark.parametrize(
    "sound",
    [
        job(),
        job(3, failure="E_NO_GPU: none"),
        job(127, failure_reason="AlgorithmError: the engine's words, exit code: 127"),
        job(0, "StopTrainingJob"),
        job(1, "MaxRuntimeExceeded"),
        job(137, "Deadline", stop_seconds=None),
    ],
    ids=["completed", "failed", "never-started", "stopped", "max-runtime", "deadline"],
)
def test_what_the_host_writes_is_coherent(sound):
    assert contradictions(sound) == []


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (job(1, status="Completed"), "status"),
        (job(0, secondary_status="Failed"), "secondary"),
        (job(3, failure="E_X", failure_reason="fine"), "reason"),
        (job(0, "somebody"), "ended by"),
        (job(0, "StopTrainingJob", stop_seconds=None), "after SIGTERM"),
    ],
    ids=["status", "secondary", "reason", "ender", "unstopped"],
)
def test_a_contradiction_is_named(broken, said):
    assert any(said in problem for problem in contradictions(broken))


@pytest.fixture
def source(tmp_path):
    write(
        tmp_path / "evidence.json",
        Header(run="r", image_id="sha256:a", created="", machine=Machine(), scene="s"),
    )
    return Recorded(tmp_path, tmp_path)


def recorded(source, **changes):
    key = source.job_key(SPEC)
    made = replace(job(), key=key, request=dict(source.request(SPEC).raw))
    write(source.folder / "jobs" / key / "job.json", replace(made, **changes))
    return source.job(SPEC)


def test_the_record_asked_for_is_handed_out(source):
    assert recorded(source).status == "Completed"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image_id": "sha256:b"}, "image"),
        ({"channels": {"training": "t"}}, "data"),
        ({"request": {}}, "request"),
        ({"key": "smoke-0"}, "key"),
        ({"name": "x"}, "name"),
        ({"status": "Failed"}, "status"),
    ],
    ids=["image", "data", "request", "key", "name", "incoherent"],
)
def test_a_record_of_another_job_is_refused(source, changes, said):
    with pytest.raises(BadInput, match=said):
        recorded(source, **changes)


def test_an_artefact_is_known_by_its_hash(source):
    sha = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    found = recorded(source, members=(Member("a.txt", 5, sha), Member("l", 0, "", "symlink")))
    path = source.folder / "jobs" / found.key / "model" / "a.txt"
    with pytest.raises(BadInput, match="is recorded and not there"):
        source.artefact(found, "a.txt")
    write_bytes(path, b"hello")
    assert source.artefact(found, "a.txt") == path
    assert source.artefact(found, "l") is None
    assert source.artefact(found, "b.txt") is None
    write_bytes(path, b"hullo")
    with pytest.raises(BadInput, match="not the file"):
        source.artefact(found, "a.txt")


def test_another_schema_is_refused(source):
    write(
        source.folder / "evidence.json",
        Header(
            run="r", image_id=None, created="", machine=Machine(), schema="splatgate/evidence/0"
        ),
    )
    with pytest.raises(BadInput, match="evidence/0"):
        source.header  # noqa: B018

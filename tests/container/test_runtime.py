"""Runtime: what the container's user may write, and a start and a job under SageMaker's limits."""

import re
import shlex

import pytest

from splatgate.evidence.missing import NotVerified
from splatgate.expectations import WRITABLE

#: What a program says whose limit or mount is not the one that it was tried with.
DENIED = re.compile(
    r"Read-only file system|Permission denied|PermissionError|Operation not permitted|Bus error"
    r"|No space left on device: '/dev/shm|unable to (?:open|allocate|write) .*shared memory"
    r"|can't start new thread|Resource temporarily unavailable"
)


@pytest.mark.runtime_permissions
@pytest.mark.needs("test_image_is_for_linux_amd64")
def test_mounts_are_writable_by_the_containers_user(facts):
    """The container's user may write to SageMaker's root-owned mounts and to /tmp.

    A build's chmod below /opt/ml is hidden by the mounts; with another USER the first checkpoint
    fails after 5,000 iterations (K08; contract 1.1, "User").
    """
    refused = [path for path in WRITABLE if not facts.writable.get(path)]
    assert not refused, (
        f"uid {facts.uid} may not write to {', '.join(refused)}; remove USER, run as root"
    )


@pytest.mark.runtime_permissions
@pytest.mark.needs(
    "test_starts_with_the_word_train", "test_mounts_are_writable_by_the_containers_user"
)
def test_trains_within_the_mounts_and_limits_of_a_job(smoke):
    """A short training job meets no mount, limit or right that a job does not have.

    Channels are read-only, /dev/shm has 64 MiB, mounts are root-owned, processes are counted
    (contract 2.1, 2.6, traps 11 and 26; K08).
    """
    lines = [smoke.failure_reason, *(line.text for line in smoke.log[-20:])]
    found = [line for line in lines if DENIED.search(line)] if smoke.status == "Failed" else []
    assert not found, f"job {smoke.key} failed: {found[0][:300]}"


@pytest.mark.runtime_permissions
@pytest.mark.needs("test_trains_with_no_network")
def test_files_left_may_be_read_by_all_and_written_by_their_owner(trained):
    """Each file that a job leaves may be read by everyone, and written by its owner alone.

    An archive keeps modes and owners, and the next stage unpacks it as whom it likes: a
    file made by mkstemp and renamed has mode 600, a umask of 0 lets anyone change the model
    (contract 2.5).
    """
    left = (*trained.members, *trained.output_members, *trained.checkpoint_members)
    wrong = [f"{m.path} ({m.mode:o})" for m in left if m.kind == "file" and m.mode & 0o046 != 0o044]
    assert not wrong, f"{', '.join(wrong[:5])}; chmod 644 what is written, and leave umask at 022"


@pytest.mark.runtime_permissions
@pytest.mark.should
@pytest.mark.needs("test_starts_with_the_word_train")
def test_starts_on_a_read_only_root(hardened, host, image):
    """The entry point starts alike on a read-only root, without capabilities and new privileges.

    SageMaker does not ask for it; another host may. Source: CIS Docker Benchmark 5.3, 5.12, 5.25.
    """
    entry = " ".join(shlex.quote(word) for word in image.entrypoint)
    plain = host.run(f"cd / && exec {entry} train")
    said = (hardened.stdout + hardened.stderr).strip()[-300:]
    assert hardened.status == plain.rc, f"exit {hardened.status}, not {plain.rc}: {said}"


@pytest.mark.build_supply_chain
@pytest.mark.should
def test_no_compiler_is_left_in_the_image(contents):
    """The final stage holds no compiler.

    It is gigabytes that every job pulls, and it hides a backend that was never compiled (K14).
    """
    assert not contents.compilers, (
        f"on PATH: {', '.join(contents.compilers)}; copy results to a last stage"
    )


@pytest.mark.runtime_offline
@pytest.mark.needs(
    "test_starts_with_the_word_train", "test_trains_within_the_mounts_and_limits_of_a_job"
)
def test_trains_with_no_network(smoke):
    """A short training job runs to Completed with EnableNetworkIsolation.

    Nothing can be fetched, installed or compiled at run time under isolation (contract 3.2, K17,
    trap 12).
    """
    if not smoke.request.get("EnableNetworkIsolation"):
        raise NotVerified("the request given has EnableNetworkIsolation off; set it to true")
    assert smoke.status == "Completed", (
        f"job {smoke.key} ended {smoke.status}: {smoke.failure_reason}\n" + tail(smoke)
    )


@pytest.mark.runtime_offline
@pytest.mark.should
@pytest.mark.needs("test_trains_with_no_network")
def test_nothing_is_asked_of_a_network(audited):
    """A job of a few steps tries no connection, no lookup, no install, no download and no
    compilation.

    One that is tried and its failure swallowed trains here, and something else where there is a
    network (K17). Heard in a second, instrumented run; native code is not seen in it. Source: PEP
    578; contract 3.2, trap 12.
    """
    found = [event.told for event in audited if event.fetches]
    assert not found, f"{'; '.join(found[:5])}; put it into the image, or leave it out"


def tail(job) -> str:
    """The last lines of a job's log."""
    return "\n".join(line.text for line in job.log[-5:])

"""Container build: the image is what the build says it made, for the platform that SageMaker
runs.
"""

import hashlib

import pytest

from splatgate.container import cleanlog, dockerfile
from splatgate.evidence.missing import NotVerified

#: hadolint's rule on the platform of FROM, which is a line of its own on the checklist.
PLATFORM_RULE = "DL3029"


@pytest.mark.build_completed
def test_build_ended_with_this_image(build, image, evidence):
    """The build ended, what it made is the image under judgement, and the log kept is that build's,
    whole.

    After a failed build the tag still names the image before it, and that one is pushed (guide,
    Step 1).
    """
    assert build["image_id"] == image.image_id, (
        f"the build made {build['image_id']}, this image is {image.image_id}; judge what was built"
    )
    log = evidence.file("build.log")
    found = hashlib.sha256(log.read_bytes()).hexdigest() if log else None
    assert found == build["log_sha256"], "build.log was changed after the build; build again"


@pytest.mark.build_completed
def test_build_log_tells_of_no_failure(build_log, image):
    """The build's log does not say that the build failed, or that it made another image.

    A step killed for want of memory ends a build in its middle (K47), and whatever the tag named
    before is pushed.
    """
    failed = cleanlog.failed(build_log)
    assert not failed, f"the build failed: {failed}; mend it, and judge what it makes then"
    made = cleanlog.made(build_log)
    assert not made or image.image_id.removeprefix("sha256:").startswith(made), (
        f"the log is of a build that made {made}, this image is {image.image_id}; give its own log"
    )


@pytest.mark.build_clean_log
@pytest.mark.needs("test_build_ended_with_this_image", "test_build_log_tells_of_no_failure")
def test_build_log_holds_no_unknown_warning_or_error(build_log):
    """The build's log holds no warning and no error, but those known to be harmless, each with its
    reason.

    A build ends green after "No CUDA toolkit found. gsplat will be disabled" and after pip's remark
    that two packages do not fit: both fail at the first job (guide, "No warnings or errors in build
    logs"; K11, K14). A log whose steps all came from the cache says nothing of them.
    """
    found = [f for f in cleanlog.findings(build_log) if f.known is None]
    shown = "; ".join(f"line {f.line}, {f.kind}: {f.text[:200]}" for f in found[:5])
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    assert not found, (
        f"{shown}{more}; mend each, or list it in splatgate/container/cleanlog.py with a reason"
    )
    if not build_log.strip():
        raise NotVerified("the build log is empty")
    if cleanlog.ran(build_log) is False:
        raise NotVerified("every step came from the cache; build once without it (--no-cache)")


@pytest.mark.build_clean_log
def test_instructions_do_what_they_say(recipe):
    """No RUN of the Dockerfile, or of the log, installs something else than it seems to.

    An unquoted `numpy>=2.0` installs any version and writes a file; `pip install torch` installs
    another one each month (contract 6.1, trap 33).
    Source: hadolint DL3013; pip documentation, "Requirement Specifiers". A line is waived by
    `# hadolint ignore=RULE` before it.
    """
    found = [f for f in dockerfile.judge(recipe) if f.rule != PLATFORM_RULE]
    assert not found, "; ".join(f"{f.rule} {f.reason} ({f.text})" for f in found)


@pytest.mark.build_clean_log
def test_no_variable_took_a_comment_along(image):
    """No value of the image's environment holds a comment of the Dockerfile.

    `ENV NAME value # why` makes the comment a part of the value, which no program expects.
    Source: Dockerfile reference, "ENV": a `#` is a comment only at the start of a line.
    """
    found = {name: value for name, value in image.env.items() if dockerfile.comment(value)}
    assert not found, f"a comment in the value: {found}; put it on a line of its own"


@pytest.mark.build_platform
def test_dockerfile_names_no_other_platform(recipe):
    """Where FROM names a platform, it is linux/amd64 (guide, "linux/amd64 platform
    specification").
    """
    found = [f for f in dockerfile.judge(recipe) if f.rule == PLATFORM_RULE]
    assert not found, "; ".join(f"{f.reason} ({f.text})" for f in found)


@pytest.mark.build_platform
@pytest.mark.needs("test_instructions_do_what_they_say")
def test_hadolint_finds_no_error(remarks):
    """hadolint calls nothing in the Dockerfile an error.

    Such an instruction builds and does something else than it says: of two ENTRYPOINT the last
    counts, a variable used in the ENV that sets it is empty. A finding is waived by
    `# hadolint ignore=RULE` on the line before it. Source: hadolint, "Rules".
    """
    found = said(remarks, "error")
    assert not found, f"{'; '.join(found)}; mend it, or waive it: # hadolint ignore=RULE"


@pytest.mark.build_platform
@pytest.mark.should
@pytest.mark.needs("test_instructions_do_what_they_say")
def test_hadolint_finds_no_warning(remarks):
    """hadolint has nothing in the Dockerfile to warn of.

    A pipe without pipefail builds green when the download before it has failed. Waived like an
    error. Source: hadolint, "Rules".
    """
    found = said(remarks, "warning")
    assert not found, f"{'; '.join(found)}; mend it, or waive it: # hadolint ignore=RULE"


def said(remarks, level):
    """What hadolint says at a level, line by line."""
    return [f"line {r.line}, {r.code} {r.message}" for r in remarks if r.level == level]


@pytest.mark.build_platform
def test_image_is_for_linux_amd64(image):
    """The image's configuration says linux/amd64.

    The hosts of ml.g4dn, ml.g5 and ml.g6 are x86-64; another architecture ends in `exec format
    error` (contract section 4, "platform").
    """
    platform = f"{image.os}/{image.architecture}"
    assert platform == "linux/amd64", (
        f"expected linux/amd64, got {platform}; build with --platform linux/amd64"
    )


@pytest.mark.build_platform
@pytest.mark.needs("test_image_is_for_linux_amd64")
def test_machine_code_is_for_x86_64(installed):
    """Interpreter and extensions hold x86-64 code, whatever the configuration says.

    A cross-built layer copied from an arm64 stage keeps its own machine code under an amd64 label.
    """
    found = {installed.python: installed.machine} | {
        lib.path: lib.machine for lib in installed.libraries
    }
    if installed.other_machines is None:
        raise NotVerified("recorded before the probe looked at every extension; record it anew")
    found |= installed.other_machines
    wrong = {path: machine for path, machine in found.items() if machine != "x86_64"}
    assert not wrong, f"not x86-64: {wrong}; build every stage for linux/amd64"

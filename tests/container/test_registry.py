"""Registry: what SageMaker would pull is the image under judgement, and stays it."""

import re

import pytest

from splatgate.evidence.missing import Blocked, CannotLook, NotVerified
from splatgate.expectations import MANIFESTS, MOVING_TAGS


@pytest.mark.build_pushed
def test_registry_serves_the_image_judged(pushed, image):
    """The registry serves the image under judgement, under its own name and under the request's.

    SageMaker pulls by the name in the request: one that CI never pushes is "image not found" (K40),
    and one that was pushed before the last build runs the image before it. The manifest's
    configuration has the image's id, whatever the tag says.
    """
    for answer in answers(pushed):
        served = answer.served
        tags = f" (it has {some(pushed.tags)})" if pushed.tags else ""
        assert served, f"{answer.ref}: nothing there{tags}; push the image judged"
        ids = {served.image_id, *(child.image_id for child in served.children)} - {None}
        when = f", pushed {answer.pushed}" if answer.pushed else ""
        assert image.image_id in ids, (
            f"{answer.ref} is {served.digest}{when}, image {', '.join(sorted(ids)) or 'unknown'}; "
            f"judged was {image.image_id}: push it, or pull and judge what is there"
        )


@pytest.mark.build_pushed
@pytest.mark.needs("test_registry_serves_the_image_judged")
def test_the_next_build_cannot_take_its_name(pushed):
    """The image has a tag of its own, and the request names it by what cannot move.

    With one mutable `latest`, the build of any branch replaces what production runs (K49), and
    nothing is left to go back to (K50). A tag is resolved when a job starts: a request names the
    digest, or a tag of a repository whose tags are immutable (contract section 4, trap 20).
    """
    digest, *named = (there(answer).digest for answer in answers(pushed))
    assert not named or pushed.request.mutable is False, (
        f"the request names {pushed.request.ref}, a tag that can be moved; name {named[0]}, or "
        "make the repository's tags immutable"
    )
    tags = sorted(tag for tag, found in pushed.tags.items() if found == digest)
    own = [tag for tag in tags if not re.fullmatch(MOVING_TAGS, tag, re.IGNORECASE)]
    if not own and not pushed.tags_complete:
        raise NotVerified("the registry has more tags than were asked for; judge it by its tag")
    stays = pushed.image.mutable is False and "@" not in pushed.image.ref
    assert own or stays, (
        f"{pushed.image.ref}: {digest} has no tag of its own ({some(tags)}); push it under its "
        "version or revision too"
    )


@pytest.mark.build_platform
def test_registry_serves_one_manifest_and_no_index(pushed):
    """What is served is the manifest of one image: no index, and no attestation beside it.

    From buildx 0.10 on a push for one platform is an index with an attestation as second child,
    unless told otherwise, and SageMaker has refused these (contract section 4, trap 19; K48).
    """
    for answer in answers(pushed):
        served = there(answer)
        kind = served.media_type
        children = ", ".join(child.attests or child.platform for child in served.children)
        assert kind in MANIFESTS, (
            f"{answer.ref} is {kind}{f' of {children}' if children else ''}; push one image: "
            "buildx build --platform linux/amd64 --provenance=false --sbom=false"
        )


def answers(pushed):
    """What was answered about the image, and about the request's where one was given."""
    yield pushed.image
    if pushed.request:
        if pushed.request.error:
            raise CannotLook(pushed.request.error)
        yield pushed.request


def there(answer):
    """What is served; the first check tells where there is nothing."""
    if answer.served is None:
        raise Blocked("test_registry_serves_the_image_judged", f"{answer.ref}: nothing there")
    return answer.served


def some(tags):
    """The first of many tags, for a message."""
    names = sorted(tags)
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "") or "no tag"

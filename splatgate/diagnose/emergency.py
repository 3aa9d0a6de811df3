"""Emergency procedures: which digest last worked, and going back to it without guessing."""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from splatgate.diagnose.collect import ECR
from splatgate.evidence import BadInput, write_bytes
from splatgate.signoff.attest import BadSignature, Public
from splatgate.signoff.store import Store

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
BEFORE, AFTER = "definition.before.json", "definition.after.json"


@dataclass(frozen=True)
class Good:
    """An image that worked: by digest, and how that is known."""

    digest: str
    image: str
    #: ``sign-off`` or ``job``.
    by: str
    what: str
    when: str


def of_signoffs(store: Store, public: Public, say: Callable[[str], None]) -> list[Good]:
    """Images with a valid sign-off, newest first: approved, signed by ``public``, not FAILED.

    ``say`` is told of each approved one that does not hold.
    """
    found = []
    for digest in dict.fromkeys(s.manifest_digest for s in store.every()):
        signoff = store.get(digest) if digest else None
        if digest is None or signoff is None or not signoff.approved:
            continue
        try:
            result = store.verified(digest, public)["predicate"]["result"]
        except (BadInput, BadSignature) as error:
            say(f"{digest}: left out: {error}")
            continue
        if result != "FAILED":
            what = f"{signoff.verdict} under {signoff.policy}, {result}, signed by {public.id}"
            found.append(Good(digest, signoff.image.ref or "", "sign-off", what, signoff.created))
    return found


def of_jobs(client: Callable[[str], Any], most: int = 20) -> list[Good]:
    """Images of the training jobs that succeeded last, newest first, one line for each digest.

    A tag says which digest it names today; that a job used that digest is not known, and said.
    """
    sagemaker = client("sagemaker")
    listed = sagemaker.list_training_jobs(
        StatusEquals="Completed", SortBy="CreationTime", SortOrder="Descending", MaxResults=most
    )
    found: dict[str, Good] = {}
    for summary in listed["TrainingJobSummaries"]:
        job = sagemaker.describe_training_job(TrainingJobName=summary["TrainingJobName"])
        image = str(job["AlgorithmSpecification"].get("TrainingImage", ""))
        named = DIGEST.search(image)
        digest, what = (named[0], "") if named else (_digest_now(client, image), ", by a tag")
        if digest:
            when = str(summary.get("TrainingEndTime") or summary["CreationTime"])
            used = f"used by {job['TrainingJobName']}{what}"
            found.setdefault(digest, Good(digest, image.partition("@")[0], "job", used, when))
    return list(found.values())


def _digest_now(client: Callable[[str], Any], image: str) -> str | None:
    where = ECR.fullmatch(image)
    if where is None:
        return None
    import botocore.exceptions

    try:
        details = client("ecr").describe_images(
            registryId=where["account"],
            repositoryName=where["repository"],
            imageIds=[{"imageTag": where["tag"] or "latest"}],
        )
    except botocore.exceptions.ClientError:
        return None
    return str(details["imageDetails"][0]["imageDigest"])


def _images(states: Any) -> Iterator[dict[str, Any]]:
    """Each AlgorithmSpecification of a definition, wherever it is nested."""
    if isinstance(states, dict):
        if "TrainingImage" in states or "TrainingImage.$" in states:
            yield states
        for value in states.values():
            yield from _images(value)
    elif isinstance(states, list):
        for value in states:
            yield from _images(value)


def rolled_back(definition: dict[str, Any], digest: str, repository: str | None) -> dict[str, Any]:
    """The definition with every training image replaced by one digest.

    Raises:
        BadInput: no state trains, or a state takes its image from the input and no repository is
            named.
    """
    changed = copy.deepcopy(definition)
    found = list(_images(changed))
    if not found:
        raise BadInput("the definition has no state with a TrainingImage; name its machine")
    for place in found:
        now = str(place.get("TrainingImage", ""))
        name = repository or re.split(r"@|:(?=[^/]*$)", now)[0]
        if not name:
            raise BadInput(
                f"a state takes its image from the input ({place.get('TrainingImage.$')}): change "
                "what the starter sends, or name the repository (--repository)"
            )
        place.pop("TrainingImage.$", None)
        place["TrainingImage"] = f"{name}@{digest}"
    return changed


def rollback(
    client: Callable[[str], Any],
    machine: str,
    digest: str,
    out: Path,
    judged: Callable[[dict[str, Any]], list[str]],
    repository: str | None = None,
    apply: bool = False,
) -> tuple[str, list[str], str]:
    """Go back to a digest: the change as a diff, what the judge finds new in it, the undo.

    Both definitions are written to ``out`` first. Nothing changes in AWS without ``apply``.

    Raises:
        BadInput: the digest is none, or the change makes the definition worse.
    """
    if not DIGEST.fullmatch(digest):
        raise BadInput(
            f"--rollback {digest}: not sha256:… of 64 hex digits; --last-good lists some"
        )
    sfn = client("stepfunctions")
    before = json.loads(sfn.describe_state_machine(stateMachineArn=machine)["definition"])
    after = rolled_back(before, digest, repository)
    old, new = (json.dumps(d, indent=2) for d in (before, after))
    write_bytes(out / BEFORE, old.encode() + b"\n")
    write_bytes(out / AFTER, new.encode() + b"\n")
    diff = "\n".join(
        difflib.unified_diff(old.splitlines(), new.splitlines(), BEFORE, AFTER, lineterm="", n=2)
    )
    known = set(judged(before))
    worse = [finding for finding in judged(after) if finding not in known]
    undo = (
        f"aws stepfunctions update-state-machine --state-machine-arn {machine} "
        f"--definition file://{out / BEFORE}"
    )
    if apply:
        if worse:
            raise BadInput(f"not applied: the change makes the definition worse: {worse[0]}")
        sfn.update_state_machine(stateMachineArn=machine, definition=new)
    return diff, worse, undo

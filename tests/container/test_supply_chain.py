"""Supply chain: what the image is, what it holds, and what it must not."""

import re

import pytest
from packaging.utils import canonicalize_name

from splatgate.container import dockerfile, secrets
from splatgate.container.lock import allows
from splatgate.container.sbom import listed
from splatgate.evidence.missing import NotVerified
from splatgate.expectations import (
    CACHE_BUDGET,
    OCI,
    OCI_LABELS,
    OCI_ORIGIN,
    OCI_TITLE,
    PUBLISHED,
    SETUID,
)

#: What the OCI schema says of a value, where it says more than "text".
FORMS = {
    "created": r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)",
    "url": r"[a-z][a-z0-9+.-]*:\S+",
    "documentation": r"[a-z][a-z0-9+.-]*:\S+",
    "source": r"[a-z][a-z0-9+.-]*:\S+",
    "base.digest": r"[a-z0-9]+([+._-][a-z0-9]+)*:[A-Za-z0-9=_-]+",
}


@pytest.mark.build_supply_chain
def test_labels_name_the_image_and_its_origin(image):
    """OCI labels give a title and a version or revision, and each of them keeps to the schema.

    Of a job that failed months ago only the image is left: without its origin nobody can build or
    roll back to it (K50). A misspelt name is no label. Source: OCI image-spec, annotations.md.
    """
    labels = {k.removeprefix(OCI): v for k, v in image.labels.items() if k.startswith(OCI)}
    assert labels.get(OCI_TITLE), f"no label {OCI}{OCI_TITLE}; add LABEL {OCI}{OCI_TITLE}=…"
    assert any(labels.get(name) for name in OCI_ORIGIN), (
        f"no label {' or '.join(OCI + name for name in OCI_ORIGIN)}; build with --label"
    )
    unknown = sorted(labels.keys() - OCI_LABELS)
    assert not unknown, f"the OCI schema has no {', '.join(OCI + name for name in unknown)}"
    wrong = {
        name: labels[name]
        for name, form in FORMS.items()
        if name in labels and not re.fullmatch(form, labels[name])
    }
    assert not wrong, f"not in the OCI schema's form: {wrong}"


@pytest.mark.build_supply_chain
def test_environment_holds_no_secret(image, environment):
    """No variable of the image's environment is a secret.

    Whoever may pull the image, or describe the job, may read it; SageMaker gives a job its role's
    credentials by itself. Source: CIS Docker Benchmark 4.10.
    """
    found = sorted(set(secrets.in_environment(image.env | environment)))
    assert not found, f"secret in the environment: {', '.join(found)}; revoke it, remove the ENV"


@pytest.mark.build_supply_chain
def test_history_and_labels_hold_no_secret(image):
    """No command of the image's history and no label holds a secret.

    A build argument stays in the history of the layer that used it, whatever a later layer removes
    (Docker, "Build secrets": ARG and ENV are the wrong way).
    """
    assert image.layers, "the image has no history; its layers cannot be told"
    places = {f"layer {n}": layer.created_by for n, layer in enumerate(image.layers, 1)}
    places |= {f"label {name}": f"{name}={value}" for name, value in image.labels.items()}
    found = [
        f"{place}: {what}"
        for place, text in places.items()
        for what in dict.fromkeys(secrets.in_text(text))
    ]
    assert not found, f"{'; '.join(found)}; revoke it, and pass it with RUN --mount=type=secret"


@pytest.mark.build_supply_chain
def test_every_installed_distribution_is_locked(installed, lock):
    """Each Python distribution in the image is the version that the lock names.

    What is installed beside the lock is another version at the next build: an unbounded extra
    upgraded torch under a pinned base (K11, trap 33).
    """
    loose = [
        f"{d.name} {d.version}"
        for d in installed.distributions
        if not allows(lock, d.name, d.version)
    ]
    assert installed.distributions, "no installed distribution was seen in the image's interpreter"
    assert not loose, f"not in the lock: {', '.join(loose)}; install from the lock alone"


@pytest.mark.build_supply_chain
def test_history_installs_one_version_of_each_package(image):
    """No command of the image's history installs whatever version there is.

    `pip install torch` moved from driver 525 to 580 at one release: the same Dockerfile makes an
    image that no host can run (contract 6.1, trap 33; K11). Source: hadolint DL3013; pip
    documentation, "Requirement Specifiers".
    """
    found = [
        reason
        for layer in image.layers
        for _, reason in dockerfile.command(dockerfile.history(layer.created_by))
    ]
    assert not found, f"{'; '.join(found)}; install from a lock with hashes"


@pytest.mark.build_supply_chain
def test_every_locked_requirement_has_one_version_and_a_hash(lock):
    """Each requirement of the lock names one version, and the hashes of its files.

    A version can be uploaded again for another platform, and an index can be stood in for; a hash
    cannot (trap 33).
    """
    loose = [pin.name for pin in lock if pin.version is None or not pin.hashes]
    assert not loose, f"without version or hash: {', '.join(loose)}; lock with --generate-hashes"


@pytest.mark.build_supply_chain
def test_no_credentials_are_shipped(files):
    """No file of the image holds a private key, a password or a token.

    `COPY . .` takes `.env` and `.aws/credentials` along, and everyone who may pull the image has
    them. Files as they are in the end: one that a later layer removed is still in the earlier.
    Source: CIS Docker Benchmark 4.10.
    """
    found = whole(files, [x.path for x in files.leftovers if x.kind == "credentials"])
    assert not found, f"{', '.join(found)}; revoke them, add them to .dockerignore, build again"


@pytest.mark.build_supply_chain
def test_no_layer_keeps_what_a_later_one_removed(layers):
    """No layer holds credentials or a repository, also where a later layer removed them.

    `RUN rm` hides a file and ships it: whoever may pull the image may unpack each layer. Source:
    Docker, "Build secrets"; CIS Docker Benchmark 4.10.
    """
    found = [
        f"{x.path} ({x.kind}) in layer {layer.digest[:19]}"
        for layer in layers
        for x in layer.leftovers
        if not any(part in x.path for part in PUBLISHED)
    ]
    assert not found, f"{', '.join(found)}; revoke it, and use RUN --mount=type=secret"


@pytest.mark.build_supply_chain
def test_nothing_is_left_over_from_the_build(files):
    """No repository, no package manager's cache, and no file named by an unquoted constraint.

    `pip install numpy>=2.0` in a RUN installs any numpy and writes what pip says to a file `=2.0`;
    caches and history are pulled by every job (K46).
    """
    found = whole(
        files,
        [
            f"{x.path} ({x.kind}, {x.bytes} bytes)"
            for x in files.leftovers
            if x.kind in ("git", "redirected") or (x.kind == "cache" and x.bytes > CACHE_BUDGET)
        ],
    )
    assert not found, (
        f"{', '.join(found)}; quote version constraints, and keep caches out by --mount=type=cache"
    )


@pytest.mark.build_supply_chain
def test_setuid_programs_are_the_distributions_own(files):
    """No program runs as its owner, but those that the base's own packages bring.

    One that anybody added is a way to root for whatever code a job loads. Source: CIS Docker
    Benchmark 4.8.
    """
    found = whole(files, [p for p in files.setuid if p.rpartition("/")[2] not in SETUID])
    assert not found, f"setuid or setgid: {', '.join(found)}; RUN chmod ug-s, or remove them"


@pytest.mark.build_supply_chain
def test_nothing_may_be_written_by_everyone(files):
    """No file may be written by everyone, and no folder unless it is sticky.

    `chmod -R 777` is how a permission error is silenced; it lets any user of the container change
    the trainer, and is hidden by the mounts where it was meant to help (K08). Source: CIS
    Distribution Independent Linux 6.1.10.
    """
    found = whole(files, list(files.world_writable))
    shown = f"{', '.join(found[:5])}{f' and {len(found) - 5} more' if len(found) > 5 else ''}"
    assert not found, f"writable by everyone: {shown}; COPY --chmod=755, never chmod 777"


@pytest.mark.build_supply_chain
def test_size_and_layers_are_within_the_budget(image, budget):
    """The image is no larger, and has no more layers, than policy.toml allows.

    Each job pulls and unpacks it before the first step, and a builder runs out of disk (K46;
    contract section 4, "size limit", "pull time").
    """
    layers = sum(layer.bytes > 0 for layer in image.layers)
    assert 0 < image.bytes <= budget.bytes, (
        f"{image.bytes / 1e9:.1f} GB, the budget is {budget.bytes / 1e9:.0f}; "
        "keep compilers, headers and caches in build stages"
    )
    assert 0 < layers <= budget.layers, f"{layers} layers, the budget is {budget.layers}; join RUNs"


@pytest.mark.build_supply_chain
def test_bill_of_materials_lists_what_is_installed(contents, sbom):
    """The CycloneDX document beside the evidence lists every installed package, and no other.

    Whether an image is hit by an advisory is asked of its list, long after the image is gone.
    Source: NTIA, "Minimum Elements for a Software Bill of Materials".
    """
    have = {(canonicalize_name(d.name), d.version) for d in contents.distributions}
    have |= {(canonicalize_name(p.name), p.version) for p in contents.packages}
    said = {(canonicalize_name(name), version) for name, version in listed(sbom)}
    wrong = sorted(f"{name} {version}" for name, version in have ^ said)
    assert not wrong, f"sbom.cdx.json and the image differ in {', '.join(wrong)}; emit it again"


def whole(files, found):
    """What was found, without what a package index publishes; nothing counts only if all was seen.

    Raises:
        NotVerified: the walk was cut short and found nothing.
    """
    found = [entry for entry in found if not any(part in entry for part in PUBLISHED)]
    if not found and not (files.complete and files.files > 0):
        raise NotVerified(f"only {files.files} files were looked at, in the time that a probe has")
    return found

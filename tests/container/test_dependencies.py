"""Runtime: the packages that the trainer needs are there, and fit each other."""

from collections import Counter
from functools import cache

import pytest
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from splatgate.container.agreement import contradictions
from splatgate.evidence.missing import NotVerified


@pytest.mark.runtime_dependencies
@pytest.mark.needs(
    "test_entrypoint_is_exec_form_and_absolute", "test_every_source_of_the_trainer_compiles"
)
def test_imports_resolve(facts):
    """Every module that the trainer imports, at its start or later, is there, imports, and has the
    names taken from it.

    A package pruned by hand, or one more file than the Dockerfile copies, shows as an ImportError
    on each of five deploys in turn (K02, K03, K09): here all at once.
    """
    failed = [f"{i.module} ({i.error})" for i in facts.imports if i.error]
    if not facts.sources:
        raise NotVerified("the entry point leads to no Python source that could be seen")
    assert facts.imports, "no import of the trainer's sources was tried"
    assert not failed, f"cannot import {'; '.join(failed)}; install it from the locked requirements"


@pytest.mark.runtime_dependencies
def test_installed_packages_agree(installed, said):
    """Every installed distribution finds the versions that it requires, and is what the image says
    of itself.

    A second requirements file or an unbounded extra leaves a pair that was never tested together
    (K10, K11). One line of a .pth, or a base's own site file, can answer for the image's Python:
    its layers are judged, and what contradicts them is told.
    """
    if said is not None:
        told = contradictions(said, installed)
        more = f" and {len(told) - 5} more" if len(told) > 5 else ""
        runs = ", ".join((installed.startup or ())[:3]) or "none known"
        assert not told, f"{'; '.join(told[:5])}{more}; what runs at its start: {runs}"
    assert installed.distributions, "no installed distribution was seen in the image's interpreter"
    versions = {canonicalize_name(d.name): d.version for d in installed.distributions}
    unmet = []
    for dist in installed.distributions:
        for text in dist.requires:
            try:
                need = needed(text, installed.version, installed.machine)
            except InvalidRequirement:
                unmet.append(f"{dist.name}: {text} is no requirement")
                continue
            if need is None:
                continue
            have = versions.get(canonicalize_name(need.name))
            if have is None or not need.specifier.contains(have, prereleases=True):
                unmet.append(f"{dist.name} {dist.version} requires {need}, installed: {have}")
    assert not unmet, f"{'; '.join(unmet)}; lock one set of versions together"


@cache
def needed(text: str, version: str, machine: str) -> Requirement | None:
    """What a requirement asks of this interpreter; None where its marker leaves it out."""
    environment = {
        "python_version": ".".join(version.split(".")[:2]),
        "python_full_version": version,
        "sys_platform": "linux",
        "platform_system": "Linux",
        "platform_machine": machine,
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "os_name": "posix",
        "extra": "",
    }
    need = Requirement(text)
    return None if need.marker and not need.marker.evaluate(environment) else need


@pytest.mark.runtime_dependencies
def test_no_distribution_is_installed_twice(installed):
    """No distribution is installed twice in one folder.

    A second `pip install --target`, or a COPY over site-packages, leaves files of one version and
    the metadata of two: what is imported is neither (K11).
    """
    places = Counter(
        (canonicalize_name(d.name), d.folder) for d in installed.distributions if d.folder
    )
    twice = [f"{name} in {folder}" for (name, folder), number in places.items() if number > 1]
    assert not twice, f"installed twice: {'; '.join(twice)}; install once, from one lock"


@pytest.mark.runtime_dependencies
@pytest.mark.needs(
    "test_imports_resolve", "test_installed_packages_agree", "test_torch_is_built_for_cuda"
)
def test_arrays_get_from_numpy_to_torch_and_back(facts):
    """An array of NumPy becomes a tensor, and an array again.

    torch imports under a NumPy of another major and says "Numpy is not available" at the first
    array (K10).
    """
    assert facts.torch_version, "torch is not installed in the entry point's interpreter"
    assert not facts.numpy_error, f"{facts.numpy_error}; lock the NumPy that torch is built for"


@pytest.mark.runtime_dependencies
@pytest.mark.needs("test_imports_resolve")
def test_settings_opened_by_default_are_shipped(facts):
    """Each file of settings that the trainer opens by name, or takes as a default, is in the image.

    After a refactoring the script needs a file of settings, and the Dockerfile still copies one
    file (K02); a relative name depends on the working directory (K06).
    """
    if facts.settings is None:
        raise NotVerified("recorded before the probe looked for settings; record it anew")
    missing = [name for name, there in facts.settings.items() if not there]
    assert not missing, f"opened by default, and not there: {', '.join(missing)}; COPY it too"


@pytest.mark.runtime_dependencies
@pytest.mark.should
@pytest.mark.needs("test_settings_opened_by_default_are_shipped")
def test_settings_shipped_are_opened(facts, audited):
    """Each file of settings that lies beside the trainer's sources is opened by a job.

    One that nothing reads is changed in vain: flat keys were read where the file was nested, and
    then defaults were used (K05, K26). Heard in an instrumented run; native code is not seen in it.
    """
    if facts.settings_shipped is None:
        raise NotVerified("recorded before the probe looked for them; record it anew")
    opened = {event.what for event in audited if event.event == "open"}
    unread = [path for path in facts.settings_shipped if path not in opened]
    assert not unread, f"shipped and never opened: {', '.join(unread)}; read it, or leave it out"

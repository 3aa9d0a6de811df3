"""The workflows: pinned, least privileged, free of injection, and calling verbs that there are."""

import re

import pytest
import yaml

from splatgate.cli import VERBS
from splatgate.paths import ROOT

FILES = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
#: Scopes of the token that may be written, and by which workflows.
WRITES = {
    "gate.yml": {"id-token", "attestations", "pull-requests"},
    "image.yml": {"id-token", "attestations", "pull-requests"},
    "ci.yml": set(),
}
every = pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)


def parsed(path):
    found = yaml.safe_load(path.read_text())
    # YAML 1.1 reads the key `on` as true.
    return {**found, "on": found.get("on", found.get(True))}


def steps(path):
    return [s for job in parsed(path)["jobs"].values() for s in job.get("steps", ())]


def test_there_are_the_workflows_that_are_judged_here():
    assert {path.name for path in FILES} == set(WRITES)


@every
def test_actions_are_pinned_by_commit_with_their_version_beside(path):
    for line in path.read_text().splitlines():
        if (found := re.search(r"uses:\s*(\S+)(.*)", line)) and not line.strip().startswith("#"):
            action, comment = found.groups()
            if not action.startswith("$/"):
                assert re.fullmatch(r"[\w.-]+/[\w./-]+@[0-9a-f]{40}", action), line
                assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), line


def test_an_action_has_one_pin():
    pins = {}
    for path in FILES:
        for action, pin in re.findall(r"uses:\s*([\w./-]+)@([0-9a-f]{40})", path.read_text()):
            pins.setdefault(action, set()).add(pin)
    assert pins
    assert all(len(found) == 1 for found in pins.values()), pins


@every
def test_the_token_may_do_no_more_than_it_must(path):
    workflow = parsed(path)
    assert workflow["permissions"] == {}
    for name, job in workflow["jobs"].items():
        written = {scope for scope, may in job["permissions"].items() if may == "write"}
        assert written <= WRITES[path.name], name
        assert job["permissions"]["contents"] == "read"
    assert "pull_request_target" not in workflow["on"]
    assert "workflow_run" not in workflow["on"]


@every
def test_nothing_that_others_write_becomes_a_script(path):
    for step in steps(path):
        assert "${{" not in step.get("run", ""), step
        if "checkout@" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False


@every
def test_runs_of_one_image_wait_for_each_other_and_none_runs_for_ever(path):
    workflow = parsed(path)
    assert workflow["concurrency"]["group"]
    for name, job in workflow["jobs"].items():
        assert "uses" in job or job["timeout-minutes"] <= 90, name


@every
def test_verbs_and_targets_exist(path):
    text = "\n".join(step.get("run", "") for step in steps(path))
    assert set(re.findall(r"-m splatgate ([\w-]+)", text)) <= set(VERBS)
    targets = set(re.findall(r"^([\w.-]+):", (ROOT / "Makefile").read_text(), re.M))
    asked = " ".join(re.findall(r"^(?:make) ([a-z -]+)", text, re.M)).split()
    assert set(asked) <= targets
    for script in re.findall(r"(?:^|/)(\.ci/\w+)", text):
        assert (ROOT / script).stat().st_mode & 0o111


def test_the_gate_judges_decides_and_promotes_by_digest():
    gate = parsed(ROOT / ".github" / "workflows" / "gate.yml")
    inputs = gate["on"]["workflow_call"]["inputs"]
    # No default could be a policy under which nothing of a GPU is asked.
    assert [name for name, spec in inputs.items() if spec.get("required")] == ["image", "policy"]
    assert gate["concurrency"] == {
        "group": "splatgate-${{ inputs.image }}",
        "cancel-in-progress": False,
    }
    assert gate["jobs"]["decide"]["needs"] == ["judge", "gpu"]
    given = parsed(ROOT / ".github" / "workflows" / "image.yml")["jobs"]["gate"]["with"]
    assert set(given) <= set(inputs)
    # A build is known by its log alone: without it no image could ever be conformant.
    kept = [s["with"] for s in steps(ROOT / ".github/workflows/image.yml") if "with" in s]
    paths = [w["path"] for w in kept if w.get("name") == given["build"]]
    assert [path.split() for path in paths] == [["build/image/build.json", "build/image/build.log"]]
    # The disk is looked at before the image is fetched.
    named = [s.get("name", s.get("uses")) for s in gate["jobs"]["judge"]["steps"]]
    assert named.index("Disk for an image of this size") < named.index("Look and judge")


def test_what_is_judged_is_signed_before_it_leaves_the_machine():
    gate = parsed(ROOT / ".github" / "workflows" / "gate.yml")["jobs"]
    for name in ("judge", "gpu"):
        runs = [step.get("run") or step.get("uses", "") for step in gate[name]["steps"]]
        last = [next(i for i, run in enumerate(runs) if word in run) for word in (
            "splatgate judge", "splatgate sign build", "upload-artifact",
        )]  # fmt: skip
        assert last == sorted(last)
        kept = gate[name]["steps"][last[-1]]["with"]["path"].split()
        assert "suite/build/record.intoto.json" in kept
    decide = "\n".join(step.get("run", "") for step in gate["decide"]["steps"])
    assert "--trust" in decide
    # A file in the checkout would make its tree another than its commit's.
    assert "> signoff.json" not in decide


def test_nothing_reaches_the_release_repository_before_the_gate():
    image = parsed(ROOT / ".github" / "workflows" / "image.yml")["jobs"]
    assert "ECR_RELEASE" not in str(image["build"])
    assert "ECR_STAGING" in str(image["build"])
    assert image["gate"]["with"]["release"] == "${{ vars.ECR_RELEASE }}"
    assert "--to" in str(parsed(ROOT / ".github" / "workflows" / "gate.yml")["jobs"]["decide"])

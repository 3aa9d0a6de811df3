"""When the image is built again, what the builder is told, and how a build is told and kept."""

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from splatgate import evidence
from splatgate.container import base, build, buildlog, provenance
from splatgate.container.base import Base
from splatgate.container.build import BuildRecord, Options
from splatgate.container.engine import Builder, EngineError
from splatgate.container.trust import Trust

BUILDER = Builder("/usr/bin/docker", ("/usr/bin/docker", "build"), "docker 20.10.24")
PULLED = Base("debian@sha256:aa", "sha256:aa", "pulled")
MADE = Base("splatgate/base:trixie-20260101", None, "debootstrap")


@pytest.fixture
def context(tmp_path):
    """A small image/ with an ignore file."""
    folder = tmp_path / "image"
    (folder / "trainer").mkdir(parents=True)
    (folder / "Dockerfile").write_text("FROM scratch\n")
    (folder / ".dockerignore").write_text("# only this\n*\n!trainer\n**/*.pyc\n")
    (folder / "trainer" / "a.py").write_text("a = 1\n")
    (folder / "trainer" / "a.pyc").write_text("x")
    (folder / "notes.md").write_text("not for the builder\n")
    return folder


def record(**changes):
    whole = BuildRecord(
        image_id="sha256:1",
        tag=build.TAG,
        context_sha256="c",
        archs=("7.5",),
        driver_floor="525",
        base=PULLED,
        started="2026-01-01T00:00:00+00:00",
        seconds=1.5,
        log="build.log",
        log_sha256="l",
        builder="docker 20.10.24",
        engine="20.10.24",
        options=Options().public(),
    )
    return replace(whole, **changes)


def test_context_hash_is_the_same_for_the_same_content(context):
    before = provenance.context_sha256(context)
    (context / "trainer" / "a.py").write_text("a = 1\n")
    assert provenance.context_sha256(context) == before


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda c: (c / "trainer" / "a.py").write_text("a = 2\n"), id="content"),
        pytest.param(lambda c: (c / "trainer" / "a.py").chmod(0o755), id="mode"),
        pytest.param(lambda c: (c / "trainer" / "b.py").write_text(""), id="new file"),
        pytest.param(lambda c: (c / "trainer" / "a.py").rename(c / "trainer/b.py"), id="name"),
        pytest.param(lambda c: (c / "Dockerfile").write_text("FROM x\n"), id="Dockerfile"),
        pytest.param(lambda c: (c / "trainer" / "l").symlink_to("a.py"), id="link"),
    ],
)
def test_context_hash_changes_with_what_the_builder_gets(context, spoil):
    before = provenance.context_sha256(context)
    spoil(context)
    assert provenance.context_sha256(context) != before


@pytest.mark.parametrize("name", ["notes.md", "trainer/a.pyc", "new.txt"])
def test_context_hash_does_not_see_what_is_ignored(context, name):
    before = provenance.context_sha256(context)
    (context / name).write_text("changed")
    assert provenance.context_sha256(context) == before


def test_no_dockerfile_is_refused(tmp_path):
    with pytest.raises(EngineError, match="holds no Dockerfile"):
        provenance.context_sha256(tmp_path)


@pytest.mark.parametrize("word", ["<<", "--link"])
def test_the_dockerfile_needs_no_newer_reader_than_the_engines_own(word):
    lines = (build.ROOT / "image" / "Dockerfile").read_text().splitlines()
    assert not lines[0].startswith("# syntax")
    assert not [line for line in lines if word in line and not line.startswith("#")]


def test_a_record_reads_back_as_it_was_written(tmp_path):
    evidence.write(tmp_path / "build.json", record())
    assert build.read_record(tmp_path / "build.json") == record()
    assert json.loads((tmp_path / "build.json").read_text())["schema"] == "splatgate/build/1"


@pytest.mark.parametrize("text", ["", "{", "{}", '{"schema": "splatgate/build/0"}'])
def test_a_broken_record_means_building_again(tmp_path, text):
    (tmp_path / "build.json").write_text(text)
    assert build.read_record(tmp_path / "build.json") is None


def test_no_record_means_building(tmp_path):
    assert build.read_record(tmp_path / "build.json") is None


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param(Options(), True, id="the same"),
        pytest.param(Options(extra_ca=Path("ca.pem")), True, id="certificates"),
        pytest.param(Options(release=True), False, id="release"),
        pytest.param(Options(base="debian:sid"), False, id="base"),
        pytest.param(Options(tag="other:1"), False, id="tag"),
        pytest.param(Options(apt_mirror="http://m/debian"), False, id="mirror"),
        pytest.param(Options(pip_index="https://p/simple"), False, id="index"),
    ],
)
def test_built_again_only_for_what_changes_the_image(options, expected):
    assert build.fits(record(), options, "c") is expected


def test_built_again_when_the_sources_changed():
    assert not build.fits(record(), Options(), "d")


def test_recorded_options_hold_no_secret():
    options = Options(
        pip_index="https://user:secret@p.example/simple?token=t", extra_ca=Path("/home/me/ca.pem")
    )
    text = json.dumps(options.public())
    assert "https://p.example/simple" in text
    for secret in ("user", "secret", "token", "/home/me"):
        assert secret not in text


def test_release_adds_the_other_instances_architectures():
    argv = build.command(BUILDER, Options(release=True), PULLED, "default", {}, {})
    assert "CUDA_ARCHS=7.5;8.6;8.9" in argv


def test_the_builder_is_told_platform_base_and_plain_progress():
    argv = build.command(BUILDER, Options(), PULLED, "default", {"version": "1"}, {})
    text = " ".join(argv)
    assert "--platform linux/amd64 --progress plain" in text
    assert "--build-arg BASE=debian@sha256:aa" in text
    assert "--label org.opencontainers.image.base.digest=sha256:aa" in text
    assert "--label org.opencontainers.image.base.name=debian:trixie-slim" in text
    assert "--label org.opencontainers.image.version=1" in text
    assert "--network" not in argv
    assert argv[-1] == str(Options().context)


def test_an_engine_that_keeps_images_in_ocis_form_is_told_to_make_schema_2():
    buildx = Builder("d", ("d", "buildx", "build", "--load"), "buildx 0.24.0")
    plain = build.command(buildx, Options(), PULLED, "default", {}, {})
    told = build.command(buildx, Options(), PULLED, "default", {}, {}, oci=True)
    assert "--load" in plain
    assert told[3] == "--output=type=image,oci-mediatypes=false"
    assert "--load" not in told


def test_a_base_made_here_has_no_digest_label():
    text = " ".join(build.command(BUILDER, Options(), MADE, "host", {}, {}))
    assert "base.digest" not in text
    assert "--network host" in text


def test_certificates_and_addresses_go_as_secrets():
    options = Options(apt_mirror="http://m", pip_index="https://u:p@i")
    with build._secrets(options, Trust("PEM\n", "of a test")) as files:
        argv = build.command(BUILDER, options, MADE, "default", {}, files)
        told = [argv[at + 1] for at, part in enumerate(argv) if part == "--secret"]
        assert told == [f"id={name},src={path}" for name, path in files.items()]
        assert files["extra_ca"].read_text() == "PEM\n"
        assert files["pip_index"].read_text() == "https://u:p@i"
        assert "u:p" not in " ".join(argv)
    assert not files["pip_index"].exists()


def test_an_option_wins_over_its_variable():
    options, as_json = build.parse(
        ["--base", "a", "--json"], {"BASE": "b", "EXTRA_CA": "ca", "RELEASE": "1"}
    )
    assert (options.base, options.extra_ca, options.release, as_json) == (
        "a",
        Path("ca"),
        True,
        True,
    )


@pytest.mark.parametrize("value", ["", "0", "no"])
def test_release_off_is_off(value):
    assert build.parse([], {"RELEASE": value})[0].release is False


def test_a_missing_bundle_is_refused_before_an_engine_is_looked_for(tmp_path, capsys):
    assert build.main(["--extra-ca", str(tmp_path / "none.pem")]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "none.pem" in line
    assert "give a PEM bundle" in line


@pytest.mark.parametrize(
    ("log", "told"),
    [
        pytest.param(
            "#9 1.2 SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))",
            "EXTRA_CA=",
            id="inspected TLS",
        ),
        pytest.param("#9 0.3 write /x: No space left on device", "disk is full", id="disk"),
        pytest.param("#9 2 Temporary failure resolving 'deb.example'", "DNS", id="names"),
        pytest.param(
            "#9 ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", "hash in its lock", id="hash"
        ),
        pytest.param("#9 2 No matching distribution found for torch", "PIP_INDEX_URL", id="index"),
        pytest.param("#9 2 E: Unable to locate package nvcc", "APT_MIRROR", id="apt"),
        pytest.param("#9 800.1 Killed", "compiler was killed", id="memory"),
    ],
)
def test_a_failed_build_names_cause_and_remedy(log, told):
    error = buildlog.failure(f"    1.00 {log}\n", 1, Path("failed.log"))
    assert told in str(error).splitlines()[0]
    assert "failed.log" in str(error).splitlines()[0]


def test_an_unknown_failure_shows_the_last_lines_that_say_something():
    text = (
        "    1.00 #9 [x 1/1] RUN make\n    2.00 #9 1.1 cc: no such file\n    2.10 #9 sha256:ab\n"
        "    2.20 ------\n    2.30  > [x 1/1] RUN make:\n    2.40 executor failed running [make]\n"
    )
    lines = str(buildlog.failure(text, 2, Path("failed.log"))).splitlines()
    assert lines[0] == "the build failed with 2; see failed.log"
    assert lines[-1].endswith("cc: no such file")


def test_progress_names_what_runs_what_is_left_and_how_long_that_takes():
    progress = buildlog.Progress()
    for line in (
        "#1 [internal] load build definition from Dockerfile\n",
        "#4 [base 1/2] FROM x\n",
        "#4 CACHED\n",
        "#5 [torch 1/1] RUN --mount=type=secret,id=extra_ca   pip install\n",
        "#6 [compiler 1/1] RUN apt\n",
        "#5 1.0 Collecting torch\n",
    ):
        progress.feed(line)
    assert progress.step == (
        "compiler, torch; then tools, kernels, runtime, gsplat, export (usually 4 min)"
    )
    progress.feed("#5 DONE 3.0s\n")
    assert progress.step.startswith("compiler; then tools")
    progress.feed("#6 DONE 9.0s\n")
    assert progress.step.startswith("preparing tools; then kernels")
    for line in ("#9 exporting to image\n", "#9 exporting layers\n"):
        progress.feed(line)
    assert progress.step.startswith("export; then tools")


def test_the_stages_that_progress_knows_are_the_dockerfiles():
    text = (build.ROOT / "image" / "Dockerfile").read_text()
    stages = set(re.findall(r"(?m)^FROM \S+ AS (\w+)", text))
    assert set(buildlog.USUAL) - {"export"} <= stages
    assert set(buildlog.USUAL) >= buildlog.BESIDE


def script(text):
    return [sys.executable, "-c", text]


def test_each_line_of_a_build_is_kept_with_its_time(tmp_path):
    log = tmp_path / "log"
    assert buildlog.run_logged(script("print('a'); print('b'); raise SystemExit(3)"), {}, log) == 3
    lines = log.read_text().splitlines()
    assert [line.split()[1] for line in lines] == ["a", "b"]
    assert all(float(line.split()[0]) >= 0 for line in lines)


def test_a_silent_build_still_says_that_it_lives(tmp_path, capsys):
    buildlog.run_logged(script("import time; time.sleep(1.5)"), {}, tmp_path / "log", tell=0.1)
    assert "image:" in capsys.readouterr().err


class Engine:
    """An engine's images, as far as building asks for them."""

    def __init__(self, refs=()):
        self.refs = set(refs)
        self.images = self

    def get(self, ref):
        import docker.errors

        if ref not in self.refs:
            raise docker.errors.ImageNotFound(ref)
        return type("Image", (), {"attrs": {"RepoDigests": [f"debian@{PULLED.digest}"]}})

    def list(self, name, filters):
        assert filters == {"label": "io.splatgate.base=debootstrap"}
        tags = [ref for ref in self.refs if ref.startswith(name)]
        return [type("Image", (), {"tags": tags})] if tags else []


def test_the_last_builds_base_is_used_again(monkeypatch):
    monkeypatch.setattr(base, "_pull", lambda *_: pytest.fail("asked the registry"))
    assert base.resolve(Engine([PULLED.ref]), BUILDER, None, None, PULLED) == PULLED


def test_a_registry_that_answers_gives_the_base_by_digest(monkeypatch):
    engine = Engine([base.DEFAULT])
    monkeypatch.setattr(base, "_pull", lambda *_: None)
    assert base.resolve(engine, BUILDER, None) == PULLED


def test_without_a_registry_a_base_made_earlier_is_used(monkeypatch, capsys):
    monkeypatch.setattr(base, "_pull", lambda *_: "no such host")
    assert base.resolve(Engine([MADE.ref]), BUILDER, None) == MADE
    assert "no registry (no such host)" in capsys.readouterr().err


def test_without_a_registry_a_base_is_made(monkeypatch):
    monkeypatch.setattr(base, "_pull", lambda *_: "no such host")
    monkeypatch.setattr(base, "debootstrap", lambda _, mirror: f"{base.MADE}:x-{mirror}")
    assert base.resolve(Engine(), BUILDER, None, "m") == Base(
        f"{base.MADE}:x-m", None, "debootstrap"
    )


def test_a_base_that_was_asked_for_is_taken_as_it_is(monkeypatch):
    monkeypatch.setattr(base, "_pull", lambda *_: pytest.fail("asked the registry"))
    assert base.resolve(Engine(["mine:1"]), BUILDER, "mine:1", None, PULLED).ref == "mine:1"


def test_a_base_that_cannot_be_had_is_one_line(monkeypatch):
    monkeypatch.setattr(base, "_pull", lambda *_: "no such host")
    with pytest.raises(EngineError, match=r"mine:1 is not here and cannot be pulled: no such host"):
        base.resolve(Engine(), BUILDER, "mine:1")


def test_without_root_no_base_is_made(monkeypatch):
    monkeypatch.setattr(base.starting, "privilege", lambda: None)
    with pytest.raises(EngineError, match="needs root; set BASE"):
        base.debootstrap(BUILDER)


def test_the_bases_sources_have_security_fixes():
    text = base.sources("http://m/debian")
    assert "URIs: http://m/debian-security\nSuites: trixie-security" in text


@pytest.fixture
def engineless(context, tmp_path, monkeypatch):
    """Options for the small context, and an engine that builds whatever it is told."""
    options = Options(context=context, out=tmp_path / "out", tag="t:dev")
    image = type("Image", (), {"id": "sha256:9", "labels": {}, "attrs": {}, "tags": ["t:dev"]})
    link = type(
        "Link",
        (),
        {
            "images": type("Images", (), {"get": staticmethod(lambda _: image)}),
            "version": lambda _: {"Version": "20.10.24"},
            "info": lambda _: {},
        },
    )()
    monkeypatch.setattr(build.starting, "ensure", lambda _: None)
    monkeypatch.setattr(build.engine, "client", lambda _: link)
    monkeypatch.setattr(build.engine, "preflight", lambda *_: [])
    monkeypatch.setattr(build.base, "resolve", lambda *_: MADE)
    monkeypatch.setattr(build.starting, "ensure", lambda _: type("E", (), {"host": "unix:///s"}))

    def builds(text):
        monkeypatch.setattr(
            build.engine, "builder", lambda _: Builder("p", tuple(script(text)), "fake")
        )
        return options

    return builds


def test_the_second_build_builds_nothing(engineless, capsys):
    options = engineless("print('#1 DONE')")
    first = build.build_image(options)
    engineless("raise SystemExit('built again')")
    second = build.build_image(options)
    assert (first.cached, second.cached) == (False, True)
    assert replace(second, cached=False) == first
    assert "nothing to rebuild" in capsys.readouterr().err


def test_a_failed_build_keeps_its_log_and_the_earlier_record(engineless, context):
    options = engineless("print('#1 DONE')")
    first = build.build_image(options)
    (context / "trainer" / "a.py").write_text("a = 3\n")
    engineless("print('cc: bad'); raise SystemExit(1)")
    with pytest.raises(EngineError, match=r"the build failed with 1(?s:.)*cc: bad"):
        build.build_image(options)
    assert build.read_record(options.out / "build.json") == first
    assert "cc: bad" in (options.out / "failed.log").read_text()
    assert not (options.out / "build.log.running").exists()


def test_an_interrupted_build_leaves_nothing(engineless, monkeypatch):
    options = engineless("print('#1 DONE')")

    def interrupted(*_):
        (options.out / "build.log.running").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "run_logged", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build.build_image(options)
    assert [path.name for path in options.out.iterdir()] == [".lock"]


def test_names_that_do_not_resolve_are_tried_with_the_hosts_network(engineless):
    options = engineless(
        "import sys; sys.exit(0 if 'host' in sys.argv else 'Temporary failure in name resolution')"
    )
    assert build.build_image(options).network == "host"

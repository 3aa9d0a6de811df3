"""A build log's warnings and errors are found in each format, and nothing else is."""

import base64
import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splatgate.container.cleanlog import ERROR, KNOWN, WARNING, findings, ran, severity
from splatgate.evidence import Header, Machine, write
from splatgate.evidence.missing import NotVerified
from splatgate.judge.in_process import Fixtures
from splatgate.sources.recorded import Recorded

#: Lines that real builds print, and what they are.
SAID = {
    "WARNING: Running pip as the 'root' user can result in broken permissions": WARNING,
    "  WARNING: The script f2py is installed in '/root/.local/bin' which is not on PATH.": WARNING,
    "debconf: delaying package configuration, since apt-utils is not installed": WARNING,
    "npm warn deprecated inflight@1.0.6: This module is not supported": WARNING,
    "npm WARN deprecated har-validator@5.1.5: this library is no longer supported": WARNING,
    "npm ERR! code ELIFECYCLE": ERROR,
    "csrc/rasterize.cu:41:9: warning: unused variable ‘x’ [-Wunused-variable]": WARNING,
    "/src/glm/detail/type_half.inl(12): warning #20012-D: __device__ is ignored": WARNING,
    "nvcc warning : The 'compute_35' architectures are deprecated": WARNING,
    "ptxas warning : Stack size for entry function cannot be determined": WARNING,
    "nvcc fatal   : Unsupported gpu architecture 'compute_37'": ERROR,
    "/src/x.h:1:10: fatal error: cuda_runtime.h: No such file or directory": ERROR,
    "/usr/bin/ld: cannot find -lcudart: No such file or directory": ERROR,
    "collect2: error: ld returned 1 exit status": ERROR,
    "CMake Warning at CMakeLists.txt:12 (find_package):": WARNING,
    "make: *** [Makefile:3: all] Error 2": ERROR,
    "ninja: build stopped: subcommand failed.": ERROR,
    "ERROR: Could not find a version that satisfies the requirement gsplat==9.9": ERROR,
    "error: subprocess-exited-with-error": ERROR,
    "  error: metadata-generation-failed": ERROR,
    "ERROR: pip's dependency resolver does not currently take into account all packages": ERROR,
    "torchvision 0.15.1 requires torch==2.0.0, but you have torch 2.1.0 which is incompatible.": (
        ERROR
    ),
    "DEPRECATION: Building 'fused-ssim' using the legacy setup.py bdist_wheel mechanism": WARNING,
    "gsplat: No CUDA toolkit found. gsplat will be disabled.": WARNING,
    "No CUDA runtime is found, using CUDA_HOME='/usr'": WARNING,
    "/opt/venv/lib/python3.13/site-packages/torch/utils/cpp_extension.py:480: UserWarning: The "
    "detected CUDA version (12.4) has a minor version mismatch": WARNING,
    "W1124 23:40:11.123000 78 torch/utils/cpp_extension.py:2425] TORCH_CUDA_ARCH_LIST": WARNING,
    "ModuleNotFoundError: No module named 'torch'": ERROR,
    "Traceback (most recent call last):": ERROR,
    "W: GPG error: http://mirror.example trixie InRelease": WARNING,
    "E: Unable to locate package libgl1-mesa-glx": ERROR,
    "dpkg: warning: files list file for package 'x' missing": WARNING,
    "update-alternatives: warning: skip creation of /usr/share/man/man1/pager.1.gz": WARNING,
    "/bin/sh: 1: nvcc: not found": ERROR,
    "cp: cannot stat 'train.py': No such file or directory": ERROR,
    "##[warning]Node.js 16 actions are deprecated": WARNING,
    "##[error]Process completed with exit code 1.": ERROR,
    " - JSONArgsRecommended: JSON arguments recommended for ENTRYPOINT (line 9)": WARNING,
    "time=2026-01-01T00:00:00Z level=warning msg=\"No output specified\"": WARNING,
}  # fmt: skip
#: Lines with the words in them that warn of nothing.
SILENT = (
    "Get:5 http://mirror.example/debian trixie/main amd64 libgpg-error0 amd64 1.51-4 [82.1 kB]",
    "Setting up libgpg-error0:amd64 (1.51-4) ...",
    "Selecting previously unselected package libgpg-error-l10n.",
    "Unpacking liberror-perl (0.17030-1) ...",
    "g++-13 -Wall -Werror -O3 -c csrc/ext.cpp -o ext.o",
    "0 errors, 0 warnings",
    "Build succeeded: 0 errors.",
    "Collecting exceptiongroup==1.3.0 (from -r /mnt/runtime.txt (line 28))",
    "Collecting pytest-error-for-skips",
    "adding 'torch/distributed/elastic/multiprocessing/errors/error_handler.py'",
    "-- Performing Test HAS_WERROR - Success",
    "copying gsplat/warnings.py -> build/lib/gsplat",
    "No broken requirements found.",
    "mean reprojection error: 0.53 px",
    "[notice] A new release of pip is available: 24.0 -> 25.3",
    "ptxas info    : Compiling entry function '_Z6kernelv' for 'sm_75'",
    "Compiling src/error.rs",
    "error::Result is re-exported",
    "Requirement already satisfied: filelock==4.2.12 in /opt/venv (from -r x (line 30)) (4.2.12)",
)


def build_step(*lines):
    """A step of BuildKit's plain progress with its output."""
    return "\n".join(
        ["#7 [stage 2/3] RUN make WARNING=1 || echo 'error: x'", *lines, "#7 DONE 3.1s"]
    )


@pytest.mark.parametrize(("line", "kind"), SAID.items(), ids=[k[:40] for k in SAID])
def test_what_a_build_says_is_found(line, kind):
    assert severity(line) == kind


@pytest.mark.parametrize("line", SILENT, ids=[k[:40] for k in SILENT])
def test_names_and_flags_are_no_findings(line):
    assert severity(line) is None


@pytest.mark.parametrize(("line", "kind"), SAID.items(), ids=[k[:40] for k in SAID])
@pytest.mark.parametrize(
    "prefix",
    [
        "#7 1.234 ",
        "   12.34 #7 1.234 ",
        "build\tBuild and push\t2026-01-02T03:04:05.1234567Z #7 1.234 ",
        "build\tBuild and push\t\ufeff2026-01-02T03:04:05.1234567Z \x1b[33m",
        "2026-01-02T03:04:05.1234567Z ",
    ],
    ids=["buildkit", "ours", "github", "github-coloured", "github-archive"],
)
def test_a_prefix_changes_nothing(prefix, line, kind):
    (found,) = findings(f"{prefix}{line}")
    assert (found.line, found.kind, found.text) == (1, kind, line.strip())


def test_a_steps_own_command_is_no_finding():
    assert findings(build_step("#7 0.210 fine")) == []
    echoed = (
        "b\tB\t2026-01-02T03:04:05.1Z ##[group]Run docker build .\n"
        "b\tB\t2026-01-02T03:04:05.1Z error: never said\n"
        "b\tB\t2026-01-02T03:04:05.1Z ##[endgroup]\n"
        "b\tB\t2026-01-02T03:04:05.1Z error: said\n"
    )
    assert [f.line for f in findings(echoed)] == [4]


def test_the_builders_own_words_are_found():
    text = '#9 ERROR: process "/bin/sh -c make" did not complete successfully: exit code: 2\n'
    text += "#1 WARN: FromAsCasing: 'as' and 'FROM' keywords' casing do not match (line 1)\n"
    text += "#10 sha256:abc ERROR 1MB\nERROR: failed to solve: exit code: 2\n"
    assert [(f.line, f.kind) for f in findings(text)] == [(1, ERROR), (2, WARNING), (4, ERROR)]


def test_json_progress_is_read():
    def packed(text):
        return base64.b64encode(text.encode()).decode()

    text = "\n".join(
        json.dumps(record)
        for record in (
            {"vertexes": [{"digest": "d", "name": "[1/2] RUN echo error: x"}]},
            {"logs": [{"vertex": "d", "stream": 2, "data": packed("fine\nWARNING: old\n")}]},
            {"warnings": [{"vertex": "d", "level": 1, "short": packed("JSONArgsRecommended: …")}]},
            {"vertexes": [{"digest": "d", "name": "[1/2]", "error": "exit code: 1"}]},
        )
    )
    assert [(f.line, f.kind) for f in findings(text)] == [(2, WARNING), (3, WARNING), (4, ERROR)]


def test_known_findings_carry_their_reason():
    (found,) = findings("#7 1.0 WARNING: Running pip as the 'root' user can result in …")
    assert found.known == KNOWN[0].reason
    assert all(len(known.reason) > 20 for known in KNOWN)
    (missing,) = findings("#7 1.0 gsplat: No CUDA toolkit found. gsplat will be disabled.")
    assert missing.known is None


def test_a_log_of_the_cache_alone_is_told_from_one_that_ran():
    cached = "#7 [a 1/2] RUN x\n#7 CACHED\n"
    assert ran(cached) is False
    assert ran(cached + "    0.26 #8 [a 2/2] RUN y\n    0.30 #8 DONE 0.1s\n") is True
    assert ran("Step 1/2 : RUN x") is None


@given(st.text(max_size=400))
def test_any_text_is_read_to_its_end(text):
    lines = len(text.splitlines())
    assert all(1 <= f.line <= lines and f.kind in (WARNING, ERROR) for f in findings(text))
    ran(text)


@given(
    st.lists(st.sampled_from([*SAID, *SILENT]), max_size=12),
    st.sampled_from(["#3 0.12 ", "    1.25 #3 0.12 ", "j\ts\t2026-01-02T03:04:05.1Z #3 0.12 "]),
)
def test_exactly_the_lines_that_warn_are_found_in_any_mixture(lines, prefix):
    text = "\n".join(f"{prefix}{line}" for line in lines)
    expected = [(n, SAID[line]) for n, line in enumerate(lines, 1) if line in SAID]
    assert [(f.line, f.kind) for f in findings(text)] == expected


def test_a_build_elsewhere_is_known_by_the_end_of_its_log(tmp_path):
    """Without build.json the image that the log names is the one that was built."""
    write(tmp_path / "evidence.json", Header("r", None, "", Machine()))
    log, source = tmp_path / "build.log", Recorded(tmp_path, tmp_path)
    other, made = b"a" * 64, b"b" * 64
    log.write_bytes(
        b"#9 exporting manifest sha256:%b\r\n#9 exporting config sha256:%b done" % (other, made)
    )
    assert Fixtures(source).getfixturevalue("build") == {
        "image_id": f"sha256:{made.decode()}",
        "log_sha256": hashlib.sha256(log.read_bytes()).hexdigest(),
    }
    for said in (b"", b"Successfully built 0123456789ab"):
        log.write_bytes(said)
        with pytest.raises(NotVerified, match="names the image"):
            Fixtures(Recorded(tmp_path, tmp_path)).getfixturevalue("build")

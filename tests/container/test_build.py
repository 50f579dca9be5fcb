"""build: a Dockerfile's steps, what they make, and what is not done again."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from tests.container.launcher import Launcher
from tests.image.podman import Podman
from unionfs.container.dockerfile import expand, parse
from unionfs.errors import UnionfsError

pytestmark = pytest.mark.stress


@pytest.fixture
def context(tmp_path: Path) -> Path:
    place = tmp_path / "context"
    (place / "sub" / "deep").mkdir(parents=True)
    (place / "a.txt").write_text("a\n")
    (place / "sub" / "b.txt").write_text("b\n")
    (place / "sub" / "deep" / "c.txt").write_text("c\n")
    return place


def build(launcher: Launcher, context: Path, text: str, *words: str) -> Any:
    """Build it as `built`, and give the image's document."""
    (context / "Dockerfile").write_text(text)
    launcher.ok("build", "-t", "built", *words, context)
    return json.loads(launcher.ok("image", "inspect", "built"))[0]


def test_each_instruction(launcher: Launcher, context: Path) -> None:
    with tarfile.open(context / "x.tar.gz", "w:gz") as archive:
        archive.add(context / "sub", "packed")
    image = build(launcher, context, """\
# a remark
ARG BASE=host
FROM $BASE
ARG WHO=nobody-said
ENV A=1 B="two words"
ENV C old form
WORKDIR /work
WORKDIR sub
RUN echo "$WHO $A" > /greeting \\
    # a remark between
    && pwd >> /greeting
COPY a.txt sub/b.txt /files/
COPY sub /tree
ADD x.tar.gz /unpacked
COPY ["a.txt", "/with space"]
USER nobody
EXPOSE 80 53/udp
VOLUME ["/data"]
LABEL one=1 two="2 3"
STOPSIGNAL SIGUSR1
ENTRYPOINT ["cat"]
CMD ["/greeting"]
""", "--build-arg", "WHO=me", "--label", "by=test")  # fmt: skip
    config = image["Config"]
    assert {"A=1", "B=two words", "C=old form"} <= set(config["Env"])
    assert (config["WorkingDir"], config["User"], config["StopSignal"]) == ("/work/sub", "nobody", "SIGUSR1")
    assert config["ExposedPorts"] == {"80/tcp": {}, "53/udp": {}} and config["Volumes"] == {"/data": {}}
    assert config["Labels"] == {"one": "1", "two": "2 3", "by": "test"}
    assert launcher.ok("run", "--rm", "built").splitlines() == ["me 1", "/work/sub"]
    look = "cd /; find files tree unpacked 'with space' | sort; stat -c '%u %g' /tree/b.txt"
    out = launcher.ok("run", "--rm", "--entrypoint", "sh", "built", "-c", look)
    assert out.splitlines() == [
        "files", "files/a.txt", "files/b.txt", "tree", "tree/b.txt", "tree/deep", "tree/deep/c.txt", "unpacked",
        "unpacked/packed", "unpacked/packed/b.txt", "unpacked/packed/deep", "unpacked/packed/deep/c.txt", "with space",
        "0 0",
    ]  # fmt: skip
    steps = launcher.ok("history", "--format", "{{.CreatedBy}}", "built").splitlines()
    assert steps[0].startswith("LABEL") and any(step.startswith("RUN echo") for step in steps)


def test_what_did_not_change_is_not_done_again(launcher: Launcher, context: Path) -> None:
    draw = "RUN cat /proc/sys/kernel/random/uuid >"
    text = f"FROM host\n{draw} /first\nCOPY a.txt /\n{draw} /second\n"

    def uuids(*words: str) -> tuple[str, str]:
        build(launcher, context, text, *words)
        first, second = launcher.ok("run", "--rm", "built", "cat", "/first", "/second").split()
        return first, second

    one = uuids()
    assert uuids() == one
    (context / "unused").touch()
    (context / "a.txt").touch()  # a time is no change
    assert uuids() == one
    (context / "a.txt").write_text("changed\n")
    two = uuids()
    assert two[0] == one[0] and two[1] != one[1]
    (context / "a.txt").chmod(0o600)
    assert uuids()[1] != two[1]
    assert uuids("--no-cache")[0] != one[0]


def test_stages(launcher: Launcher, context: Path) -> None:
    text = """\
FROM host AS make
RUN mkdir /out && echo made > /out/file && chown 7:8 /out/file
FROM scratch AS empty
COPY --from=make /out /final
FROM host
COPY --from=make /out/file /one
COPY --from=empty /final/ /two/
COPY --from=host --chown=nobody:5 --chmod=640 /etc/passwd /three
"""
    build(launcher, context, text)
    out = launcher.ok("run", "--rm", "built", "sh", "-c", "cat /one /two/file; stat -c '%u %g %a' /one /three")
    assert out.splitlines() == ["made", "made", "7 8 644", "65534 5 640"]
    launcher.ok("build", "-t", "only", "--target", "empty", context)
    assert len(json.loads(launcher.ok("image", "inspect", "only"))[0]["RootFS"]["Layers"]) == 1
    assert "no stage of that name" in launcher("build", "--target", "nosuch", context).err


def test_ignored_files(launcher: Launcher, context: Path) -> None:
    (context / ".dockerignore").write_text("# remark\n**/*.txt\n!sub/deep/*.txt\nDockerfile\n.dockerignore\n")
    build(launcher, context, "FROM host\nCOPY . /all\n")
    assert launcher.ok("run", "--rm", "built", "find", "/all", "-type", "f") == "/all/sub/deep/c.txt"


def test_a_step_that_fails(launcher: Launcher, context: Path) -> None:
    (context / "Dockerfile").write_text("FROM host\nRUN echo before\nRUN echo out; echo err >&2; exit 7\n")
    result = launcher("build", "-t", "built", context)
    assert result.status == 7
    assert "out\n" in result.out and "err\n" in result.err
    assert "the command 'echo out; echo err >&2; exit 7': returned a non-zero code: 7" in result.err
    assert launcher.names() == [] and launcher("image", "inspect", "built").status == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no instructions"),
        ("RUN true\n", "line 1: RUN before FROM"),
        ("FROM host\n\nHEALTHCHECK CMD true\n", "line 3: unknown instruction: HEALTHCHECK"),
        ("FROM host\nRNU true\n", 'line 2: unknown instruction: RNU\n  did you mean "RUN"?'),
        ("FROM hsot\n", 'line 1: no such image: hsot\n  did you mean "host"?'),
        ("FROM host\nCOPY nosuch /\n", "line 2: COPY nosuch: not found in the build context"),
        ("FROM host\nCOPY ../../etc/passwd /\n", "not found in the build context"),
        ("FROM host\nADD http://example.org/x /\n", "is not local"),
        ("FROM host\nCOPY a.txt sub /nodir\n", "the target is a directory"),
        ("FROM host\nRUN --mount=type=cache true\n", "RUN --mount: is not supported"),
        ("FROM host\nRUN <<END\ntrue\nEND\n", "here-documents are not supported"),
        ("FROM host\nENV A\n", "line 2: ENV A: has no value"),
        ("FROM host\nEXPOSE web\n", "web/tcp is no port"),
        ("FROM scratch\nRUN true\n", "nothing to run in an image from scratch"),
        ("FROM host\nCOPY --chmod=rw a.txt /\n", "is no octal number"),
    ],
)
def test_errors_name_the_line(shared: Launcher, context: Path, text: str, told: str) -> None:
    (context / "Dockerfile").write_text(text)
    result = shared("build", context)
    assert result.status == 1 and told in result.err, result
    assert shared.names() == []


def test_a_link_in_the_context_does_not_lead_out(shared: Launcher, context: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (context / "link").symlink_to(tmp_path / "secret")
    (context / "Dockerfile").write_text("FROM host\nCOPY link /\n")
    result = shared("build", context)
    assert result.status == 1 and "leads out of the build context" in result.err


def test_without_a_dockerfile(shared: Launcher, tmp_path: Path) -> None:
    result = shared("build", tmp_path)
    assert result.status == 1 and "name the Dockerfile: -f FILE" in result.err
    assert "is no directory" in shared("build", tmp_path / "nosuch").err


def test_quiet_prints_the_id(launcher: Launcher, context: Path) -> None:
    (context / "other").write_text("FROM host\nLABEL a=b\n")
    identity = launcher.ok("build", "-q", "-f", context / "other", context)
    assert identity.startswith("sha256:") and len(identity) == 71
    assert identity.removeprefix("sha256:")[:12] not in launcher.ok("images")  # a step of a build, without a name
    assert identity.removeprefix("sha256:")[:12] in launcher.ok("images", "-a")


def test_podman_builds_the_same(launcher: Launcher, context: Path, tmp_path: Path, short_path: Path) -> None:
    """The same Dockerfile by podman: the same files with the same owners and modes."""
    text = "FROM host\nWORKDIR /w\nCOPY sub /w/sub\nCOPY --chown=3:4 a.txt /w/\nENV A=1\nUSER nobody\n"
    build(launcher, context, text)
    podman = Podman(short_path)
    launcher.ok("save", "-o", tmp_path / "host.tar", "host")
    podman.ok("load", "-i", str(tmp_path / "host.tar"))
    podman.ok("build", "-q", "-t", "built", str(context))
    podman.ok("save", "--format", "oci-archive", "-o", str(tmp_path / "theirs.tar"), "built")
    theirs = launcher.ok("load", "-i", tmp_path / "theirs.tar").rpartition(" ")[2]
    script = "cd /w; find . -exec stat -c '%n %a %u %g %F' {} + | sort; id -u; pwd; echo $A"
    run = ["sh", "-c", script]
    assert launcher.ok("run", "--rm", theirs, *run) == launcher.ok("run", "--rm", "built", *run)
    podman("system", "reset", "-f")


# --- text


def test_variables() -> None:
    instruction = parse('FROM x\nENV A=$B${C}${D:-d}${B:+p}${E-e}\\$B"$B"\n')[1]
    values = {"B": "b", "C": "", "D": ""}
    assert expand(instruction, values).rest == 'A=bdpe$B"b"'


def test_another_escape() -> None:
    text = "# escape=`\nFROM x\nRUN a `\n  b\n"
    assert [(one.line, one.rest) for one in parse(text)] == [(2, "x"), (3, "a   b")]


@pytest.mark.parametrize("text", ["FROM\n", "FROM x\nCOPY\n", "ARG X\n", "\\\n", "FROM x\nLABEL\n"])
def test_text_that_is_none(text: str) -> None:
    with pytest.raises(UnionfsError, match="Dockerfile"):
        parse(text)

"""-t and -i in a real terminal: the notes' commands as a user types them."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pexpect
import pytest

from tests.container.launcher import Launcher

SECONDS = 20

pytestmark = pytest.mark.stress


class Terminal:
    """A command of ours on a terminal of its own."""

    def __init__(self, launcher: Launcher, *words: str, rows: int = 24, columns: int = 80) -> None:
        arguments = ["-P", "-m", "unionfs", *words]
        environment = {**launcher.environment, "TERM": "xterm"}
        self.child = pexpect.spawn(
            sys.executable, arguments, env=environment, timeout=SECONDS, dimensions=(rows, columns), encoding="utf-8"
        )

    def prompt(self) -> str:
        """What came until a shell asks for the next command."""
        self.child.expect(r"[#$] $")
        return str(self.child.before)

    def type(self, line: str) -> str:
        """What a command of a shell prints."""
        self.child.sendline(f"{line}; echo E''ND")
        self.child.expect("END\r\n")
        text = str(self.child.before).partition("E''ND\r\n")[2].replace("\x1b[?2004l\r", "")  # readline's
        self.prompt()
        return text.replace("\r\n", "\n")

    def end(self) -> int:
        self.child.expect(pexpect.EOF)
        self.child.close()
        return int(self.child.exitstatus if self.child.exitstatus is not None else 128 + (self.child.signalstatus or 0))


@pytest.fixture
def shell(launcher: Launcher) -> Iterator[Terminal]:
    terminal = Terminal(launcher, "run", "-it", "--name", "shell", "host", "bash", "--norc", rows=31, columns=101)
    terminal.prompt()
    yield terminal
    terminal.child.close(force=True)


def test_a_shell_on_a_terminal(shell: Terminal) -> None:
    assert shell.type("tty") == "/dev/pts/0\n"
    assert shell.type("stty size") == "31 101\n"
    assert shell.type("echo $TERM") == "xterm\n"
    shell.child.setwinsize(50, 60)
    assert shell.type("sleep 0.2; stty size") == "50 60\n"
    shell.child.sendline("exit 5")
    assert shell.end() == 5


def _sleep(shell: Terminal, launcher: Launcher) -> None:
    """Type it, and return when it runs."""
    shell.child.sendline("sleep 100")
    while "sleep 100" not in launcher.ok("top", "shell"):
        time.sleep(0.05)


def test_keys_are_the_containers(shell: Terminal, launcher: Launcher) -> None:
    """^C interrupts what runs there, ^Z stops it, ^D ends the shell; none of them reaches the command line here."""
    _sleep(shell, launcher)
    shell.child.sendintr()
    shell.prompt()
    assert shell.type("echo $?") == "130\n"
    _sleep(shell, launcher)
    shell.child.send("\x1a")
    shell.child.expect("Stopped")
    shell.prompt()
    shell.child.sendline("kill -9 %1; while jobs %1 2>&1 | grep -q Stopped; do sleep 0.05; done; true")
    shell.prompt()
    shell.child.sendeof()
    assert shell.end() in (0, 137)


def test_detach_and_attach_again(shell: Terminal, launcher: Launcher) -> None:
    shell.child.send("\x10\x11")
    shell.child.expect("read escape sequence")
    assert shell.end() == 0
    assert launcher.inspect("shell")["State"]["Running"]
    again = Terminal(launcher, "attach", "shell")
    again.child.sendline("")
    again.prompt()
    assert again.type("echo back") == "back\n"
    again.child.sendline("exit 3")
    assert again.end() == 3
    assert launcher.inspect("shell")["State"]["ExitCode"] == 3


def test_the_detaching_keys_alone_are_typed(shell: Terminal) -> None:
    """ctrl-p is the line before: it waits for the next key, and is not lost."""
    assert shell.type("echo one") == "one\n"
    shell.child.send("\x10\r")
    shell.child.expect("one\r\n")
    shell.child.sendline("exit")
    shell.end()


def test_exec_it_as_in_the_notes(launcher: Launcher) -> None:
    """`unionfs exec -it NAME bash`"""
    launcher.ok("run", "-d", "-e", "A=1", "-w", "/srv", "--name", "server", "host", "sleep", "100")
    terminal = Terminal(launcher, "exec", "-it", "server", "bash", "--norc", rows=22, columns=77)
    terminal.prompt()
    assert terminal.type("tty; stty size; echo $A $PWD") == "/dev/pts/0\n22 77\n1 /srv\n"
    assert terminal.type("ps -o pid= -C sleep").strip() == "1"
    terminal.child.setwinsize(40, 50)
    assert terminal.type("sleep 0.2; stty size") == "40 50\n"
    terminal.child.sendline("exit 9")
    assert terminal.end() == 9
    assert launcher.inspect("server")["State"]["Running"]


def test_a_data_volume_container_as_in_the_notes(launcher: Launcher) -> None:
    """`create -v /srv --name store IMAGE /bin/true`, then `run -it --rm --volumes-from store IMAGE`, twice."""
    launcher.ok("create", "-v", "/srv", "--name", "store", "ubuntu:14.04", "/bin/true")
    for line, expected in (("echo kept > /srv/file; ls /srv", "file\n"), ("cat /srv/file", "kept\n")):
        terminal = Terminal(launcher, "run", "-it", "--rm", "--volumes-from", "store", "ubuntu:14.04")
        terminal.prompt()
        assert terminal.type(line) == expected
        terminal.child.sendline("exit")
        assert terminal.end() == 0
    assert launcher.names() == ["store"]


def test_the_terminal_is_as_it_was(launcher: Launcher) -> None:
    """Raw while the container has it, and back afterwards, whatever the status was."""
    command = f"{sys.executable} -P -m unionfs"
    runs = "; ".join(f"{command} run -it --rm host {program}" for program in ("true", "nosuch"))
    script = f'before=$(stty -g); {runs}; [ "$before" = "$(stty -g)" ] && echo same'
    child = pexpect.spawn("sh", ["-c", script], env=launcher.environment, timeout=SECONDS, encoding="utf-8")
    child.expect("same")
    child.close()


def test_a_large_output_through_a_terminal(launcher: Launcher) -> None:
    child = pexpect.spawn(
        sys.executable, ["-P", "-m", "unionfs", "run", "-it", "--rm", "host", "seq", "50000"], env=launcher.environment,
        timeout=SECONDS, encoding="utf-8", maxread=65536,
    )  # fmt: skip
    child.expect(pexpect.EOF)
    assert str(child.before).split() == [str(number) for number in range(1, 50001)]

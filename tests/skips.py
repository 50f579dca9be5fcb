"""A pytest plugin: a skip for want of something that our own set-up installs is a failure.

Loaded by .ci/run (`-p tests.skips`), where .ci/setup has run as root. A skip that names what the machine or its kernel
cannot do stays a skip; one that names a package of ours means that a feature went untested.
"""

from __future__ import annotations

import re

import pytest

OURS = re.compile(
    r"\b(fuse3|fusermount3?|libfuse2?|fusepy|xattr package|xattr module|hypothesis|rich|acl package|setfacl|getfacl"
    r"|getfattr|setfattr|attr package|xfsprogs|mkfs\.\w+|man-db|could not import|No module named)\b",
    re.IGNORECASE,
)

_skipped: list[tuple[str, str]] = []


def _note(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if OURS.search(reason):
        _skipped.append((report.nodeid, reason))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _note(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _note(report)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if _skipped and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for node, reason in _skipped:
        terminalreporter.write_line(f"skipped although our set-up provides it: {node}: {reason}", red=True)

"""The suite: each group of rows runs on each peer that is here, in a tiny size; its tables, its JSON, its failures.

No time is judged. Without privileges, ours alone is measured.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.benchmarks.running import BENCHMARKS, ground, needs_fuse, needs_root, refusal, run

__all__ = ["ground"]
pytestmark = [pytest.mark.stress, needs_fuse]
TINY = ("--on", "disk", "--scale", "0.002")
EVERYWHERE = {"filesystem", "group", "workload", "what", "amount", "peer", "scale", "samples", "ms"}


@pytest.fixture
def suite(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Its modules, which import each other as programs of one folder do."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    names = ("engine", "measure", "peers", "results", "suite", "trees", "workload")
    return SimpleNamespace(**{name: __import__(name) for name in names})


def rows_of(found: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["what"], row["peer"]): row for row in found["rows"]}


def default(found: dict[str, Any]) -> str:
    """What ours is called here that has the default options."""
    names = {row["peer"] for row in found["rows"]}
    return "unionfs passthrough" if "unionfs passthrough" in names else "unionfs"


def failures(found: dict[str, Any]) -> list[str]:
    return [line for line in found["left_out"] if "failed" in line]


# --- the groups


def test_metadata(ground: Path) -> None:
    shown, found = run("suite", ground, *TINY, "--full", "--rows", "metadata")
    assert failures(found) == []
    rows, ours = rows_of(found), default(found)
    assert all(row.keys() >= EVERYWHERE for row in found["rows"])
    for what in ("walk + stat, cold", "stat, warm", "open + read + close, warm", "create + write 4 KiB", "mkdir"):
        assert rows[what, ours]["daemon_ms"] >= 0 and len(rows[what, ours]["samples"]) == 1
        assert "daemon_ms" not in rows[what, "native"]
    if os.geteuid() == 0:
        row = rows["unlink, lower files", ours]
        assert row["to_overlayfs"]["median"] > 0 and row["target"]["to_overlayfs"] == 2.5
        assert row["target"]["met"] in (True, False)
        assert "times as long as overlayfs" in shown and "targets, " in shown
        assert ("rename, lower files", "overlayfs metacopy") in rows
        assert ("create + write 4 KiB + fsync", "overlayfs volatile") in rows


def test_data(ground: Path) -> None:
    _, found = run("suite", ground, *TINY, "--full", "--rows", "read,write")
    assert failures(found) == []
    rows = rows_of(found)
    for what in ("sequential read, first", "mmap, read", "random write", "mmap, write"):
        assert (what, default(found)) in rows


@pytest.mark.skipif(not shutil.which("fio"), reason="needs fio")
def test_fio(ground: Path) -> None:
    _, found = run("suite", ground, *TINY, "--rows", "fio", "--peers", "native")
    assert failures(found) == []
    assert rows_of(found)["fio 4 jobs", "native"]["p99_us"] > 0


def test_first_write(ground: Path) -> None:
    _, found = run("suite", ground, *TINY, "--full", "--rows", "first change,large first write,stall")
    assert failures(found) == []
    rows = rows_of(found)
    whole, block = rows["first write, 1 MiB", "unionfs whole"], rows["first write, 1 MiB", "unionfs block"]
    assert whole["upper_bytes"] >= 1 << 20 > block["upper_bytes"] > 0
    assert rows["chmod, 1 MiB", "unionfs block"]["upper_bytes"] < 1 << 20
    assert ("then random writes", "unionfs auto") in rows
    assert rows["longest lookup meanwhile", "unionfs whole"]["ms"]["median"] > 0


def test_completion(ground: Path) -> None:
    _, found = run("suite", ground, *TINY, "--full", "--rows", "completed", "--peers", "whole,close")
    assert failures(found) == []
    assert ("completed: one more", "unionfs close") in rows_of(found)


def test_real(ground: Path) -> None:
    _, found = run("suite", ground, *TINY, "--full", "--rows", "untar,git,sqlite,usr", "--peers", "unionfs,native")
    assert failures(found) == []
    rows = rows_of(found)
    for what in ("untar", "sqlite, queries", "find, cold", "grep -r, again"):
        assert (what, default(found)) in rows


@pytest.mark.parametrize("row", ["import", "pip", "gcc"])
def test_real_ones_of_which_the_start_alone_takes_long(ground: Path, row: str) -> None:
    _, found = run("suite", ground, *TINY, "--full", "--rows", row, "--peers", "native")
    assert failures(found) == []


def test_scaling(ground: Path) -> None:
    _, found = run("suite", ground, *TINY, "--full", "--rows", "1 layers,500 layers,depth,directories")
    assert failures(found) == []
    rows = rows_of(found)
    for what in ("lookup, bottom, 500 layers", "stat, 50 deep", "list 100,000 names, cold"):
        assert (what, default(found)) in rows


@needs_root
@pytest.mark.parametrize("kind", ["tmpfs", "btrfs", "xfs"])
def test_other_filesystems(ground: Path, kind: str) -> None:
    words = ("--on", kind, "--scale", "0.002", "--rows", "stat", "--peers", "native,unionfs")
    if kind != "tmpfs" and not shutil.which(f"mkfs.{kind}"):
        pytest.skip(f"needs mkfs.{kind}")
    _, found = run("suite", ground, *words)
    assert failures(found) == []
    assert {row["filesystem"] for row in found["rows"]} == {kind}
    assert "benchmark" not in subprocess.run(["losetup", "-a"], capture_output=True, text=True).stdout


# --- what it shows, and what it writes


def test_the_list(ground: Path, suite: SimpleNamespace) -> None:
    status, shown = shows("--list")
    assert status == 0
    rows = [row for workload in suite.suite.WORKLOADS for row in workload.rows]
    assert all(row.name in shown and row.explanation in shown for row in rows)
    assert len({row.name for row in rows}) == len(rows)
    names = [workload.name for workload in suite.suite.WORKLOADS]
    assert len(set(names)) == len(names) and not any("," in name for name in names)


def test_a_reader_who_has_seen_enough() -> None:
    """As of `unionfs bench --list | head`."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, str(BENCHMARKS / "suite.py"), "--list"]
    with open(writing, "wb") as nobody:
        result = subprocess.run(command, stdout=nobody, stderr=subprocess.PIPE)
    assert (result.returncode, result.stderr) == (141, b"")


def test_what_is_to_be_installed() -> None:
    status, shown = shows("--install")
    assert status == 0
    assert "mergerfs" in shown and ("apt-get install" in shown or "Nothing is to be installed." in shown)


def test_an_old_run_is_shown_again(ground: Path) -> None:
    shown, found = run("suite", ground, *TINY, "--rows", "stat", "--peers", "native,unionfs")
    page = ground.parent / "page.md"
    page.write_text("before\n<!-- figures: begin -->\nold figures\n<!-- figures: end -->\nafter\n")
    status, again = shows("--from", str(ground.parent / "report.json"), "--markdown", str(page))
    assert status == 0
    assert again.strip() in shown
    text = page.read_text()
    assert text.startswith("before\n<!-- figures: begin -->\n\n- date: ")
    assert text.endswith("<!-- figures: end -->\nafter\n")
    assert "old figures" not in text and "| stat, cold: 10,000 files |" in text and "| native |" in text
    assert f"- kernel: {found['machine']['kernel']}" in text


def test_pictures(ground: Path) -> None:
    run("suite", ground, *TINY, "--rows", "5 layers", "--peers", "unionfs")
    source, pictures = str(ground.parent / "report.json"), ground.parent / "pictures"
    status, said = shows("--from", source, "--plots", str(pictures))
    if find_spec("matplotlib") is None:
        told = "--plots: needs matplotlib: pip install 'unionfs[bench]', or pip install matplotlib\n"
        assert (status, said) == (1, told)
    else:
        assert status == 0 and list(pictures.glob("layers-*.png"))


def test_the_report_needs_nothing_else(ground: Path) -> None:
    """One page: no address in it, the machine, each table, and each picture if they can be drawn."""
    _, found = run("suite", ground, *TINY, "--rows", "5 layers,stat", "--peers", "native,unionfs")
    page = ground.parent / "report.html"
    status, said = shows("--from", str(ground.parent / "report.json"), "--report", str(page))
    assert status == 0 and said.rstrip().endswith("report.html")
    text = page.read_text(encoding="utf-8")
    assert not re.search(r"""(src|href)=["'](?!data:)|https?:""", text)
    assert found["machine"]["kernel"] in text and "<td class=\"word\">stat, cold" in text
    pictures = text.count('<img alt="')
    assert pictures >= 3 if find_spec("matplotlib") else "needs matplotlib" in text


def shows(*words: str) -> tuple[int, str]:
    done = subprocess.run([sys.executable, str(BENCHMARKS / "suite.py"), *words], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def test_the_workload_of_the_readme(ground: Path, suite: SimpleNamespace) -> None:
    """What benchmarks/README.md shows as another row is one."""
    page = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    names = {**vars(suite.workload), "trees": suite.trees, "os": os}
    exec(block.replace("\nWorkload(", "\nfound = Workload("), names)
    peers = [peer for peer in suite.peers.all_peers() if peer.name in ("native", "unionfs")]
    plan = suite.engine.Plan([names["found"]], peers, ["disk"], 1, suite.workload.Scale(0.01), 1.0, False, True)
    report = suite.measure.Report(SimpleNamespace(), {})
    suite.engine.Suite(plan, report).run(str(ground))
    assert report.left_out == []
    assert {(row["what"], row["peer"]) for row in report.rows} == {("readlink, cold", peer.name) for peer in peers}


# --- how it measures


def test_a_ratio_is_of_one_round(suite: SimpleNamespace) -> None:
    """The second round took twice as long for everybody."""

    def row(peer: str, *samples: float) -> dict[str, Any]:
        return {"filesystem": "ext4", "what": "w", "peer": peer, "samples": list(samples)}

    rows = [row("overlayfs", 10, 20), row("fuse-overlayfs", 40, 80), row("unionfs index", 5, 10)]
    rows[2]["target"] = {"to_overlayfs": 0.5, "to_fuse_overlayfs": 0.1}
    suite.results.compare(rows)
    assert [one["to_overlayfs"]["high"] for one in rows] == [1, 4, 0.5]
    assert rows[2]["target"]["met"] is False
    rows[2]["target"]["to_fuse_overlayfs"] = 0.125
    suite.results.compare(rows)
    assert rows[2]["target"]["met"] is True


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        ("mount", "failed: false: exit status 1"),
        ("work", "failed: files: 2 expected, 1 found"),
        ("suite", "failed: ZeroDivisionError: division by zero"),
    ],
)
def test_a_broken_peer_does_not_stop_the_others(
    ground: Path, suite: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, fault: str, told: str
) -> None:
    def work(sample: Any) -> None:
        with sample.timed("row"):
            found = len(os.listdir(sample.place.merged))
        if sample.peer == "broken" and fault != "mount":
            sample.expect("files", found, 2 if fault == "work" else 1 / 0)

    def make(maker: Any) -> Any:
        lowers = maker.layers(1)
        suite.trees.write(os.path.join(lowers[0], "file"), b"")
        return maker.flat(lowers)

    monkeypatch.setattr(sys, "argv", ["suite.py"])
    broken = suite.peers.native()._replace(name="broken")
    if fault == "mount":
        broken = broken._replace(command=lambda place: ["false"])
    workload = suite.workload.Workload("work", "group", (suite.workload.Row("row", "why"),), make, work)
    plan = suite.engine.Plan(
        [workload], [broken, suite.peers.native()], ["disk"], 2, suite.workload.Scale(1), 1, False, by_name=True
    )
    report = suite.measure.Report(SimpleNamespace(), {})
    suite.engine.Suite(plan, report).run(str(ground))
    assert [line.rpartition(": failed")[2] for line in report.left_out] == [told.removeprefix("failed")]
    assert report.left_out[0].startswith("left out: broken, work, ")
    assert [(row["peer"], len(row["samples"])) for row in report.rows] == [("native", 2)]


def test_when_the_time_is_over(ground: Path) -> None:
    words = ("--rows", "walk,stat", "--peers", "native", "--minutes", "0.00001")
    status, said = refusal("suite", ground, *TINY, *words)
    assert status == 0
    assert "left out: stat on " in said and "--minutes 1e-05 was given" in said


def test_a_peer_whose_options_are_not_known_is_left_out(suite: SimpleNamespace) -> None:
    assert suite.peers.ours("strange", "opne=cached").fault == 'option "opne": there is no such option'


def test_programs_that_are_not_installed_are_named(ground: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "suite.py"), "--dir", str(ground), "--rows", "gcc", "--peers", "native"]
    done = subprocess.run(command, capture_output=True, text=True, env={"PATH": str(ground)})
    assert done.returncode == 1
    assert done.stderr == (
        "left out: gcc: gcc, make not installed; apt-get install gcc make\n"
        "nothing is left to measure; --install says what is missing, --list what there is\n"
    )

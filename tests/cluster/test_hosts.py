"""The hosts themselves: apart from each other, cut off and put back, and gone without a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cluster.hosts import ROOT, Cluster, eventually

pytestmark = pytest.mark.cluster
REACHES = ("ssh", "-o", "ConnectTimeout=2")


@pytest.mark.parametrize("cluster", [3], indirect=True)
def test_hosts_have_names_addresses_and_processes_of_their_own_and_reach_each_other(cluster: Cluster) -> None:
    ask = "hostname; hostname -I; cat /proc/1/comm"
    seen = {name: cluster.run("login", "ssh", name, ask).stdout.split() for name in cluster.names}
    assert [line[:2] for line in seen.values()] == [[f"host-{n}", f"10.77.0.{n + 1}"] for n in (1, 2, 3)]
    assert {line[2] for line in seen.values()} == {"sshd"}, "process ids start anew on each host"
    assert cluster.run("host-1", "ssh", "host-3", "hostname").stdout == "host-3\n"
    assert cluster.run("host-1", "cat", __file__).returncode == 0, "one file system"
    links = subprocess.run(["ip", "-brief", "link"], text=True, capture_output=True, check=True).stdout
    assert "host-1" not in links


def test_a_host_that_is_cut_off_lives_on_unreachable_until_it_is_put_back(cluster: Cluster) -> None:
    cluster.start("host-2", "sleep", "1000", log=cluster.folder / "sleep.log")
    eventually(lambda: ["sleep", "1000"] in cluster.processes("host-2").values(), 10, "sleep runs")
    cluster.cut("host-2")
    assert cluster.run("login", *REACHES, "host-2", "true").returncode == 255
    assert cluster.run("host-1", *REACHES, "host-2", "true").returncode == 255
    assert cluster.run("host-1", *REACHES, "login", "true").returncode == 0
    assert ["sleep", "1000"] in cluster.processes("host-2").values()
    cluster.restore("host-2")
    eventually(lambda: cluster.run("login", *REACHES, "host-2", "true").returncode == 0, 20, "host-2 is back")


def test_a_signal_reaches_the_command_behind_the_door(cluster: Cluster) -> None:
    log = cluster.folder / "trap.log"
    script = "trap 'echo caught; exit 7' TERM; echo ready; while :; do sleep 0.1; done"
    waiting = cluster.start("login", "sh", "-c", script, log=log)
    eventually(lambda: "ready" in log.read_text(), 10, "the trap is set")
    cluster.send_signal(waiting, signal.SIGTERM)
    assert waiting.wait(timeout=10) == 7
    assert "caught" in log.read_text()


def test_nothing_outlives_the_process_that_made_the_hosts_even_a_killed_one(reason: str | None, tmp_path: Path) -> None:
    if reason:
        pytest.skip(reason)
    script = (
        "import sys, time; from pathlib import Path; from tests.cluster.hosts import Cluster\n"
        "with Cluster(Path(sys.argv[1])) as cluster:\n"
        "    cluster.start('host-1', 'setsid', 'sleep', '1000', log=cluster.folder / 'sleep.log')\n"
        "    print(*(host.pid for host in cluster.hosts.values()), flush=True)\n"
        "    time.sleep(1000)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "cluster")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout is not None
        firsts = [int(pid) for pid in maker.stdout.readline().split()]
        assert len(firsts) == 3
        namespaces = {os.stat(f"/proc/{pid}/ns/{kind}").st_ino for pid in firsts for kind in ("net", "pid")}
        maker.kill()
    eventually(lambda: not namespaces & _namespaces_in_use(), 20, "all processes of all hosts are gone")


def _namespaces_in_use() -> set[int]:
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        for kind in ("net", "pid"):
            try:
                found.add(os.stat(process / "ns" / kind).st_ino)
            except OSError:
                continue
    return found

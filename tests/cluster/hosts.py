"""Several "hosts" on one machine: each has its own name, address, processes and sshd; they share the file system.

A host is a bundle of kernel namespaces (network, host name, process ids, mounts) whose first process is its sshd. They
hang on a bridge inside the first host, `login`, from which jobs are launched; to cut a host off is to take its port of
that bridge down: its packets vanish and nobody is told, as with a pulled cable. Nothing of it is visible outside, and
when the process that made it ends, be it by kill -9, the kernel takes all of it away.
"""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LOGIN = "login"
PROGRAMS = ("deepspeed", "env", "ip", "mount", "nsenter", "pdsh", "setpriv", "ssh", "ssh-keygen", "sshd", "unshare")
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
KEEP_ALIVE = "-o ServerAliveInterval=5 -o ServerAliveCountMax=3 -o ConnectTimeout=10"
"""For PDSH_SSH_ARGS_APPEND: without it pdsh waits for a host that fell off the network until TCP gives up, in hours."""

# The first process of a host; it changes nothing before it has made sure that it would not change the machine itself.
# /run is its own: sshd wants /run/sshd, and must not find another's pid file.
FIRST_PROCESS = """
for kind in mnt net pid uts; do
    case {outside} in *"$(readlink /proc/self/ns/$kind)"*) echo "no $kind namespace of its own"; exit 1;; esac
done
hostname {name}
mount -t tmpfs tmpfs /run && mkdir /run/sshd
mount --bind {folder}/{name}.hosts /etc/hosts
mount --bind {folder}/ssh_config /etc/ssh/ssh_config
if [ -d ~/.ssh ]; then mount -t tmpfs tmpfs ~/.ssh; fi
ip link set lo up
exec {sshd} -D -e -f {folder}/{name}.sshd_config
"""
SSHD_CONFIG = """
HostKey {folder}/{name}.key
AuthorizedKeysFile {folder}/user.key.pub
AuthenticationMethods publickey
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
MaxStartups 100
SetEnv {environment}
"""
SSH_CONFIG = """
IdentityFile {folder}/user.key
IdentitiesOnly yes
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
"""


def why_not() -> str | None:
    """The reason why this machine cannot hold such hosts; None if it can."""
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    missing = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: openssh-server pdsh iproute2 util-linux)"
    namespaces = ["unshare", "--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc"]
    links = "ip link add name one type veth peer name two && ip link add name bridge type bridge"
    tried = subprocess.run(
        [*namespaces, "sh", "-c", f"mount -t tmpfs tmpfs /run && {links}"],
        env={"PATH": PATH},
        text=True,
        capture_output=True,
    )
    return f"no namespaces here: {' '.join(tried.stderr.split())}" if tried.returncode else None


def eventually(condition: Callable[[], object], seconds: float, what: str) -> None:
    """Poll `condition` until it holds; raises TimeoutError naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s: {what}")
        time.sleep(0.05)


@dataclass(frozen=True)
class Host:
    """A running host; `pid` is its first process, as seen from outside."""

    name: str
    address: str
    pid: int
    keeper: subprocess.Popen[bytes]

    def enter(self, *namespaces: str) -> list[str]:
        """The beginning of a command that runs inside this host's namespaces."""
        return ["nsenter", "--target", str(self.pid), *namespaces]


class Cluster:
    """`login` (10.77.0.1) and host-1, host-2, ... (10.77.0.2, ...). A context manager; `folder` holds keys and logs.

    `host_environment` is what every host's sshd gives to the commands that it starts, as a host's image would.
    """

    def __init__(self, folder: Path, num_hosts: int = 2, host_environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.names = tuple(f"host-{number}" for number in range(1, num_hosts + 1))
        self.hosts: dict[str, Host] = {}
        self._host_environment = {"OMP_NUM_THREADS": "1", **(host_environment or {})}

    def __enter__(self) -> Cluster:
        self.home.mkdir(parents=True)
        addresses = {name: f"10.77.0.{number}" for number, name in enumerate((LOGIN, *self.names), start=1)}
        for host in addresses:  # as Debian's installer writes it: a host's own name leads nobody else to it
            seen = addresses | {host: "127.0.1.1"}
            lines = "".join(f"{address} {name}\n" for name, address in seen.items())
            (self.folder / f"{host}.hosts").write_text(f"127.0.0.1 localhost\n{lines}")
        (self.folder / "ssh_config").write_text(SSH_CONFIG.format(folder=self.folder))
        self._make_key("user")
        try:
            for name, address in addresses.items():
                self.hosts[name] = self._start(name, address)
                self._plug_in(self.hosts[name])
            for name in addresses:
                greeting = ("ssh", "-o", "ConnectTimeout=1", name, "true")
                eventually(lambda: self.run(LOGIN, *greeting).returncode == 0, 20, f"an answer of sshd: {self._log(name)}")  # noqa: B023
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process of every host; networks and mounts go with them."""
        for host in self.hosts.values():
            os.kill(host.pid, signal.SIGKILL)  # the first of its process ids: the kernel ends the others first
            host.keeper.wait(timeout=30)
        self.hosts.clear()

    def hostfile(self, slots: int = 1, names: Sequence[str] | None = None) -> Path:
        """A new hostfile that gives each of these hosts `slots` slots."""
        path = self.folder / f"hostfile-{len(list(self.folder.glob('hostfile-*')))}"
        path.write_text("".join(f"{name} slots={slots}\n" for name in names or self.names))
        return path

    def run(self, name: str, *command: str | Path, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, not through the network, from the repository's root."""
        return subprocess.run(
            self._inside(name, {}, command), env=self._environment(), text=True, capture_output=True, timeout=timeout
        )

    def start(
        self, name: str, *command: str | Path, log: Path, environment: Mapping[str, str] | None = None, folder: Path = ROOT
    ) -> subprocess.Popen[bytes]:
        """Start a command in `folder` on a host, its output going to the file `log`; `send_signal` of this class ends it."""
        with log.open("ab") as file:
            return subprocess.Popen(
                self._inside(name, environment or {}, command, folder),
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def launch(
        self, hostfile: Path, *arguments: str | Path, log: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """`deepspeed --hostfile F ARGUMENTS` on `login`, which starts the ranks by pdsh.

        DeepSpeed finds the address to meet at by itself, by `hostname -I` on the first host.
        """
        command = ("deepspeed", "--hostfile", hostfile, *arguments)
        return self.start(LOGIN, *command, log=log, environment={"PDSH_SSH_ARGS_APPEND": KEEP_ALIVE, **(environment or {})})

    def send_signal(self, process: subprocess.Popen[bytes], number: signal.Signals) -> None:
        """Signal the command that `start` started: Popen itself knows only the door through which it went."""
        for child in _children(process.pid):
            os.kill(child, number)

    def cut(self, name: str) -> None:
        """Take a host off the network: its packets vanish, its processes go on."""
        self._switch("link", "set", "dev", name, "down")

    def restore(self, name: str) -> None:
        """Put it back."""
        self._switch("link", "set", "dev", name, "up")

    def processes(self, name: str) -> dict[int, list[str]]:
        """Command lines of a host's live processes, by their number outside."""
        own = os.stat(f"/proc/{self.hosts[name].pid}/ns/pid").st_ino
        return {pid: line for pid, line in _command_lines().items() if _namespace(pid) == own}

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def _make_key(self, name: str) -> None:
        make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.folder / f"{name}.key")]
        subprocess.run(make, env=self._environment(), check=True)

    def _start(self, name: str, address: str) -> Host:
        self._make_key(name)
        values = {"name": name, "folder": self.folder, "sshd": shutil.which("sshd", path=PATH)}
        variables = " ".join(f'"{key}={value}"' for key, value in {"PATH": PATH, **self._host_environment}.items())
        (self.folder / f"{name}.sshd_config").write_text(SSHD_CONFIG.format(environment=variables, **values))
        outside = " ".join(os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "net", "pid", "uts"))
        quoted = {key: shlex.quote(str(value)) for key, value in {**values, "outside": outside}.items()}
        first = FIRST_PROCESS.format(**quoted)
        command = ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--uts", "--mount", "--pid", "--mount-proc"]
        with self._log(name).open("wb") as log:
            keeper = subprocess.Popen(
                [*command, "--fork", "--kill-child", "sh", "-e", "-c", first],
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            eventually(lambda: _children(keeper.pid), 10, f"a first process: {self._log(name)}")
        except BaseException:
            keeper.kill()
            raise
        return Host(name, address, _children(keeper.pid)[0], keeper)

    def _plug_in(self, host: Host) -> None:
        """Give a host its address: login on the bridge itself, any other on a cable to a port that bears its name."""
        if host.name == LOGIN:
            self._switch("link", "add", "name", "bridge", "type", "bridge")
            device = "bridge"
        else:
            self._switch(*f"link add name {host.name} type veth peer name eth0 netns {host.pid}".split())
            self._switch("link", "set", "dev", host.name, "master", "bridge", "up")
            device = "eth0"
        for line in (f"address add {host.address}/24 dev {device}", f"link set dev {device} up"):
            subprocess.run([*host.enter("--net"), "ip", *line.split()], env=self._environment(), check=True)

    def _switch(self, *arguments: str) -> None:
        subprocess.run([*self.hosts[LOGIN].enter("--net"), "ip", *arguments], env=self._environment(), check=True)

    def _inside(
        self, name: str, environment: Mapping[str, str], command: Sequence[str | Path], folder: Path = ROOT
    ) -> list[str]:
        # `env -C`: a working directory taken along from outside would lie in the mounts of outside
        settings = [f"{key}={value}" for key, value in {"HOME": str(self.home), **environment}.items()]
        inside = ["setpriv", "--pdeathsig", "KILL", "env", "-C", str(folder), *settings, *map(str, command)]
        return [*self.hosts[name].enter("--net", "--uts", "--mount", "--pid"), *inside]

    def _environment(self) -> dict[str, str]:
        return {**os.environ, "PATH": PATH, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _namespace(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return None


def _command_lines() -> dict[int, list[str]]:
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
        except OSError:
            continue
        if line:  # kernel threads and zombies have none
            found[int(process.name)] = line.decode(errors="replace").rstrip("\0").split("\0")
    return found

"""Secrets for the ranks of other hosts. They go through ssh's standard input into a file that we alone can read there.

1. On each host a folder is made whose name nobody can guess; making it fails where something is there already.
2. deepspeed's --venv_script has the host's shell read the file before it starts ranks. The file's last line removes it.
3. `take_back` removes it where that did not happen. Nothing stands on a command line or in a log at any time.
"""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from ernie_m.base.console import InputError
from ernie_m.supervision.remote import SSH_FAILED, on_each

_PDSH_HOST = "%h"


@dataclass(frozen=True)
class HandedSecrets:
    """A file on each of the hosts."""

    hosts: tuple[str, ...]
    ssh_options: tuple[str, ...]
    token: str

    @classmethod
    def hand(
        cls, hosts: Sequence[str], ssh_options: Sequence[str], values: Sequence[tuple[str, str]], first: str = ""
    ) -> HandedSecrets:
        """Write `values` on each host; `first` is a script that its shell shall read before (the user's --venv_script).

        Raises InputError for a host that answers and does not take them. One that does not answer fails at the start.
        """
        made = cls(tuple(hosts), tuple(ssh_options), secrets.token_hex(16))
        lines = [f"source {shlex.quote(first)}"] if first else []
        lines += [f"export {name}={shlex.quote(value)}" for name, value in values]
        said = {host: "\n".join([*lines, f"rm -rf -- {made._folder(host)}"]) + "\n" for host in hosts}
        commands = {
            host: "umask 077 && mkdir {0} && cat > {0}/environment && command -v source > /dev/null".format(
                made._folder(host)
            )
            for host in hosts
        }
        refused = [host for host, code in on_each(commands, ssh_options, said).items() if code not in (0, SSH_FAILED)]
        if refused:
            made.take_back()
            names = ", ".join(name for name, _ in values)
            raise InputError(
                f"host {', '.join(refused)}: does not take {names} (no room in /tmp, or its shell has no `source`); log in "
                "there instead, and take them off --export and .deepspeed_env"
            )
        return made

    @property
    def script(self) -> str:
        """For deepspeed's --venv_script; pdsh writes each host's own name into it."""
        return f"{self._folder(_PDSH_HOST)}/environment"

    def take_back(self) -> None:
        """Remove what no shell has read."""
        on_each({host: f"rm -rf -- {self._folder(host)}" for host in self.hosts}, self.ssh_options)

    def _folder(self, host: str) -> str:
        return f"/tmp/ernie-m-{self.token}-{host}"

"""A command on several hosts at the same time, through ssh."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from ernie_m.base.hostfile import ssh_command

SSH_SECONDS = 5
SSH_FAILED = 255
"""ssh's own exit code."""


def on_each(
    commands: Mapping[str, str], ssh_options: Sequence[str], said: Mapping[str, str] | None = None
) -> dict[str, int]:
    """Exit code of each host's command; SSH_FAILED when ssh itself failed or took too long. `said`: their standard input."""

    def call(host: str) -> int:
        command = ssh_command(host, ["-o", f"ConnectTimeout={SSH_SECONDS}", *ssh_options], commands[host])
        silent = subprocess.DEVNULL
        with contextlib.suppress(subprocess.TimeoutExpired):
            heard = (said or {}).get(host, "").encode()
            done = subprocess.run(command, input=heard, stdout=silent, stderr=silent, timeout=4 * SSH_SECONDS, check=False)
            return done.returncode
        return SSH_FAILED

    with ThreadPoolExecutor(max_workers=max(1, len(commands))) as pool:
        return dict(zip(commands, pool.map(call, commands), strict=True))

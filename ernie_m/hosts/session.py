"""An agent on one host at the other end of ssh, asked a line of JSON at a time."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ernie_m.base.hostfile import ssh_command

CONNECT_SECONDS, START_SECONDS, ANSWER_SECONDS = 10, 60.0, 180.0
"""For TCP to the ssh server; until the agent runs; for an answer (importing torch from a cold shared disk takes a while)."""
AGENT = (sys.executable, "-m", "ernie_m.hosts.host_agent")


def remote_agent(host: str, ssh_options: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The command for an agent on `host`, in this folder, with this interpreter, as deepspeed would start a rank."""
    given = ["env", *(f"{name}={value}" for name, value in environment.items())] if environment else []
    remote = f"cd {shlex.quote(os.getcwd())} && exec {shlex.join([*given, *AGENT])}"
    return ssh_command(host, ["-o", f"ConnectTimeout={CONNECT_SECONDS}", *ssh_options], remote)


class HostError(Exception):
    """A host that does not answer, or answers with an error: one line."""


class HostSession:
    """An agent on one host, at the other end of ssh, or a child process here."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name, self.command = name, command
        self.process: asyncio.subprocess.Process | None = None
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the session

    async def start(self) -> dict[str, Any]:
        """Start the agent; how long it took. Raises HostError with what ssh or the shell said."""
        started, pipe = time.monotonic(), asyncio.subprocess.PIPE
        self.process = await asyncio.create_subprocess_exec(*self.command, stdin=pipe, stdout=pipe, stderr=self.errors)
        await self._answer(START_SECONDS)
        return {"seconds": time.monotonic() - started}

    async def ask(self, name: str, /, tell: Callable[[int, int], None] | None = None, **question: Any) -> dict[str, Any]:
        """The answer to a question of host_agent.ANSWERS; raises HostError when there is none, or it is an error."""
        if self.process is None or self.process.returncode is not None:
            raise HostError("the ssh session is lost")
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"ask": name, **question}).encode() + b"\n")
        return await self._answer(ANSWER_SECONDS, tell)

    async def close(self) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.kill()  # its agent ends with its stdin
            await self.process.wait()
        self.errors.close()

    async def _answer(self, patience: float, tell: Callable[[int, int], None] | None = None) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdout is not None
        while True:
            try:
                line = await asyncio.wait_for(self.process.stdout.readline(), patience)
            except TimeoutError:
                self.process.kill()  # a late answer must not be taken for that of the next question
                raise HostError(f"no answer within {patience:.0f} s") from None
            if not line:
                raise HostError(await self._last_words())
            with contextlib.suppress(ValueError):  # a login shell may print a greeting on stdout
                content = json.loads(line)
                if isinstance(content, dict) and tell and "progress" in content:
                    tell(*content["progress"])
                if isinstance(content, dict) and isinstance(answer := content.get("answer"), dict):
                    if "error" in answer and len(answer) == 1:
                        raise HostError(answer["error"])
                    return answer

    async def _last_words(self) -> str:
        assert self.process is not None
        code = await self.process.wait()
        self.errors.seek(0)
        said = [line.strip() for line in self.errors.read().decode(errors="replace").splitlines() if line.strip()]
        return said[-1] if said else f"the session ended with exit code {code}"

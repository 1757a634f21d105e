"""What to do after a start of the job has ended: finish, give up, or start again, and on which hosts.

Everything here is computed from arguments: no disk, no process, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ernie_m.base.console import EXIT_STOPPED
from ernie_m.base.hostfile import hosts_of_ranks
from ernie_m.supervision.run_state import Incident, RunState

EXIT_REFUSED = 2
EXIT_GAVE_UP = 4
"""No progress, too many restarts, or no hosts left: a person has to look."""
LONGEST_DELAY_SECONDS = 60.0


@dataclass(frozen=True)
class Outcome:
    """One start of the job: the run folder before and after, the launcher's exit code, whether we asked it to stop."""

    before: RunState
    after: RunState
    exit_code: int
    asked_to_stop: bool = False

    @property
    def incidents(self) -> tuple[Incident, ...]:
        return self.after.incidents_since(self.before)

    @property
    def steps_lost(self) -> int:
        """Steps that must be repeated: those after the newest committed checkpoint."""
        if self.after.complete or self.after.metrics_version == self.before.metrics_version:
            return 0  # it may have ended before it touched the metrics: then their last steps were lost by the start before
        return max(0, self.after.reached - self.after.committed)

    @property
    def is_failure(self) -> bool:
        """Neither complete nor stopped in order, whoever asked for it."""
        return not (self.after.complete or self.after.stop_kind or self.asked_to_stop)

    @property
    def what_happened(self) -> str:
        """A failure in words."""
        messages = [incident.message or f"ranks {list(incident.ranks)} {incident.kind}" for incident in self.incidents]
        return "; ".join(messages) or f"ended without completing (launcher's exit code {self.exit_code})"


@dataclass(frozen=True)
class RestartDecision:
    """End the supervision with `exit_code`, or, where that is None, start again in `delay` seconds."""

    exit_code: int | None
    reason: str
    delay: float = 0.0


class RestartPolicy:
    """Judges each end of the job, remembering those before it."""

    def __init__(self, max_restarts: int, no_progress_limit: int) -> None:
        self.max_restarts, self.no_progress_limit = max_restarts, no_progress_limit
        self.restarts = 0
        self.futile = 0
        self._furthest = RunState()

    def judge(self, outcome: Outcome) -> RestartDecision:
        """What to do next. Checked in this order: complete, refused, stopped on request; all else is a failure."""
        after = outcome.after
        if after.complete:
            return RestartDecision(0, "complete")
        if after.stop_kind == "refused":
            return RestartDecision(EXIT_REFUSED, after.stop_message or "refused; a restart would be too")
        if not outcome.is_failure:
            return RestartDecision(EXIT_STOPPED, after.stop_message or "stopped on request")
        self.futile = 0 if self._is_progress(outcome) else self.futile + 1
        if outcome.exit_code == EXIT_REFUSED and self.futile and not outcome.incidents:
            return RestartDecision(EXIT_REFUSED, "refused before a step was done; its error line stands above")
        reason = outcome.what_happened
        if self.futile >= self.no_progress_limit:
            return RestartDecision(
                EXIT_GAVE_UP, f"{self.futile} starts in a row reached no new step; the last one: {reason}"
            )
        if self.restarts >= self.max_restarts:
            return RestartDecision(
                EXIT_GAVE_UP, f"all {self.max_restarts} restarts (--max_restarts) used; the last end: {reason}"
            )
        self.restarts += 1
        return RestartDecision(None, reason, min(LONGEST_DELAY_SECONDS, 2.0 ** max(0, self.futile - 1)))

    def hosts_changed(self) -> None:
        """Start counting again: another set of hosts gets the full number of tries."""
        self.futile = 0

    def _is_progress(self, outcome: Outcome) -> bool:
        best, after = self._furthest, outcome.after
        committed = max(best.committed, outcome.before.committed)
        reached = max(best.reached, outcome.before.reached)
        self._furthest = RunState(committed=max(committed, after.committed), reached=max(reached, after.reached))
        return after.committed > committed or after.reached > reached


class ActiveHosts:
    """Which hosts take part: those of the hostfile, without those that failed too often or cannot be reached."""

    def __init__(self, hosts: Mapping[str, int], host_failures: int, forgive_steps: int) -> None:
        self.hosts, self.host_failures, self.forgive_steps = dict(hosts), host_failures, forgive_steps
        self.dropped: dict[str, str] = {}
        """Host -> why."""
        self._failures: dict[str, tuple[int, int]] = {}  # host -> failures, step reached at the last of them

    @property
    def remaining(self) -> dict[str, int]:
        return {host: slots for host, slots in self.hosts.items() if host not in self.dropped}

    def record(self, blamed: Iterable[str], step: int) -> list[str]:
        """Count a failure of each host at `step`; returns those now dropped. Failures are forgotten after enough steps."""
        now_dropped = []
        for host in blamed:
            count, at_step = self._failures.get(host, (0, step))
            count = 1 if step - at_step >= self.forgive_steps else count + 1
            self._failures[host] = (count, step)
            if count >= self.host_failures:
                now_dropped.append(host)
        for host in now_dropped:
            self.drop(host, f"failed {self._failures[host][0]} times within {self.forgive_steps} steps")
        return now_dropped

    def drop(self, host: str, why: str) -> None:
        self.dropped[host] = why

    def readmit(self, host: str) -> None:
        """Take a dropped host back, with a clean record."""
        del self.dropped[host]
        self._failures.pop(host, None)


def blamed_hosts(incidents: Iterable[Incident], hosts: Mapping[str, int]) -> list[str]:
    """Hosts of the ranks that were lost, in the hostfile's order.

    None when every host is named: then two sides of a broken network blame each other, or all hosts failed at once.
    """
    host_of = hosts_of_ranks(hosts)
    lost = {host_of[rank] for incident in incidents for rank in incident.ranks if 0 <= rank < len(host_of)}
    return [] if len(lost) == len(hosts) else [host for host in hosts if host in lost]


def fitting(hosts: Mapping[str, int], batch: tuple[int, int] | None) -> dict[str, int]:
    """As many hosts as possible, from the first one on, whose ranks divide the batch; empty when there are none.

    `batch` is (rows of a step, rows of a micro-batch); None (not known yet) takes all.
    """
    kept = dict(hosts)
    while kept and batch is not None and batch[0] % (batch[1] * sum(kept.values())):
        kept.popitem()
    return kept

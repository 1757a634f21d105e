"""The loop: start the job, watch it, decide what its end means, leave out bad hosts, start it again.

A signal to the supervisor becomes RUN/stop_requested, which rank 0 polls wherever the job is: signals do not travel
through pdsh. Before the next start the whole process group of the last one is ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ernie_m.base.console import EXIT_STOPPED, InputError
from ernie_m.base.files import remove, written_atomically
from ernie_m.base.hostfile import is_local
from ernie_m.base.run_files import LAST_STOP_FILE, STOP_FILE
from ernie_m.supervision.deepspeed_job import DeepspeedLauncher, Job, end_remote_orphans, needs_ssh, reachable
from ernie_m.supervision.environment import withheld
from ernie_m.supervision.ledger import Ledger, Summary
from ernie_m.supervision.orphans import processes_of
from ernie_m.supervision.policy import (
    EXIT_GAVE_UP,
    LONGEST_DELAY_SECONDS,
    ActiveHosts,
    Outcome,
    RestartDecision,
    RestartPolicy,
    blamed_hosts,
    fitting,
)
from ernie_m.supervision.run_state import RunState, batch_of, is_started, read_state, seconds_in_steps

POLL_SECONDS = 0.5
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


@dataclass(frozen=True)
class GracePeriods:
    """How long, in seconds, the job may take to end by itself: `linger` after an incident or its last file, `grace`
    after it was asked to stop."""

    linger: float = 60.0
    grace: float = 120.0


class Supervisor:
    """Keeps one job alive; `run` returns the exit code."""

    def __init__(
        self,
        launcher: DeepspeedLauncher,
        policy: RestartPolicy,
        active_hosts: ActiveHosts,
        grace_periods: GracePeriods,
        readmit: bool = False,
    ) -> None:
        self.command, self.run_folder = launcher.command, launcher.command.run
        self.launcher, self.policy, self.active_hosts = launcher, policy, active_hosts
        self.grace_periods, self.readmit = grace_periods, readmit
        self.ledger = Ledger(self.run_folder)
        self.stop_request = self.run_folder / STOP_FILE
        self._signals: list[str] = []
        self._stop_deadline = float("inf")
        self._steps_lost = 0

    def run(self) -> int:
        """Run until the training is complete, stopped, refused or given up. Raises InputError before anything is started."""
        started, first = time.monotonic(), read_state(self.run_folder)
        if first.complete:
            say(f"{self.run_folder}: finished at step {first.committed}, nothing to do")
            return 0
        self._check_environment()
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup's SIGHUP stays ignored
                signal.signal(number, self._note_signal)
        with tempfile.TemporaryDirectory(prefix="supervise-") as folder:
            decision = self._supervise(Path(folder))
        say(f"{self.run_folder}: {decision.reason}")
        last = read_state(self.run_folder)
        kept = seconds_in_steps(self.run_folder, first.committed, last.committed)
        say(str(Summary(self.policy.restarts, self._steps_lost, time.monotonic() - started, kept)))
        assert decision.exit_code is not None
        return decision.exit_code

    def _check_environment(self) -> None:
        others = processes_of(self.command.program, self.run_folder)
        if others:
            raise InputError(f"{self.run_folder}: already trained by process {others[0]}; stop that, or take another --run")
        if needs_ssh(self.active_hosts.hosts):
            self.launcher.check_starter()
            silent = [host for host, answers in self._probe(self.active_hosts.hosts).items() if not answers]
            if silent:
                raise InputError(
                    f"host {', '.join(silent)}: no answer through ssh; repair it or take it out of the hostfile "
                    "(`ernie-m doctor --hostfile F` says more)"
                )
            unsaid = withheld(os.environ, self.launcher.exports)
            if unsaid:
                say(f"{', '.join(unsaid)}: secrets, not exported to other hosts; log in there, or name them with --export")
        if self.stop_request.exists():
            say(f"{self.stop_request}: left from before, removed")
            remove(self.stop_request)

    def _supervise(self, folder: Path) -> RestartDecision:
        while True:
            (self.run_folder / LAST_STOP_FILE).unlink(missing_ok=True)  # an earlier stop must not be taken for the next one
            before = read_state(self.run_folder)
            if before.complete:  # the ranks finished after their launcher had died
                return RestartDecision(0, "complete")
            hosts = self.active_hosts.hosts
            if self.active_hosts.dropped:  # else training itself refuses the hosts that the user chose
                hosts = fitting(self.active_hosts.remaining, batch_of(self.run_folder))
            if self.active_hosts.hosts and not hosts:
                why = "; ".join(f"{host} {reason}" for host, reason in self.active_hosts.dropped.items())
                return RestartDecision(EXIT_GAVE_UP, f"no hosts left over whose ranks the batch divides ({why})")
            decision = self._attempt(before, hosts, folder)
            if decision.exit_code is not None:
                return decision
            say(f"{decision.reason}; again in {decision.delay:.0f} s")
            if not self._pause(decision.delay):
                remove(self.stop_request)
                return RestartDecision(EXIT_STOPPED, "stopped on request, between two starts")
            self._readmit()

    def _attempt(self, before: RunState, hosts: dict[str, int], folder: Path) -> RestartDecision:
        """One start of the job, and the decision after its end."""
        number = self.ledger.start(before.committed, hosts or {"localhost": self.launcher.num_ranks or 0})
        self._announce(number, before, hosts)
        started = time.monotonic()
        job = self.launcher.start(hosts, folder)
        try:
            after = self._watch(job, before)
        finally:  # whatever happens to us, no ranks are left behind
            exit_code = job.end()
            if needs_ssh(hosts):
                end_remote_orphans(_remote(hosts), self.launcher.ssh_options, self.command)
        outcome = Outcome(before, after, exit_code, asked_to_stop=bool(self._signals))
        dropped = self._attribute(outcome, hosts) if outcome.is_failure and len(hosts) > 1 else {}
        if dropped:
            self.policy.hosts_changed()
        decision = self.policy.judge(outcome)
        if decision.exit_code is not None and self._signals:
            remove(self.stop_request)  # a job that was ended could not do it
        self._steps_lost += outcome.steps_lost
        self.ledger.end(outcome, time.monotonic() - started, decision.reason, dropped)
        return decision

    def _watch(self, job: Job, before: RunState) -> RunState:
        """Wait for the job to end, within the grace periods once it should; returns the run folder's state then."""
        ending_since = None
        while True:
            ended = job.exit_code() is not None
            state = read_state(self.run_folder)
            now = time.monotonic()
            if ended:
                return state
            if ending_since is None and (state.complete or state.stop_kind or state.incidents_since(before)):
                ending_since = now
            if ending_since is not None and now - ending_since > self.grace_periods.linger:
                say(f"the job lingers {self.grace_periods.linger:.0f} s after it ended; its processes are ended")
                return state
            if self._signals and self._is_out_of_grace(now):
                say("not stopped in time; its processes are ended, steps since the newest checkpoint are lost")
                return state
            time.sleep(POLL_SECONDS)

    def _is_out_of_grace(self, now: float) -> bool:
        """Ask the job to stop, once; returns whether its time is over.

        A second signal, or nothing to save, ends it at once.
        """
        if self._stop_deadline == float("inf"):
            self._stop_deadline = now
            if is_started(self.run_folder):
                say(f"{self._signals[0]}: the job is asked to save and stop, within {self.grace_periods.grace:.0f} s")
                try:
                    with written_atomically(self.stop_request) as aside:
                        aside.write_text(f"{self._signals[0]} to the supervisor\n", encoding="utf-8")
                    self._stop_deadline += self.grace_periods.grace
                except OSError as error:
                    say(f"{self.stop_request}: {error.strerror}")
        return now >= self._stop_deadline or len(self._signals) > 1

    def _attribute(self, outcome: Outcome, hosts: dict[str, int]) -> dict[str, str]:
        """Find the hosts that failed; returns those that the next start leaves out, and why."""
        blamed = blamed_hosts(outcome.incidents, hosts)
        dropped = self.active_hosts.record(blamed, outcome.after.reached)
        answers = self._probe(hosts)
        others = _remote(hosts)
        while len(others) > 1 and not any(answers[host] for host in others):
            say("no other host answers through ssh: this may be a fault of our own network, so we wait")
            if not self._pause(LONGEST_DELAY_SECONDS):
                return {}
            answers = self._probe(hosts)
        for host, answer in answers.items():
            if not answer and host not in dropped:
                self.active_hosts.drop(host, "no answer through ssh")
                dropped.append(host)
        why = {host: self.active_hosts.dropped[host] for host in dropped}
        for host, reason in why.items():
            say(f"{host} is left out from now on: {reason}")
        return why

    def _readmit(self) -> None:
        if not self.readmit or not self.active_hosts.dropped:
            return
        for host, answers in self._probe(self.active_hosts.dropped).items():
            if answers:
                say(f"{host} answers again and is taken back")
                self.active_hosts.readmit(host)

    def _probe(self, hosts: Iterable[str]) -> dict[str, bool]:
        """Whether each host can be used now."""
        return dict.fromkeys(hosts, True) | reachable(_remote(hosts), self.launcher.ssh_options)

    def _announce(self, number: int, before: RunState, hosts: dict[str, int]) -> None:
        spared = [host for host in self.active_hosts.remaining if host not in hosts]
        if spared:
            say(f"{', '.join(spared)} stays idle: the batch does not divide over more than {sum(hosts.values())} ranks")
        here = f"this machine ({self.launcher.num_ranks or 'all'} ranks)"
        where = ", ".join(f"{host} ({slots} ranks)" for host, slots in hosts.items()) or here
        origin = f"checkpoint of step {before.committed}" if before.committed else "step 0"
        say(f"start {number} of {self.run_folder} on {where}, from {origin}")

    def _pause(self, seconds: float) -> bool:
        """Wait; False as soon as somebody wants the job stopped."""
        deadline = time.monotonic() + seconds
        while not self._signals and not self.stop_request.exists():
            if time.monotonic() >= deadline:
                return True
            time.sleep(0.1)
        return False

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(signal.Signals(number).name)


def _remote(hosts: Iterable[str]) -> list[str]:
    return [host for host in hosts if not is_local(host)]


def say(text: str) -> None:
    """Print a line of the supervisor itself; goes on silently when the terminal is gone."""
    with contextlib.suppress(OSError):
        print(f"supervise: {text}", file=sys.stderr, flush=True)

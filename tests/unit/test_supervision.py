"""What follows from how a job ended, on which hosts it goes on, and what its run folder and ledger say."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ernie_m.base.console import EXIT_STOPPED
from ernie_m.supervision.ledger import Ledger, Summary, read_ledger
from ernie_m.supervision.policy import (
    EXIT_GAVE_UP,
    EXIT_REFUSED,
    ActiveHosts,
    Outcome,
    RestartPolicy,
    blamed_hosts,
    fitting,
)
from ernie_m.supervision.run_state import Incident, RunState, batch_of, read_state, seconds_in_steps

HOSTS = {"a": 2, "b": 2, "c": 4}


def lost(*ranks: int) -> Incident:
    return Incident("dead", ranks, f"ranks {ranks} died")


def failure(reached: int, committed: int = 0, exit_code: int = 1, before: RunState | None = None) -> Outcome:
    return Outcome(before or RunState(), RunState(reached=reached, committed=committed), exit_code)


def policy(max_restarts: int = 100, no_progress_limit: int = 3) -> RestartPolicy:
    return RestartPolicy(max_restarts, no_progress_limit)


# --- what follows from an end


@pytest.mark.parametrize("exit_code", [0, 1, 250, -9])
def test_the_completion_marker_counts_and_not_the_exit_code(exit_code: int) -> None:
    after = RunState(complete=True, reached=9, committed=9, stop_kind="signal", incidents=(lost(1),))
    assert policy().judge(Outcome(RunState(), after, exit_code)).exit_code == 0
    assert policy().judge(Outcome(RunState(), RunState(), exit_code)).exit_code is None


def test_a_refusal_is_not_tried_again_and_says_why() -> None:
    refused = RunState(reached=5, stop_kind="refused", stop_message="the loss is not finite")
    decision = policy().judge(Outcome(RunState(), refused, 1))
    assert (decision.exit_code, decision.reason) == (EXIT_REFUSED, "the loss is not finite")
    assert policy().judge(Outcome(RunState(), refused, 1, asked_to_stop=True)).exit_code == EXIT_REFUSED
    assert policy().judge(failure(0, exit_code=2)).exit_code == EXIT_REFUSED, "nothing was done: a mistake in the command"


def test_exit_code_2_after_progress_or_a_lost_rank_is_a_failure_like_others() -> None:
    assert policy().judge(failure(5, exit_code=2)).exit_code is None
    assert policy().judge(Outcome(RunState(), RunState(incidents=(lost(0),)), 2)).exit_code is None


@pytest.mark.parametrize("kind", ["signal", "time"])
def test_a_stop_on_request_ends_the_supervision_as_stopped(kind: str) -> None:
    assert policy().judge(Outcome(RunState(), RunState(stop_kind=kind), 1)).exit_code == EXIT_STOPPED
    assert policy().judge(Outcome(RunState(), RunState(), -9, asked_to_stop=True)).exit_code == EXIT_STOPPED


def test_starts_that_reach_no_new_step_are_given_up_and_progress_resets_count_and_delay() -> None:
    judge = policy(no_progress_limit=3)
    at = RunState(reached=10, committed=8)
    assert judge.judge(failure(10, 8)).delay == 1
    assert [judge.judge(failure(9, 8, before=at)).delay for _ in range(2)] == [1, 2]
    assert judge.judge(failure(11, 8, before=at)).delay == 1, "further in the metrics is progress"
    assert judge.judge(failure(11, 8, before=at)).exit_code is None
    assert judge.judge(failure(9, 9, before=at)).delay == 1, "a newer checkpoint is progress"
    ends = [judge.judge(failure(11, 9, before=at)) for _ in range(3)]
    assert [end.exit_code for end in ends] == [None, None, EXIT_GAVE_UP]
    assert judge.restarts == 8


def test_the_delay_doubles_up_to_a_minute() -> None:
    judge = policy(no_progress_limit=50)
    assert [judge.judge(failure(0)).delay for _ in range(9)] == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_restarts_are_bounded_and_another_set_of_hosts_gets_all_its_tries() -> None:
    judge = policy(max_restarts=2)
    assert [judge.judge(failure(step)).exit_code for step in (1, 2, 3)] == [None, None, EXIT_GAVE_UP]
    assert policy(max_restarts=0).judge(failure(1)).exit_code == EXIT_GAVE_UP
    judge = policy(no_progress_limit=2)
    for _ in range(5):
        assert judge.judge(failure(0)).exit_code is None
        judge.hosts_changed()


def test_steps_are_counted_as_lost_once() -> None:
    before = RunState(reached=7, committed=4, metrics_version=(1, 70))
    untouched = RunState(reached=7, committed=4, metrics_version=(1, 70))
    again = RunState(reached=6, committed=4, metrics_version=(2, 60))
    assert Outcome(before, untouched, 1).steps_lost == 0
    assert Outcome(before, again, 1).steps_lost == 2


# --- on which hosts


def test_ranks_are_blamed_on_the_hosts_they_ran_on_in_the_hostfiles_order() -> None:
    assert blamed_hosts([lost(3)], HOSTS) == ["b"]
    assert blamed_hosts([lost(7, 1), lost(0)], HOSTS) == ["a", "c"]
    assert blamed_hosts([lost(0, 2, 4)], HOSTS) == [], "all of them: nobody in particular"
    assert blamed_hosts([lost(99)], HOSTS) == []


def test_a_host_is_dropped_when_it_fails_again_before_enough_steps() -> None:
    active_hosts = ActiveHosts(HOSTS, host_failures=2, forgive_steps=100)
    assert active_hosts.record(["b"], step=10) == []
    assert active_hosts.record(["b"], step=110) == [], "100 steps on, the first is forgotten"
    assert active_hosts.record(["a"], step=120) == []
    assert active_hosts.record(["b"], step=209) == ["b"]
    assert active_hosts.remaining == {"a": 2, "c": 4}
    active_hosts.readmit("b")
    assert active_hosts.remaining == HOSTS
    assert active_hosts.record(["b"], step=210) == [], "with a clean record"


@pytest.mark.parametrize(
    ("batch", "kept"),
    [
        ((16, 2), ["a", "b", "c"]),
        ((12, 1), ["a", "b"]),  # 8 ranks do not divide it, 4 do
        ((6, 3), ["a"]),
        ((5, 1), []),
        (None, ["a", "b", "c"]),
    ],
)
def test_hosts_go_from_the_end_until_the_batch_divides(batch: tuple[int, int] | None, kept: list[str]) -> None:
    assert list(fitting(HOSTS, batch)) == kept


# --- what the run folder says


def test_a_run_folder_is_read_whatever_is_missing_or_torn(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert read_state(run) == RunState()
    assert batch_of(run) is None
    for step in (4, 8, 12):
        (run / "checkpoints" / f"step_{step:08d}").mkdir(parents=True)
    for step in (4, 8):
        (run / "checkpoints" / f"step_{step:08d}" / "manifest.json").write_text("{}")
    wide = json.dumps({"step": 11, "losses": ["x" * 100] * 3000})  # longer than what is read from the end at first
    (run / "metrics.jsonl").write_text(f'{{"step": 10}}\n{wide}\n{{"step": 12, "tok')
    (run / "last_stop.json").write_text('{"kind": "time", "step": 8, "message": "55m are over"}')
    (run / "incidents.jsonl").write_text('{"kind": "hung", "ranks": [1], "message": "rank 1"}\nnot json\n{"ranks": ')
    (run / "config.yaml").write_text("batch: {rows_per_step: 8, micro_batch_rows: 2}\n")
    state = read_state(run)
    assert (state.committed, state.reached, state.complete) == (8, 11, False)
    assert (state.stop_kind, state.stop_message) == ("time", "55m are over")
    assert state.incidents == (Incident("hung", (1,), "rank 1"),)
    assert batch_of(run) == (8, 2)
    (run / "last_stop.json").write_text('{"kind": "ti')
    assert read_state(run).stop_kind == ""


def test_only_new_incidents_count() -> None:
    old, new = lost(1), lost(2)
    assert RunState(incidents=(old, new)).incidents_since(RunState(incidents=(old,))) == (new,)
    assert RunState(incidents=(new,)).incidents_since(RunState(incidents=(old, old))) == (new,), "file started anew"


def test_goodput_counts_the_time_of_steps_that_were_kept(tmp_path: Path) -> None:
    lines = [{"step": step, "tokens": 50, "tokens_per_second": 25.0} for step in range(1, 11)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"step": 5, "gain": 1.0}]))
    assert seconds_in_steps(tmp_path, after=2, until=8) == 12
    assert "2 restarts, 7 steps lost; goodput 75 %: 3m00s of 4m00s" in str(Summary(2, 7, 240.0, 180.0))


def test_the_ledger_goes_on_and_leaves_a_folder_that_is_not_a_run_alone(tmp_path: Path) -> None:
    run = tmp_path / "run"
    ledger = Ledger(run)
    assert ledger.start(0, {"a": 2}) == 1
    assert not run.exists()
    run.mkdir()
    (run / "config.yaml").write_text("")
    outcome = Outcome(RunState(), RunState(reached=5, committed=4, metrics_version=(1, 1), incidents=(lost(3),)), 1)
    ledger.end(outcome, 1.5, "rank 3 died", {"b": "failed"})
    assert Ledger(run).start(4, {"a": 2}) == 2
    start, end, again = read_ledger(run)
    assert (start["event"], start["attempt"], start["hosts"], start["from_step"]) == ("start", 1, {"a": 2}, 0)
    assert (end["reached"], end["committed"], end["steps_lost"], end["lost_ranks"]) == (5, 4, 1, [3])
    assert (end["reason"], end["dropped"], end["seconds"]) == ("rank 3 died", {"b": "failed"}, 1.5)
    assert again["attempt"] == 2

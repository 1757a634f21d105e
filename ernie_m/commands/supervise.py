"""Keep a job alive: start it, restart it from its newest checkpoint when it fails, leave out hosts that keep failing.

    ernie-m supervise --hostfile hostfiles/v100x64 -- pretrain --recipe large --data DATA --run RUN
    ernie-m supervise --num_ranks 8 -- pretrain --recipe base --data DATA --run RUN

After `--` comes the command that all ranks run, `pretrain` or a script such as launcher/pretrain.py, with its arguments.
deepspeed is started for you with the right hosts, address and port. Without a command it is `pretrain` with its defaults:
recipe large, data data/, run runs/large.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from ernie_m.base.command_line import listed, words_in
from ernie_m.base.command_line import run as run_command
from ernie_m.base.console import InputError
from ernie_m.base.ranges import Range


def supervise(
    *,
    hostfile: str | None = None,
    num_ranks: Annotated[int, Range(least=1, most=10**6)] | None = None,
    max_restarts: Annotated[int, Range(least=0, most=10**9, zero="never restarts")] = 100,
    no_progress_limit: Annotated[int, Range(least=1, most=10**9)] = 3,
    host_failures: Annotated[int, Range(least=1, most=10**9)] = 2,
    forgive_steps: Annotated[int, Range(least=0, most=10**9, zero="at once")] = 1000,
    readmit: bool = False,
    linger: Annotated[float, Range(least=0, most=1e6, zero="no time")] = 60,
    grace: Annotated[float, Range(least=0, most=1e6, zero="no time")] = 120,
    master_addr: str = "",
    deepspeed_options: str = "",
    export: str | None = None,
) -> None:
    """Keep the job after `--` alive until RUN/COMPLETE exists.

    Usage: ernie-m supervise [options] -- pretrain --recipe R --data D --run RUN [key=value ...]

    It decides by files in RUN, not by exit codes: COMPLETE (done), last_stop.json (stopped on request, or refused),
    incidents.jsonl (ranks that were lost), checkpoints/ and metrics.jsonl (progress). Its own ledger is
    RUN/restarts.jsonl: a line for each start and each end. At the end it prints restarts, steps lost and goodput.

    To stop the job, send SIGTERM, SIGINT (Ctrl-C) or SIGUSR1 to the supervisor, or write a reason into
    RUN/stop_requested: the ranks save and stop. A second signal ends them at once, without saving.

    From this environment, ranks on other hosts get OMP_* MKL_* KMP_* NCCL_* GLOO_* TORCH* PYTORCH_* CUDA_* CUBLAS_*
    DS_ACCELERATOR HF_* TRANSFORMERS_* TOKENIZERS_* WANDB_* ERNIE_M_*, what --export adds, and the lines of .deepspeed_env;
    not ERNIE_M_HOST and CUDA_VISIBLE_DEVICES, and no secrets (docs/security.md says what is taken for one: log in on each
    host). A secret that --export or .deepspeed_env names goes to each host on no command line.
    PDSH_SSH_ARGS_APPEND gets keep-alives unless you set it.

    Exit codes: 0 complete; 2 refused (a mistake: restarting does not help); 4 given up (no progress, too many restarts,
    no hosts left: look at RUN and the output); 75 saved and stopped on request: give the same command to go on.

    Args:
        hostfile: file of `name slots=N` lines; all hosts must answer through ssh at the first start
        num_ranks: ranks on this machine, where there is no hostfile; one per device if not given
        max_restarts: give up after so many
        no_progress_limit: give up after so many starts in a row that reached no new step
        host_failures: leave out a host whose ranks were lost so often; one that ssh cannot reach is left out at once
        forgive_steps: a host's failures are forgotten after so many steps of progress
        readmit: take a host back at the next restart when it answers again
        linger: seconds that the job may take to end after a rank was lost or the run was done, before it is killed
        grace: seconds to save and stop when asked to, before it is killed
        master_addr: where the ranks meet, instead of the first host's name; used as long as that host takes part
        deepspeed_options: further options of deepspeed, in quotes, e.g. "--ssh_port 2222 --bind_cores_to_rank"
        export: further environment variables for other hosts, with commas: NAME or PREFIX*; a secret by its full NAME
    """
    from ernie_m.base.hostfile import read_hostfile
    from ernie_m.supervision.deepspeed_job import DeepspeedLauncher, JobCommand
    from ernie_m.supervision.policy import ActiveHosts, RestartPolicy
    from ernie_m.supervision.supervisor import GracePeriods, Supervisor

    if hostfile and num_ranks is not None:
        raise InputError("--hostfile and --num_ranks: give one; a hostfile says the ranks by its slots")
    command = JobCommand.of(_split(sys.orig_argv)[1])
    for choice in command.choices:
        print(f"supervise: {choice}", file=sys.stderr)
    hosts = read_hostfile(Path(hostfile)) if hostfile else {}
    first_host = next(iter(hosts), "")
    exports = tuple(listed("export", export, "names or prefixes such as AWS_*, with commas between"))
    options = words_in(deepspeed_options, "--deepspeed_options")
    launcher = DeepspeedLauncher(command, options, num_ranks, master_addr, first_host, exports)
    active_hosts = ActiveHosts(hosts, host_failures, forgive_steps)
    policy = RestartPolicy(max_restarts, no_progress_limit)
    raise SystemExit(Supervisor(launcher, policy, active_hosts, GracePeriods(linger, grace), readmit).run())


def _split(words: list[str]) -> tuple[list[str], list[str]]:
    """What stands before and behind the first `--`."""
    at = words.index("--") if "--" in words else len(words)
    return words[:at], words[at + 1 :]


def main(called: str = "ernie-m supervise") -> None:
    """Run on the arguments of this process; `called` is what the user typed."""
    sys.argv = _split(sys.argv)[0]
    run_command(supervise, called)


if __name__ == "__main__":
    main()

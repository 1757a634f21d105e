"""How the process of a training ends: what each way out means for RUN, for the other ranks and for the exit code.

ended by                   RUN/last_stop.json         the other ranks see            this process

nothing, all is done       -                          an orderly end                 returns
Stopped                    "signal" or "time", step   an orderly end                 EXIT_STOPPED
InputError                 "refused"                  an orderly end                 raises it on
InputError, `only_here`    "refused"                  a fault of this rank           raises it on
RuntimeError, peer lost    - (incidents.jsonl)        the same incident              EXIT_PEER_LOST
any other error            -                          a fault of this rank           raises it on
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from ernie_m.base.console import EXIT_PEER_LOST, EXIT_STOPPED, InputError
from ernie_m.base.interruption import Interruption
from ernie_m.runs.ranks import Ranks
from ernie_m.runs.run_folder import RunFolder
from ernie_m.training.training_loop import Stopped
from ernie_m.training.watchdog import Watchdog

PEER_WAIT = 90.0  # seconds until the watchdog must know why a collective failed


@contextlib.contextmanager
def ending_by_rule(ranks: Ranks, watchdog: Watchdog, run_folder: RunFolder, interruption: Interruption) -> Iterator[None]:
    """Whatever ends the block, the process ends as this module's table says."""

    def note(kind: str, step: int | None, message: str) -> None:
        with contextlib.suppress(OSError):  # a full disk must not hide the message
            run_folder.stopped(kind, step, message)

    try:
        yield
    except Stopped as stopped:
        request = stopped.request
        if ranks.is_first:
            note(request.kind, stopped.step, request.message)
            interruption.obeyed()
            print(f"stopped at step {stopped.step} ({request.message}); the same command goes on", flush=True)
        watchdog.stop()
        ranks.close()
        raise SystemExit(EXIT_STOPPED) from None
    except InputError as error:
        if ranks.is_first or error.only_here:
            note("refused", None, str(error))
        watchdog.leave(str(error)) if error.only_here else watchdog.stop()
        raise
    except RuntimeError as error:  # gloo and NCCL: a peer is gone; or a fault of our own
        explanation = watchdog.explain(PEER_WAIT)
        if explanation is None:
            watchdog.leave(f"{type(error).__name__}: {error}")
            raise
        if watchdog.is_spokesman:
            print(f"error: {explanation}", file=sys.stderr, flush=True)
        os._exit(EXIT_PEER_LOST)  # nothing may wait for a peer now
    except BaseException as error:
        watchdog.leave(f"{type(error).__name__}: {error}")
        raise
    watchdog.stop()

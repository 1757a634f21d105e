"""Faults of the storm: single files and folders of a run."""

from __future__ import annotations

import json
import shutil

from tests.faults.storm import AT, REFUSED, Outcome, Storm
from tests.faults.storm_faults import NEWEST, at_work, fault


@fault("half a metrics line", "metrics.jsonl ends in the middle of a line, as after a power cut")
def _(storm: Storm) -> Outcome:
    run = storm.cut()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "loss/MM')
    return storm.survives(storm.start(run), at=AT)


@fault("metrics gone", "metrics.jsonl was deleted")
def _(storm: Storm) -> Outcome:
    run = storm.cut()
    before = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").unlink()
    job = storm.start(run)
    assert job.end() == 0, job.text[-300:]
    kept = [line for line in before if json.loads(line).get("step", 0) <= AT]
    (run / "metrics.jsonl").write_text("".join(kept) + (run / "metrics.jsonl").read_text())  # what it cannot know again
    return storm.survives(job, at=AT)


@fault("latest garbage", "checkpoints/latest of random bytes")
def _(storm: Storm) -> Outcome:
    run = storm.cut()
    (run / "checkpoints/latest").write_bytes(bytes(range(256)))
    return storm.survives(storm.start(run), at=AT)


@fault("latest a folder", "checkpoints/latest is a folder")
def _(storm: Storm) -> Outcome:
    run = storm.cut()
    (run / "checkpoints/latest").mkdir()
    (run / "checkpoints/latest/notes.txt").write_text("mine")
    job = storm.start(run)
    if job.end() == 0:
        return storm.survives(job, at=AT)
    return storm.refused(job, "latest")


@fault("newest checkpoint of a newer release", "its manifest's format version is 99")
def _(storm: Storm) -> Outcome:
    run = storm.cut()
    path = run / NEWEST / "manifest.json"
    content = json.loads(path.read_text())
    keys = [key for key in content if "version" in key]
    path.write_text(json.dumps({**content, **dict.fromkeys(keys, 99)}))
    assert keys, f"no version in {sorted(content)}"
    job = storm.start(run)
    verdict, told = storm.survives(job, at=AT - 2)
    assert NEWEST.partition("/")[2] in job.text, "passed over in silence"
    return verdict, f"passed over by name; {told}"


@fault("tensors of the newest swapped", "two ranks' files of the newest checkpoint exchanged")
def _(storm: Storm) -> Outcome:
    run = storm.cut()
    first, second = sorted((run / NEWEST).glob("rank_*.safetensors"))[:2]
    first.rename(run / "aside")
    second.rename(first)
    (run / "aside").rename(second)
    return storm.survives(storm.start(run), at=AT - 2)


@fault("foreign files", "notes, a folder step_99999999 and a link beside the checkpoints")
def _(storm: Storm) -> Outcome:
    run = storm.cut()
    (run / "checkpoints/notes.txt").write_text("mine")
    (run / "checkpoints/step_99999999").mkdir()
    (run / "checkpoints/step_99999999/mine").write_text("mine")
    (run / "checkpoints/link").symlink_to("/nowhere")
    outcome = storm.survives(storm.start(run), at=AT)
    assert (run / "checkpoints/notes.txt").read_text() == "mine", "somebody's notes are gone"
    assert (run / "checkpoints/step_99999999/mine").is_file(), "somebody's folder is gone"
    return outcome


@fault("COMPLETE too early", "an empty COMPLETE in a run that is not")
def _(storm: Storm) -> Outcome:
    run = storm.cut()
    (run / "COMPLETE").touch()
    return storm.refused(storm.start(run), "COMPLETE")


@fault("skipped steps garbage", "skipped_steps.json is torn")
def _(storm: Storm) -> Outcome:
    run = storm.cut()
    (run / "skipped_steps.json").write_text('{"ranges": [[')
    return storm.refused(storm.start(run), "skipped_steps.json")


@fault("checkpoints gone at work", "rm -r of RUN/checkpoints under the running job")
def _(storm: Storm) -> Outcome:
    job = at_work(storm)
    shutil.rmtree(job.run / "checkpoints", ignore_errors=True)
    if job.end() == 0:
        return storm.survives(job, at=AT)
    return storm.refused(job, "checkpoints")


@fault("two starts at once", "the same command twice in the same moment")
def _(storm: Storm) -> Outcome:
    run = storm.cut()
    both = [storm.start(run), storm.start(run)]
    codes = [job.end() for job in both]
    assert sorted(map(bool, codes)) == [False, True], f"exit codes {codes}"
    outcome = storm.survives(both[codes.index(0)], at=AT)
    verdict, told = storm.refused(next(job for job, code in zip(both, codes, strict=True) if code), "another job is at work")
    assert verdict == REFUSED
    return outcome[0], f"one {outcome[1]}; the other: {told}"

"""Faults of the storm: the data folder."""

from __future__ import annotations

import os
import shutil

import numpy as np

from tests.faults.storm import AT, Outcome, Storm, prep
from tests.faults.storm_faults import at_work, fault, first_shard, flip


@fault("id flipped in a shard", "ids of all shards become 2**30, their sizes kept; a new run")
def _(storm: Storm) -> Outcome:
    data = storm.own_data()
    for shard in (data / "shards").rglob("train-*.arrow"):  # so that a run of few steps meets it
        content = bytearray(shard.read_bytes())
        words = np.frombuffer(memoryview(content)[: len(content) // 4 * 4], np.int32)
        ids = np.flatnonzero((words > 3) & (words < 3998))
        words[ids[len(ids) // 4 : len(ids) // 2 : 40]] = 2**30  # far from header and footer
        shard.write_bytes(content)
    return storm.refused(storm.start(storm.folder / "new", data=data), ".arrow", "verify")


@fault("shard truncated at work", "all shards cut to half under the running job")
def _(storm: Storm) -> Outcome:
    data = storm.own_data()
    job = at_work(storm, data=data)
    for shard in (data / "shards").rglob("train-*.arrow"):
        os.truncate(shard, shard.stat().st_size // 2)
    if job.end() == 0:
        return storm.survives(job, at=AT)
    assert ".arrow" in job.text, f"no shard is named: {job.text[-300:]}"
    for shard in (data / "shards").rglob("train-*.arrow"):
        shutil.copyfile(storm.starter.data / shard.relative_to(data), shard)
    return storm.ends_and_goes_on(job, ".arrow")


@fault("shard missing", "a shard is gone")
def _(storm: Storm) -> Outcome:
    data = storm.own_data()
    shard = first_shard(data)
    shard.unlink()
    return storm.refused(storm.start(storm.cut(), data=data), f"{shard.parent.name}/{shard.name}", "missing")


@fault("shard a dangling link", "a shard is a link to nowhere")
def _(storm: Storm) -> Outcome:
    data = storm.own_data()
    shard = first_shard(data)
    shard.unlink()
    shard.symlink_to("/nowhere/shard.arrow")
    return storm.refused(storm.start(storm.cut(), data=data), f"{shard.parent.name}/{shard.name}")


@fault("data manifest flipped", "a bit of the data's manifest.json")
def _(storm: Storm) -> Outcome:
    data = storm.own_data()
    flip(data / "manifest.json", at=30)
    return storm.refused(storm.start(storm.cut(), data=data), "manifest.json")


@fault("shard table flipped", "a bit of shards.arrow")
def _(storm: Storm) -> Outcome:
    data = storm.own_data()
    flip(data / "shards.arrow")
    return storm.refused(storm.start(storm.cut(), data=data), "shards.arrow")


@fault("data rebuilt", "the same folder built again with another share of held-out pairs")
def _(storm: Storm) -> Outcome:
    data, catalog = storm.own_data(), storm.folder / "catalog.yaml"
    catalog.write_text((storm.starter.data.parent / "catalog.yaml").read_text().replace("held_out: 0.02", "held_out: 0.03"))
    model = storm.starter.data.parent / "spm.model"
    prep("build", "--catalog", catalog, "--tokenizer", model, "--out", data, "--shard_mb", 1, "--overwrite")
    return storm.refused(storm.start(storm.cut(), data=data), "data_identity")


@fault("tokenizer changed", "a bit of the tokenizer in the data folder")
def _(storm: Storm) -> Outcome:
    data = storm.own_data()
    flip(data / "sentencepiece.bpe.model")
    return storm.refused(storm.start(storm.cut(), data=data), "sentencepiece.bpe.model")


@fault("data read-only", "the data on a read-only mount")
def _(storm: Storm) -> Outcome:
    data = storm.own_data()
    storm.mount(data, "--bind", str(data))
    storm.mount(data, "-o", "remount,ro,bind")
    return storm.survives(storm.start(storm.cut(), data=data), at=AT)


@fault("data moved", "the data folder renamed between two starts, and named by its new name")
def _(storm: Storm) -> Outcome:
    data = storm.own_data().rename(storm.folder / "elsewhere")
    return storm.survives(storm.start(storm.cut(), data=data), at=AT)

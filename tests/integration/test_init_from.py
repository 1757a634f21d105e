"""Runs that start from given weights: on real ranks, recorded, and never again once there is a checkpoint."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ernie_m.base.config import build, merge_overrides, read_yaml
from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.base.hostfile import free_port
from ernie_m.corpus.manifest import Manifest
from ernie_m.hosts.job_checks import start_problems
from ernie_m.interop.build_model import load_weights
from ernie_m.interop.export import export
from ernie_m.interop.weight_files import WeightFiles
from ernie_m.models.model import Encoder
from ernie_m.models.shape import ModelConfig
from ernie_m.runs.run_folder import RunFolder, identity_of
from ernie_m.training.recipe import TrainingConfig
from ernie_m.training.trainer import Trainer
from tests.integration.conftest import ROOT, TINY_RECIPE, environment
from tests.integration.forked_ranks import ForkedRanks, Job

RECIPE = TINY_RECIPE | {
    "stages": [{"steps": 1, "rows": {"MMLM": 1, "TLM": 1, "CAMLM": 1}}],
    "optimizer": {"peak_learning_rate": 1e-12, "warmup_steps": 1, "weight_decay": 0.0},  # the start is what is looked at
    "output": {"log_every": 1, "save_every": 1, "evaluate_every": 0, "save_in_background": False},
}
LANGUAGES = "embeddings.language.weight"


@pytest.fixture(scope="module")
def weights(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Hugging Face folder that fits the data and the tiny recipe."""
    folder, manifest = tmp_path_factory.mktemp("weights"), Manifest.read(data)
    config = ModelConfig(**TINY_RECIPE["model"]).resolved(manifest.vocab_size, len(manifest.languages))
    export(Encoder(config).initialise(77).state_dict(), config, data / manifest.tokenizer_file, folder)
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def trainer(recipe: Path, data: Path, run: Path, *overrides: str) -> Trainer:
    """What each rank makes before it meets the others: all that can be known to be wrong is."""
    config = build(TrainingConfig, merge_overrides(read_yaml(recipe), overrides), str(recipe))
    return Trainer(config, data, run, ROOT / "ds_configs")


def test_two_ranks_start_from_the_weights_and_resume_without_them(
    recipe: Path, data: Path, weights: Path, tmp_path: Path
) -> None:
    source, run, forked = tmp_path / "source", tmp_path / "run", ForkedRanks()
    shutil.copytree(weights, source)
    job = Job(recipe, data, run, num_ranks=2, overrides=(f"init_from={source}",))
    forked.finish(job)
    assert (run / "COMPLETE").is_file(), job.text()
    assert f"starting from {source} (xlm-roberta" in job.text()
    started = json.loads((run / "started_from.json").read_text())
    assert started["fresh"] == [LANGUAGES]
    assert started["kind"] == "xlm-roberta"
    configuration, checkpoint = RunFolder(run).read()
    assert configuration["init_from"] == str(source)
    trained, expected = load_weights(run, configuration, checkpoint), load_file(source / "model.safetensors")
    word = "roberta.embeddings.word_embeddings.weight"
    torch.testing.assert_close(trained["embeddings.word.weight"], expected[word], rtol=0, atol=1e-11)
    dense = trained["heads.token.dense.weight"]
    torch.testing.assert_close(dense, expected["lm_head.dense.weight"], rtol=0, atol=1e-11)
    assert trained[LANGUAGES].abs().max() < 1e-11

    shutil.rmtree(source)
    (run / "COMPLETE").unlink()
    before = sha256_of(run / "started_from.json")
    forked.finish(job)
    assert (run / "COMPLETE").is_file(), job.text()
    assert "starting at step 1" in job.text()
    assert sha256_of(run / "started_from.json") == before


def test_another_start_is_another_configuration(recipe: Path, data: Path, weights: Path, tmp_path: Path) -> None:
    first = trainer(recipe, data, tmp_path / "run")
    with first.run_folder.locked():
        first.run_folder.start(first.configuration, from_scratch=False)
    with pytest.raises(InputError, match=f"init_from: None -> '{weights}'"):
        trainer(recipe, data, tmp_path / "run", f"init_from={weights}")
    trainer(recipe, data, tmp_path / "run")
    without = {key: value for key, value in first.configuration.items() if key != "init_from"}
    assert identity_of(without) == identity_of(first.configuration), "checkpoints of before there was such a key still fit"
    assert identity_of({**without, "init_from": "x"}) != identity_of(without)


def test_what_cannot_be_started_from_is_told_before_anything_is_written(
    recipe: Path, data: Path, weights: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        InputError, match="init_from: /nowhere/xlmr: no such folder; expected a Hugging Face folder, a hub id"
    ):
        trainer(recipe, data, tmp_path / "run", "init_from=/nowhere/xlmr")
    with pytest.raises(InputError, match=r"num_layers 2; the recipe has num_layers 3: set model.num_layers=2"):
        trainer(recipe, data, tmp_path / "run", f"init_from={weights}", "model.num_layers=3")
    assert not (tmp_path / "run").exists()
    trainer(recipe, data, tmp_path / "run", f"init_from={weights}")


def test_the_doctor_looks_at_it_too(recipe: Path, data: Path, weights: Path, tmp_path: Path) -> None:
    def problems(start: str, data: Path | None, run: Path | None = None, **model: int) -> list[str]:
        content = RECIPE | {"init_from": start, "model": TINY_RECIPE["model"] | model}
        return [str(problem) for problem in start_problems(build(TrainingConfig, content, "test"), data, run)]

    assert problems(str(weights), data) == []
    (ill,) = problems(str(weights), data, num_layers=3)
    assert "set model.num_layers=2" in ill
    assert problems(str(weights), None, num_layers=3) == [], "without the data the shape is not known"
    (missing,) = problems("/nowhere", None)
    assert "init_from=null" in missing
    (tmp_path / "checkpoints" / "step_00000001").mkdir(parents=True)
    assert problems("/nowhere", data, tmp_path) == [], "a run that goes on needs it no more"


TWO_RANKS = """
import os, sys
from pathlib import Path
import torch.distributed as dist
from ernie_m.base.console import InputError
from ernie_m.interop.start_weights import Target
from ernie_m.interop.start import start_from
from ernie_m.models.model import Encoder
from ernie_m.models.shape import ModelConfig
from ernie_m.runs.ranks import Voters
shape = {"num_layers": 2, "hidden_size": 16, "num_heads": 4, "ffn_size": 32, "max_positions": 20}
config = ModelConfig(**shape, vocab_size=66, num_languages=4)
dist.init_process_group("gloo")
target, voters = Target(config, ("de", "en", "fr", "sw"), Path("none"), ""), Voters(dist.get_rank(), 2)
for folders in sys.argv[1:]:
    try:
        print(start_from(folders.split(os.pathsep)[voters.rank], target, Encoder(config), voters).sha256, flush=True)
    except InputError as error:
        print(error.only_here, error, flush=True)
"""


def test_ranks_that_read_other_bytes_do_not_go_on(tmp_path: Path) -> None:
    theirs = ROOT / "tests" / "fixtures" / "ernie_m" / "theirs"
    for name in ("other", "gone"):
        shutil.copytree(theirs, tmp_path / name)
    path = tmp_path / "other" / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    (tmp_path / "gone" / "model.safetensors").unlink()
    cases = [f"{theirs}{os.pathsep}{second}" for second in (theirs, tmp_path / "other", tmp_path / "gone")]
    cases.append(f"{tmp_path / 'gone'}{os.pathsep}{tmp_path / 'gone'}")
    meeting = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, "-c", TWO_RANKS, *cases]
    ranks = [
        subprocess.Popen(command, cwd=ROOT, env=environment() | meeting | {"RANK": rank}, text=True, stdout=subprocess.PIPE)
        for rank in "01"
    ]
    (same, other, gone, both), second = (rank.communicate(timeout=240)[0].splitlines() for rank in ranks)
    assert same == second[0] == WeightFiles(theirs).sha256()
    assert other.startswith("False init_from:"), "rank 0 has the right one"
    assert "other ranks cannot read it, or read other bytes" in other
    assert second[1].startswith("True init_from:"), "its line is printed"
    assert "other bytes here" in second[1]
    assert "other ranks cannot read it" in gone
    assert second[2].startswith("True init_from:")
    assert "no weights there" in second[2]
    assert both == second[3], "what all meet, rank 0 alone prints"
    assert both.startswith("False init_from:")

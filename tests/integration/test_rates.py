"""Rates by part and layer are those of torch's AdamW; parts that do not train stay bit for bit, under every ZeRO stage."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from ernie_m.base.console import InputError
from ernie_m.corpus.manifest import Manifest
from ernie_m.interop.build_model import load_weights
from ernie_m.interop.export import export
from ernie_m.interop.start import weights_of_start
from ernie_m.models.model import Encoder
from ernie_m.models.shape import ModelConfig
from ernie_m.runs.run_folder import RunFolder
from tests.integration.conftest import TINY_RECIPE
from tests.integration.scripts import run_ranks, run_script


@pytest.fixture(scope="module", params=[1, 2])
def found(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each rank of one, and of two, found in its own share."""
    folder = tmp_path_factory.mktemp("rates")
    done = run_ranks(request.param, "tests/integration/rates_worker.py", data, folder / "out")
    files = [folder / f"rank_{rank}.json" for rank in range(request.param)]
    assert all(file.is_file() for file in files), done.stdout + done.stderr
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


@pytest.mark.parametrize("zero_stage", range(4))
def test_factors_by_part_and_decay_by_layer_are_torchs_adamw_with_a_group_a_parameter(
    found: list[dict[str, Any]], zero_stage: int
) -> None:
    for of_rank in found:
        rates = of_rank[str(zero_stage)]["rates"]
        assert rates["apart"] < 5e-4, rates  # weight decay left out: 5e-3; rounding: below 3e-5
        assert rates["groups"] == 2 * (3 + 2), "a group a layer, embeddings and heads, with weight decay and without"
        assert rates["moved"] > 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("zero_stage", range(4))
def test_parts_that_do_not_train_stay_bit_for_bit_and_have_no_moments_before_they_did(
    found: list[dict[str, Any]], zero_stage: int, precision: str
) -> None:
    assert [of_rank[str(zero_stage)][precision] for of_rank in found] == [[] for _ in found]


STAGES = [{"steps": 2, "rows": {"MMLM": 1, "CAMLM": 1}, "train": ["heads"]}, {"steps": 3, "rows": {"MMLM": 1, "BTMLM": 1}}]
RECIPE = TINY_RECIPE | {
    "stages": STAGES,
    "optimizer": {"peak_learning_rate": 1e-3, "warmup_steps": 1, "rate_factors": {"embeddings": 3.0}, "layer_decay": 0.9},
    "output": {"log_every": 1, "save_every": 1, "keep_last": 9, "evaluate_every": 0},
}


@pytest.fixture(scope="module")
def start(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A Hugging Face folder that fits, and its weights in our names."""
    folder, manifest = tmp_path_factory.mktemp("start"), Manifest.read(data)
    config = ModelConfig(**RECIPE["model"]).resolved(manifest.vocab_size, len(manifest.languages))
    weights = Encoder(config).initialise(77).state_dict()
    export(weights, config, data / manifest.tokenizer_file, folder)
    return folder, weights


@pytest.fixture(scope="module")
def run(start: tuple[Path, dict[str, Tensor]], data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose first stage trains heads alone."""
    folder = tmp_path_factory.mktemp("of_parts")
    (folder / "r.yaml").write_text(yaml.safe_dump(RECIPE | {"init_from": str(start[0])}))
    called("pretrain", "--recipe", folder / "r.yaml", "--data", data, "--run", folder / "run")
    return folder / "run"


def called(command: str, *arguments: str | Path) -> str:
    done = run_script(f"launcher/{command}.py", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def weights_at(run: Path, step: int) -> dict[str, Tensor]:
    return load_weights(run, *RunFolder(run).read(str(step)))


def test_a_stage_of_heads_alone_leaves_the_encoder_and_the_next_stage_moves_it(
    run: Path, start: tuple[Path, dict[str, Tensor]]
) -> None:
    _, given = start
    border, last = weights_at(run, 2), weights_at(run, 5)
    for name, tensor in border.items():
        own = name.startswith("heads.") and not name.endswith("decoder_weight")  # that is the word embedding
        assert torch.equal(tensor, given[name]) != own, name
        assert not torch.equal(last[name], border[name]), name


@pytest.mark.parametrize("step", [1, 2])
def test_resumed_before_and_at_the_border_of_stages_a_run_is_the_same(
    run: Path, data: Path, step: int, tmp_path: Path
) -> None:
    again = tmp_path / "run"
    shutil.copytree(run, again)
    (again / "COMPLETE").unlink()
    for later in range(step + 1, 6):
        shutil.rmtree(again / "checkpoints" / f"step_{later:08d}")
    called("pretrain", "--recipe", run.parent / "r.yaml", "--data", data, "--run", again)
    first, second = weights_at(run, 5), weights_at(again, 5)
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


def test_an_export_keeps_a_share_of_the_start_and_says_so(
    run: Path, start: tuple[Path, dict[str, Tensor]], tmp_path: Path
) -> None:
    told = called("export", "--run", run, "--to", tmp_path / "kept", "--keep", "0.25")
    assert "0.25 of the start kept" in told
    theirs, name = load_file(tmp_path / "kept" / "model.safetensors"), "roberta.embeddings.word_embeddings.weight"
    trained, given = (weights["embeddings.word.weight"] for weights in (weights_at(run, 5), start[1]))
    torch.testing.assert_close(theirs[name], 0.25 * given + 0.75 * trained)
    assert not torch.allclose(theirs[name], trained)
    assert "0.25 of those that it started with" in (tmp_path / "kept" / "README.md").read_text(encoding="utf-8")


def test_a_run_from_scratch_has_no_start_to_keep(run: Path, data: Path) -> None:
    configuration, _ = RunFolder(run).read()
    with pytest.raises(InputError, match=r"weights drawn at random; expected a run with init_from or model.backbone$"):
        weights_of_start(run, configuration | {"init_from": None}, data)

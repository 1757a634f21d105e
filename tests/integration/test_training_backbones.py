"""Recipes train encoders of transformers with real ranks: a kill changes no bit, and an export is what was trained."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModel, AutoModelForMaskedLM, AutoTokenizer

from ernie_m.base.console import InputError
from ernie_m.commands.ablate import Commands as AblateCommands
from ernie_m.commands.evaluate import Commands as EvaluateCommands
from ernie_m.commands.export import export
from ernie_m.commands.show import show
from ernie_m.corpus.any_vocabulary import open_vocabulary
from ernie_m.interop.build_model import trained_model
from ernie_m.models.backbones.encoder import ForeignEncoder
from ernie_m.runs.checkpoint import MANIFEST_FILE, folder_name
from ernie_m.runs.metrics import read_metrics
from ernie_m.runs.run_folder import RunFolder
from tests.integration.conftest import SUFFIXES, TrainedEncoders
from tests.integration.forked_ranks import ForkedRanks, Job
from tests.integration.test_init_from import trainer

RECIPE = {
    "stages": [
        {"steps": 1, "rows": {"XLCO": 1}, "train": ["heads"]},
        {"steps": 3, "rows": {"CAMLM": 1, "BTMLM": 1, "XLCO": 1}},
    ],
    "seed": 5,
    "data": {"sequence_length": 128},
    "batch": {"rows_per_step": 4, "micro_batch_rows": 1},
    "optimizer": {"peak_learning_rate": 1e-3, "warmup_steps": 1, "layer_decay": 0.9, "rate_factors": {"heads": 2.0}},
    "engine": {"precision": "fp32"},
    "output": {"log_every": 1, "save_every": 2, "keep_last": 9, "evaluate_every": 4, "held_out_pairs": 60, "peak_tflops": 1},
}
ZERO_STAGES_AND_RANKS = {"Bert": (3, 2), "XLMRoberta": (2, 1), "ModernBert": (1, 1), "EuroBert": (3, 1), "Gte": (2, 1)}
STEPS, KILLED_BEHIND = 4, 2


@pytest.fixture(scope="module")
def forked() -> ForkedRanks:
    return ForkedRanks()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "backbone.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


@pytest.fixture(scope="module")
def runs(
    forked: ForkedRanks, recipe: Path, encoders: TrainedEncoders, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Path, Path]]:
    """Of each family: a run that went through, and one that was killed and went on without its source."""
    made = {}
    for family, (data, encoder) in encoders.items():
        folder, (zero_stage, num_ranks) = tmp_path_factory.mktemp(family), ZERO_STAGES_AND_RANKS[family]
        source = shutil.copytree(encoder, folder / "source")
        of_all = (f"model.backbone={source}", f"engine.zero_stage={zero_stage}")
        whole, killed = (Job(recipe, data, folder / name, num_ranks, of_all) for name in ("whole", "killed"))
        forked.finish(whole)
        assert (whole.run / "COMPLETE").is_file(), whole.text()
        if num_ranks > 1:
            forked.kill(killed, (killed.run / "checkpoints" / folder_name(KILLED_BEHIND) / MANIFEST_FILE).is_file)
        else:  # as if it had been
            shutil.copytree(whole.run, killed.run)
        (killed.run / "COMPLETE").unlink(missing_ok=True)
        shutil.rmtree(killed.run / "checkpoints" / folder_name(STEPS), ignore_errors=True)
        shutil.rmtree(source)
        forked.finish(killed)
        assert (killed.run / "COMPLETE").is_file(), killed.text()
        assert f"starting at step {KILLED_BEHIND}" in killed.text()
        made[family] = whole.run, killed.run
    return made


def losses(run: Path) -> dict[int, dict[str, float]]:
    steps: dict[int, dict[str, float]] = {}
    for line in read_metrics(run):
        kept = {key: value for key, value in line.items() if key.startswith(("loss/", "cross_lingual", "gradient_norm"))}
        steps.setdefault(line["step"], {}).update(kept)
    return steps


def of_run(run: Path, step: int | None = None) -> ForeignEncoder:
    configuration, checkpoint = RunFolder(run).read(None if step is None else str(step))
    model = trained_model(run, configuration, checkpoint)
    assert isinstance(model, ForeignEncoder)
    return model.eval()


@pytest.mark.parametrize("family", SUFFIXES)
def test_a_killed_run_goes_on_to_the_same_bits_without_its_source(family: str, runs: dict[str, tuple[Path, Path]]) -> None:
    whole, killed = runs[family]
    assert losses(whole) == losses(killed)
    assert "cross_lingual_gain" in losses(whole)[STEPS]
    for name, tensor in of_run(whole).state_dict().items():
        assert torch.equal(tensor, of_run(killed).state_dict()[name]), name


@pytest.mark.parametrize("family", SUFFIXES)
def test_an_export_is_its_class_with_the_trained_states_and_the_same_tokenizer(
    family: str, runs: dict[str, tuple[Path, Path]], encoders: TrainedEncoders, tmp_path: Path
) -> None:
    (_, run), (data, encoder), to = runs[family], encoders[family], tmp_path / "exported"
    export(run=str(run), to=str(to))
    configs = [json.loads((folder / "config.json").read_text()) for folder in (encoder, to)]
    assert configs[0]["architectures"] == configs[1]["architectures"]
    assert (to / "tokenizer.json").read_bytes() == (encoder / "tokenizer.json").read_bytes()
    auto = AutoModelForMaskedLM if SUFFIXES[family] == "ForMaskedLM" else AutoModel
    before, after = (auto.from_pretrained(folder).state_dict() for folder in (encoder, to))  # a file may have other names
    assert before.keys() == after.keys()
    same = {name for name in before if torch.equal(before[name], after[name])}
    assert same == {name for name in before if name.startswith("pooler.")}

    trained, text = of_run(run), "nine years 2019"
    ids = torch.from_numpy(open_vocabulary(data / "tokenizer.json").encode(text)).long()
    tokens = AutoTokenizer.from_pretrained(to)(text, return_tensors="pt")
    assert tokens["input_ids"][0, 1:-1].tolist() == ids.tolist()
    with torch.no_grad():
        loaded = AutoModel.from_pretrained(to).eval()(**tokens).last_hidden_state[0]
        whole = trained.whole
        whole.set_attn_implementation("sdpa")
        own = whole.base_model(**tokens).last_hidden_state[0]
        torch.testing.assert_close(loaded, own, rtol=1e-5, atol=1e-5)
        if SUFFIXES[family] == "Model":
            to = tmp_path / "with head"
            export(run=str(run), to=str(to), head=True)
            assert "| token | CAMLM, BTMLM | yes |" in (to / "README.md").read_text(encoding="utf-8")
        logits = AutoModelForMaskedLM.from_pretrained(to).eval()(**tokens).logits
        torch.testing.assert_close(logits[0], trained.head.logits(own), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("family", SUFFIXES)
def test_an_export_opens_in_sentence_transformers_with_the_trained_states(
    family: str, runs: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    library = pytest.importorskip("sentence_transformers", reason="sentence-transformers is not installed")
    run, to, text = runs[family][0], tmp_path / "exported", "nine years 2019"
    export(run=str(run), to=str(to))
    whole = of_run(run).whole
    whole.set_attn_implementation("sdpa")
    with torch.no_grad():
        vector = library.SentenceTransformer(str(to), device="cpu").encode([text], convert_to_tensor=True)[0]
        own = whole.base_model(**AutoTokenizer.from_pretrained(to)(text, return_tensors="pt")).last_hidden_state[0]
    torch.testing.assert_close(vector, own.mean(dim=0), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", SUFFIXES)
def test_all_that_a_loss_reaches_has_learnt_and_new_heads_are_told(
    family: str, runs: dict[str, tuple[Path, Path]], encoders: TrainedEncoders
) -> None:
    run = runs[family][0]
    fresh = json.loads((run / "started_from.json").read_text())["fresh"]
    assert any(name.startswith("heads.token.") for name in fresh) == (SUFFIXES[family] == "Model")
    assert any(name.startswith("heads.sentence.") for name in fresh)
    auto = AutoModel if SUFFIXES[family] == "Model" else AutoModelForMaskedLM
    before, model = dict(auto.from_pretrained(encoders[family][1]).named_parameters()), of_run(run)
    names = model.names_in_class()
    assert len(names) > 15
    for name, parameter in model.named_parameters():
        assert name in fresh or not torch.equal(before[names[name]], parameter), name
    assert {name for name in before if name not in names.values()} == set(model.constants)


def test_every_tool_takes_a_run_of_an_encoder_of_transformers_and_its_export(
    runs: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    """With windows and rotary positions: no tool may count on XLM-R's class or on our own encoder."""
    run, to = runs["ModernBert"][0], tmp_path / "exported"
    export(run=str(run), to=str(to))
    evaluate: Any = EvaluateCommands()
    sides = {}
    for side, name in (("source", "fra"), ("target", "eng")):
        path = tmp_path / f"tatoeba.fra-eng.{name}"
        path.write_text("".join(f"{n} Monday {name}\n" for n in range(6)), encoding="utf-8")
        sides[side] = str(path)
    (tmp_path / "gold.txt").write_text("nine years ||| neuf ans ||| 0-0 1-1\n", encoding="utf-8")
    (tmp_path / "words.txt").write_text("nine neuf\nyears ans\n", encoding="utf-8")
    outputs = {name: tmp_path / f"{name}.json" for name in ("retrieval", "alignment", "words", "gain", "ablation")}
    evaluate.retrieval(model=str(to), **sides, output=str(outputs["retrieval"]))
    evaluate.alignment(model=str(to), gold=str(tmp_path / "gold.txt"), output=str(outputs["alignment"]))
    evaluate.words(model=str(to), dictionary=str(tmp_path / "words.txt"), output=str(outputs["words"]))
    evaluate.gain(run=str(run), pairs=20, output=str(outputs["gain"]))
    ablate: Any = AblateCommands()
    ablate.measure(run=str(run), hugging_face=str(to), output=str(outputs["ablation"]), tatoeba=str(tmp_path))
    assert all(path.is_file() for path in outputs.values())
    retrieved, measured = (json.loads(outputs[name].read_text(encoding="utf-8")) for name in ("retrieval", "ablation"))
    assert measured["retrieval"]["fr"].keys() == retrieved["trained"].keys()
    show(run=str(run), output=str(tmp_path / "page.html"))
    assert "ModernBert" in (tmp_path / "page.html").read_text(encoding="utf-8")


def altered(folder: Path, to: Path, **changes: Any) -> Path:
    shutil.copytree(folder, to)
    content = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(content | changes))
    return to


def test_what_cannot_be_trained_is_told_in_a_line_before_anything_is_written(
    recipe: Path, encoders: TrainedEncoders, runs: dict[str, tuple[Path, Path]], tmp_path: Path
) -> None:
    (data, encoder), run = encoders["Bert"], tmp_path / "run"
    named = f"model.backbone={encoder}"

    def refused(match: str, *overrides: str, data: Path = data, run: Path = run) -> None:
        with pytest.raises(InputError, match=match) as caught:
            trainer(recipe, data, run, *overrides)
        assert "\n" not in str(caught.value)

    refused("model.num_layers: with model.backbone the encoder has its own", named, "model.num_layers=2")
    refused("/nowhere: no such folder", "model.backbone=/nowhere")
    refused(
        "the model has positions for documents of 132; set it to that, or data.longest_document",
        named,
        "data.sequence_length=256",
    )
    refused(r"its begin is \d+, in the data \d+; build the data with --tokenizer", named, data=encoders["ModernBert"][0])
    refused("a decoder, whose tokens", f"model.backbone={altered(encoder, tmp_path / 'decoder', is_decoder=True)}")
    refused("model.backbone_sha256", named, "model.backbone_sha256=0123")
    refused("with model.backbone the weights are the backbone's", named, f"init_from={encoder}")
    other = str(runs["XLMRoberta"][0])
    refused("a run of .*XLMRoberta.*, this one trains .*Bert", named, f"init_from={other}")
    assert not run.exists()
    refused("was started with another configuration: .*model.backbone", named, run=runs["Bert"][0])
    config = runs["Bert"][1] / "backbone" / "config.json"
    content = config.read_bytes()
    config.write_bytes(content + b" ")
    with pytest.raises(InputError, match=r"backbone/config.json: not what the run wrote there"):
        of_run(runs["Bert"][1])
    config.write_bytes(content)

"""What a run may start from, and what it then starts with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import XLMRobertaForMaskedLM

from ernie_m.base.console import InputError
from ernie_m.interop.export import export
from ernie_m.interop.layout import XLM_ROBERTA
from ernie_m.interop.source import open_source
from ernie_m.interop.start import check_start, start_from
from ernie_m.interop.weight_files import WeightFiles
from ernie_m.models.model import Encoder
from ernie_m.models.shape import ModelConfig
from ernie_m.runs.checkpoint_store import CheckpointStore
from ernie_m.runs.ranks import Voters
from ernie_m.runs.run_folder import RunFolder
from tests.fixtures.ernie_m_export import CONFIG as ERNIE_CONFIG
from tests.fixtures.ernie_m_export import export_random, random_encoder, train_tokenizer
from tests.interop_fixtures import LANGUAGES, SEED, TOLERANCE, as_batch, loaded, random_xlm_roberta, target_of

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "ernie_m"
CONFIG = ModelConfig(
    num_layers=2, hidden_size=16, num_heads=4, ffn_size=32, max_positions=20, vocab_size=66, num_languages=4, dropout=0.0
)
ALONE = Voters(0, 1)
HEAD = set(XLM_ROBERTA.head)
LANGUAGE = "embeddings.language.weight"


@pytest.fixture(scope="module")
def peer() -> XLMRobertaForMaskedLM:
    return random_xlm_roberta(CONFIG)


@pytest.fixture(scope="module")
def xlm_r(peer: XLMRobertaForMaskedLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As transformers saves it: one safetensors file."""
    folder = tmp_path_factory.mktemp("xlm_r")
    peer.save_pretrained(folder)
    return folder


def save_sharded(peer: XLMRobertaForMaskedLM, to: Path) -> None:
    peer.save_pretrained(to, max_shard_size="12KB")
    assert len(list(to.glob("model-*.safetensors"))) > 2
    assert not (to / "model.safetensors").exists()


def save_bin(peer: XLMRobertaForMaskedLM, to: Path, **options: bool) -> None:
    """With the tied output matrix and the buffers of early releases."""
    peer.config.save_pretrained(to)
    torch.save(
        peer.state_dict() | {"roberta.embeddings.position_ids": torch.arange(20)}, to / "pytorch_model.bin", **options
    )


def save_legacy_bin(peer: XLMRobertaForMaskedLM, to: Path) -> None:
    save_bin(peer, to, _use_new_zipfile_serialization=False)


def save_sharded_bin(peer: XLMRobertaForMaskedLM, to: Path) -> None:
    peer.config.save_pretrained(to)
    tensors = list(peer.state_dict().items())
    files = {"pytorch_model-1.bin": dict(tensors[:9]), "pytorch_model-2.bin": dict(tensors[9:])}
    for name, part in files.items():
        torch.save(part, to / name)
    index = {"weight_map": {name: file for file, part in files.items() for name in part}}
    (to / "pytorch_model.bin.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("save", [save_sharded, save_bin, save_legacy_bin, save_sharded_bin])
def test_the_same_weights_come_out_of_every_kind_of_file(
    save: Callable[[XLMRobertaForMaskedLM, Path], None], peer: XLMRobertaForMaskedLM, xlm_r: Path, tmp_path: Path
) -> None:
    save(peer, tmp_path)
    expected, _ = loaded(xlm_r, target_of(CONFIG))
    model, left = loaded(tmp_path, target_of(CONFIG))
    assert left == [LANGUAGE]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))
    query = peer.roberta.encoder.layer[1].attention.self.query.weight
    assert torch.equal(model.layers[1].qkv.weight[:16], query), "bit for bit what was stored"


def test_an_encoder_alone_leaves_the_head_as_the_seed_draws_it(
    peer: XLMRobertaForMaskedLM, xlm_r: Path, tmp_path: Path
) -> None:
    peer.roberta.save_pretrained(tmp_path)
    model, left = loaded(tmp_path, target_of(CONFIG))
    whole, _ = loaded(xlm_r, target_of(CONFIG))
    drawn = dict(Encoder(CONFIG).initialise(SEED).named_parameters())
    assert set(left) == HEAD | {LANGUAGE}
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, drawn[name] if name in left else dict(whole.named_parameters())[name]), name


def test_half_precision_files_start_a_model_in_fp32(peer: XLMRobertaForMaskedLM, xlm_r: Path, tmp_path: Path) -> None:
    shutil.copy(xlm_r / "config.json", tmp_path)
    tensors = {name: tensor.half() for name, tensor in load_file(xlm_r / "model.safetensors").items()}
    save_file(tensors, tmp_path / "model.safetensors")
    model, _ = loaded(tmp_path, target_of(CONFIG))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert torch.equal(model.embeddings.word.weight, tensors["roberta.embeddings.word_embeddings.weight"].float())


@pytest.mark.parametrize("files", ["theirs", "theirs_bin"])
def test_ERNIE_M_started_from_has_the_hidden_states_of_its_own_class(files: str) -> None:
    stored = load_file(FIXTURE / "outputs.safetensors")
    model, left = loaded(FIXTURE / files, target_of(CONFIG))
    drawn = dict(Encoder(CONFIG).initialise(SEED).named_parameters())
    assert set(left) == HEAD | {LANGUAGE}, "the released encoders have neither"
    assert all(torch.equal(parameter, drawn[name]) for name, parameter in model.named_parameters() if name in left)
    assert model.embeddings.language.weight.count_nonzero() == 0
    ids = stored["input_ids"]
    real = ids != 1
    assert real.sum(1).tolist() == [18, 11, 3], "the longest uses the last position, the others are padded"
    assert (ids == 65).any(), "a <mask>"
    with torch.no_grad():
        for layer in range(3):
            hidden = model.hidden_states(as_batch(ids), layer)[real]
            torch.testing.assert_close(hidden, stored[f"theirs.{layer}"][real], **TOLERANCE)
    assert stored["theirs.2"][real].std() > 0.3


def test_ERNIE_M_exported_again_is_its_own_file_but_for_the_pooler(tmp_path: Path) -> None:
    model, _ = loaded(FIXTURE / "theirs", target_of(CONFIG))
    export(model.state_dict(), CONFIG, train_tokenizer(tmp_path / "spm.model", 64), tmp_path, "ernie_m")
    released = torch.load(FIXTURE / "theirs_bin" / "pytorch_model.bin", weights_only=True)
    exported = load_file(tmp_path / "model.safetensors")
    assert set(released) - set(exported) == {"ernie_m.pooler.dense.weight", "ernie_m.pooler.dense.bias"}
    assert all(torch.equal(tensor, released[name]) for name, tensor in exported.items())
    theirs, ours = (json.loads((f / "config.json").read_text()) for f in (FIXTURE / "theirs", tmp_path))
    free = {"transformers_version", "dtype", "classifier_dropout", "bos_token_id", "eos_token_id"}
    dropped = {"hidden_dropout_prob", "attention_probs_dropout_prob"}  # the recipe's, here 0
    assert {key: theirs[key] for key in theirs.keys() - free - dropped} == {
        key: ours[key] for key in ours.keys() - free - dropped
    }


def test_our_export_computes_in_the_ERNIE_M_class_what_it_computes_here(tmp_path: Path) -> None:
    stored, model = load_file(FIXTURE / "outputs.safetensors"), random_encoder()
    ids = stored["input_ids"]
    masked, real = ids == 65, ids != 1
    with torch.no_grad():
        for layer in range(3):
            hidden = model.hidden_states(as_batch(ids, language=0), layer)[real]
            torch.testing.assert_close(hidden, stored[f"ours.{layer}"][real], **TOLERANCE)
        with_language = model.hidden_states(as_batch(ids, language=2), 2)
    rows = ~masked.any(1)
    assert torch.allclose(with_language[rows][real[rows]], stored["ours.2"][rows][real[rows]], **TOLERANCE)
    export_random(tmp_path)
    again, left = loaded(tmp_path, target_of(ERNIE_CONFIG, tmp_path / "sentencepiece.bpe.model"))
    weights = dict(model.named_parameters())
    assert set(left) == HEAD | {LANGUAGE}
    assert all(torch.equal(p, weights[name]) for name, p in again.named_parameters() if name not in left)


def a_run(folder: Path, model: Encoder, languages: tuple[str, ...], tokenizer_sha256: str) -> RunFolder:
    """A run folder with one checkpoint, of step 3."""
    run = RunFolder(folder)
    configuration = {
        "stages": [],
        "model": dict(vars(model.config)),
        "data_identity": {"folder": "gone", "tokenizer_sha256": tokenizer_sha256, "languages": list(languages)},
    }
    with run.locked():
        run.start(configuration, from_scratch=False)
    flat = {f"{name}@0:weight": parameter.data.view(-1) for name, parameter in model.named_parameters()}
    CheckpointStore(run.checkpoints, ALONE).save(3, flat, {})
    return run


@pytest.mark.parametrize("where", ["", "checkpoints/step_00000003"])
def test_a_run_of_ours_gives_all_its_weights_and_the_languages_that_both_have(where: str, tmp_path: Path) -> None:
    old = random_encoder()
    run = a_run(tmp_path / "run", old, ("en", "fr", "hi", "sw"), "abc")
    model, left = loaded(run.path / where, target_of(CONFIG, sha256="abc"))
    assert left == []
    weights = dict(old.named_parameters())
    for name, parameter in model.named_parameters():
        assert name == LANGUAGE or torch.equal(parameter, weights[name]), name
    assert LANGUAGES == ("de", "en", "fr", "sw")
    theirs, ours = old.embeddings.language.weight, model.embeddings.language.weight
    assert torch.equal(ours[2:], theirs[[1, 2, 4]])
    assert ours[1].count_nonzero() == 0, "de is new"
    with pytest.raises(InputError, match="was trained with another tokenizer than the data's"):
        loaded(run.path, target_of(CONFIG, sha256="abd"))
    state = next(run.checkpoints.glob("step_*/rank_*"))
    state.write_bytes(state.read_bytes()[:-1] + b"!")
    with pytest.raises(InputError, match=r"does not have the hash it was saved with; name an older checkpoint"):
        start_from(str(run.path / where), target_of(CONFIG, sha256="abc"), Encoder(CONFIG), ALONE)


def test_a_start_says_what_it_is_of_what_starts_anew_and_what_is_not_used() -> None:
    model = Encoder(CONFIG).initialise(SEED)
    started = start_from(str(FIXTURE / "theirs"), target_of(CONFIG), model, ALONE)
    assert started.sha256 == WeightFiles(FIXTURE / "theirs").sha256()
    assert set(started.fresh) == HEAD | {LANGUAGE}
    text = "\n".join(started.lines())
    assert f"theirs (ernie_m, SHA-256 {started.sha256[:12]}...)" in text
    assert "starts anew: language embeddings, at zero" in text
    assert "starts anew: the MLM head, its matrix drawn from the seed" in text
    assert "not used: pooler.dense.bias, pooler.dense.weight" in text
    assert "whether their ids are the data's is not known" in text


def test_the_digest_is_of_all_files(peer: XLMRobertaForMaskedLM, tmp_path: Path) -> None:
    save_sharded(peer, tmp_path)
    before, shards = WeightFiles(tmp_path).sha256(), sorted(tmp_path.glob("model-*"))
    assert WeightFiles(tmp_path).sha256() == before
    for shard in shards:
        content = shard.read_bytes()
        shard.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        assert WeightFiles(tmp_path).sha256() != before
        shard.write_bytes(content)


def set_config(key: str, value: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        content = {k: v for k, v in content.items() if k != key} | ({} if value is None else {key: value})
        (folder / "config.json").write_text(json.dumps(content))

    return change


def set_tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor] | None) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        tensor = tensors.pop(name, tensors.get("roberta.embeddings.word_embeddings.weight"))
        save_file(tensors | ({name: change(tensor)} if change else {}), folder / "model.safetensors")

    return do


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def pickled(content: object) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        torch.save(content, folder / "pytorch_model.bin")

    return do


def index_of(weight_map: dict[str, str]) -> Callable[[Path], None]:
    def do(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "shard.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return do


FIRST_LAYER = "roberta.encoder.layer.0"
BAD = {
    "no config": (lambda f: (f / "config.json").unlink(), "no config.json; expected a Hugging Face folder or a run"),
    "config no JSON": (lambda f: (f / "config.json").write_text("{"), r"config.json: not valid JSON"),
    "config a list": (lambda f: (f / "config.json").write_text("[]"), "expected a mapping of keys, found list"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no weights there; expected one of model.safetensors"),
    "pre-LN": (set_config("model_type", "xlm-roberta-xl"), r"'xlm-roberta-xl': its layer norms stand in front .*\(pre-LN\)"),
    "another class": (set_config("model_type", "bert"), "model_type 'bert': expected xlm-roberta or ernie_m"),
    "no model type": (set_config("model_type", None), "model_type None: expected xlm-roberta or ernie_m"),
    "no key": (set_config("intermediate_size", None), "no intermediate_size; expected the configuration of an xlm-roberta"),
    "activation": (set_config("hidden_act", "relu"), "hidden_act 'relu'; this encoder has 'gelu'"),
    "relative positions": (set_config("position_embedding_type", "relative_key"), "this encoder has 'absolute'"),
    "padding": (set_config("pad_token_id", 0), "pad_token_id 0; this encoder has 1"),
    "vocabulary": (set_config("vocab_size", 250002), "a vocabulary of 250,002, the data's tokenizer gives 66"),
    "layers": (
        set_config("num_hidden_layers", 3),
        "num_layers 3; the recipe has num_layers 2: set model.num_layers=3, or start",
    ),
    "positions": (set_config("max_position_embeddings", 514), "set model.max_positions=514"),
    "heads": (set_config("num_attention_heads", 8), "set model.num_heads=8"),
    "epsilon": (set_config("layer_norm_eps", 1e-12), "set model.layer_norm_eps=1e-12"),
    "a tensor gone": (
        set_tensor(f"{FIRST_LAYER}.attention.self.key.bias", None),
        r"layer.0.attention.self.key.bias is missing \(1 in all\)",
    ),
    "half a head": (set_tensor("lm_head.dense.weight", None), r"lm_head.dense.weight is missing"),
    "another shape": (
        set_tensor(f"{FIRST_LAYER}.output.dense.weight", lambda t: t[:, :-1].contiguous()),
        r"output.dense.weight has the shape \(16, 31\), expected \(16, 32\)",
    ),
    "not finite": (
        set_tensor(f"{FIRST_LAYER}.output.dense.bias", lambda t: t / 0),
        "output.dense.bias holds numbers that are not finite",
    ),
    "untied": (
        set_tensor("lm_head.decoder.weight", lambda t: t + 1),
        "lm_head.decoder.weight is not the word embedding; expected a checkpoint that ties them",
    ),
    "cut short": (cut, r"model.safetensors: not a whole safetensors file"),
    "a pickle of something else": (pickled([1, 2]), r"pytorch_model.bin: not a file of tensors by name \(a list\)"),
    "a pickle with code": (pickled({"a": Path("x")}), r"pytorch_model.bin: not a file of tensors by name"),
    "a shard gone": (
        index_of({"a": "shard.safetensors", "b": "other.safetensors"}),
        "other.safetensors, which .* is missing",
    ),
    "a shard lacks": (index_of({"a": "shard.safetensors"}), "shard.safetensors lacks a, which .* says is there"),
    "an index of elsewhere": (index_of({"a": "../x.safetensors"}), "its weight_map names no files beside it"),
    "an empty index": (index_of({}), "its weight_map names no files beside it"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_one_clear_line(name: str, xlm_r: Path, tmp_path: Path) -> None:
    harm, expected = BAD[name]
    shutil.copytree(xlm_r, tmp_path / "peer")
    harm(tmp_path / "peer")
    with pytest.raises(InputError, match=expected) as caught:
        start_from(str(tmp_path / "peer"), target_of(CONFIG), Encoder(CONFIG), ALONE)
    assert str(caught.value).startswith("init_from: ")
    assert str(tmp_path / "peer") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_that_is_nothing_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, expected in (
        (str(tmp_path / "nowhere"), "no such folder; expected"),
        ("./nowhere", "no such folder"),
        ("a/b/c", "no such folder"),
        (str(tmp_path / "file"), "a file; expected a Hugging Face folder"),
        ("no good id!", "neither a folder nor a hub id"),
    ):
        with pytest.raises(InputError, match=expected):
            open_source(name, target_of(CONFIG))


def test_a_run_does_not_start_from_what_lies_in_its_own_folder(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", random_encoder(), LANGUAGES, "abc")
    with pytest.raises(InputError, match="lies in the run's own folder"):
        check_start(str(run.path), target_of(CONFIG, sha256="abc"), run.path)
    check_start(str(run.path), target_of(CONFIG, sha256="abc"), tmp_path / "another")

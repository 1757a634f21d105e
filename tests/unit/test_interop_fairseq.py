"""XLM-R's model.pt of fairseq starts the same model as its Hugging Face folder; what is not one is refused in a line."""

from __future__ import annotations

import argparse
import re
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import XLMRobertaForMaskedLM

from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.base.special_tokens import PAD_ID
from ernie_m.corpus.vocabulary import Vocabulary
from ernie_m.interop.layout import XLM_ROBERTA
from ernie_m.interop.start import start_from
from ernie_m.models.model import Encoder
from ernie_m.models.shape import ModelConfig
from ernie_m.runs.ranks import Voters
from tests.fixtures.ernie_m_export import train_tokenizer
from tests.interop_fixtures import TOLERANCE, as_batch, loaded, random_xlm_roberta, rows_of_ids, target_of

CONFIG = ModelConfig(
    num_layers=3, hidden_size=16, num_heads=4, ffn_size=40, max_positions=20, vocab_size=66, num_languages=4, dropout=0.0
)
LANGUAGE = "embeddings.language.weight"
HEAD = tuple(XLM_ROBERTA.head)
NAMES = (  # Hugging Face -> fairseq as released in 2019; the first that fits
    (r"roberta\.embeddings\.word_embeddings\.", "decoder.sentence_encoder.embed_tokens."),
    (r"roberta\.embeddings\.position_embeddings\.", "decoder.sentence_encoder.embed_positions."),
    (r"roberta\.embeddings\.LayerNorm\.", "decoder.sentence_encoder.emb_layer_norm."),
    (
        r"roberta\.encoder\.layer\.(\d+)\.attention\.self\.(q|k|v)\w+\.",
        r"decoder.sentence_encoder.layers.\1.self_attn.\2_proj.",
    ),
    (
        r"roberta\.encoder\.layer\.(\d+)\.attention\.output\.dense\.",
        r"decoder.sentence_encoder.layers.\1.self_attn.out_proj.",
    ),
    (
        r"roberta\.encoder\.layer\.(\d+)\.attention\.output\.LayerNorm\.",
        r"decoder.sentence_encoder.layers.\1.self_attn_layer_norm.",
    ),
    (r"roberta\.encoder\.layer\.(\d+)\.intermediate\.dense\.", r"decoder.sentence_encoder.layers.\1.fc1."),
    (r"roberta\.encoder\.layer\.(\d+)\.output\.dense\.", r"decoder.sentence_encoder.layers.\1.fc2."),
    (r"roberta\.encoder\.layer\.(\d+)\.output\.LayerNorm\.", r"decoder.sentence_encoder.layers.\1.final_layer_norm."),
    (r"lm_head\.decoder\.weight", "decoder.lm_head.weight"),
    (r"lm_head\.(dense\.|layer_norm\.|bias)", r"decoder.lm_head.\1"),
)
ARGS = {"arch": "roberta_base", "task": "multilingual_masked_lm", "encoder_attention_heads": 4, "activation_fn": "gelu"}


def in_fairseq(peer: XLMRobertaForMaskedLM) -> OrderedDict[str, Tensor]:
    """Its weights under fairseq's names, without the token type, of which fairseq's class has none."""
    tensors = OrderedDict()
    for theirs, tensor in peer.state_dict().items():
        for pattern, replacement in NAMES:
            name, count = re.subn(f"^{pattern}", replacement, theirs)
            if count:
                tensors[name] = tensor.clone()
                break
        else:
            assert theirs.endswith("token_type_embeddings.weight") or theirs == "lm_head.decoder.bias", theirs
    return tensors


@pytest.fixture(scope="module")
def peer() -> XLMRobertaForMaskedLM:
    model = random_xlm_roberta(CONFIG)
    with torch.no_grad():
        model.roberta.embeddings.token_type_embeddings.weight.zero_()
    return model


@pytest.fixture(scope="module")
def released(peer: XLMRobertaForMaskedLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.pt as torch of 2019 wrote it, dict.txt and sentencepiece.bpe.model."""
    folder = tmp_path_factory.mktemp("xlmr.base")
    content = {
        "args": argparse.Namespace(**ARGS),
        "model": in_fairseq(peer),
        "optimizer_history": [{"criterion_name": "MaskedLmLoss", "num_updates": 7, "lr_scheduler_state": {"best": None}}],
        "extra_state": {"epoch": 1, "val_loss": 2.5},
    }
    torch.save(content, folder / "model.pt", _use_new_zipfile_serialization=False)
    write_dictionary(train_tokenizer(folder / "sentencepiece.bpe.model", CONFIG.vocab - 2), folder / "dict.txt")
    return folder


def write_dictionary(tokenizer: Path, to: Path) -> None:
    """All pieces but <unk> <s> </s>, with counts, as fairseq wants them."""
    pieces = [piece.piece for piece in Vocabulary(tokenizer).model_proto().pieces][3:]
    to.write_text("".join(f"{piece} 1\n" for piece in pieces), encoding="utf-8")


def target_with(folder: Path) -> Any:
    tokenizer = folder / "sentencepiece.bpe.model"
    return target_of(CONFIG, tokenizer, sha256_of(tokenizer))


def change(folder: Path, to: Path, **changes: Any) -> Path:
    """A copy of the folder with another content of model.pt; functions get what was there."""
    shutil.copytree(folder, to)
    with torch.serialization.safe_globals([argparse.Namespace]):
        content = torch.load(to / "model.pt", weights_only=True)
    for key, value in changes.items():
        content[key] = value(content.get(key)) if callable(value) else value
    torch.save(content, to / "model.pt")
    return to


@pytest.mark.parametrize("given", ["folder", "file"])
def test_weights_are_bitwise_those_of_the_peer_and_logits_agree(
    given: str, peer: XLMRobertaForMaskedLM, released: Path, tmp_path: Path
) -> None:
    model, left = loaded(released if given == "folder" else released / "model.pt", target_with(released))
    assert left == [LANGUAGE]
    peer.save_pretrained(tmp_path)
    twin, _ = loaded(tmp_path, target_of(CONFIG))
    assert len(dict(twin.named_parameters())) == 5 + 12 * 3 + 5
    for name, parameter in twin.named_parameters():
        assert torch.equal(dict(model.named_parameters())[name], parameter), name
    ids = rows_of_ids([18, 11, 3], CONFIG.vocab, with_masks=True)
    real = ids != PAD_ID
    with torch.no_grad():
        expected = peer(ids, attention_mask=real.long()).logits[real]
        logits = model.token_head.logits(model.hidden_states(as_batch(ids)))[real]
    torch.testing.assert_close(logits, expected, **TOLERANCE)
    assert expected.std() > 0.3


def fused(tensors: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """As fairseq stored them before September 2019."""
    old = OrderedDict((name, tensor) for name, tensor in tensors.items() if not re.search(r"[qkv]_proj", name))
    for layer in range(CONFIG.num_layers):
        at = f"decoder.sentence_encoder.layers.{layer}.self_attn"
        for kind in ("weight", "bias"):
            old[f"{at}.in_proj_{kind}"] = torch.cat([tensors[f"{at}.{part}_proj.{kind}"] for part in "qkv"])
    return old


def present(tensors: OrderedDict[str, Tensor]) -> OrderedDict[str, Tensor]:
    """As fairseq's present class names them."""
    return OrderedDict(
        (name.replace("decoder.", "encoder.", 1).replace("emb_layer_norm", "layernorm_embedding"), tensor)
        for name, tensor in tensors.items()
    )


LATER = {"args": None, "cfg": {"_name": None, "model": argparse.Namespace(**ARGS)}, "model": present}


@pytest.mark.parametrize(
    "changes",
    [
        {"model": fused},
        LATER,
        {**LATER, "cfg": {"model": dict(ARGS)}},
    ],
    ids=["fused projections", "cfg with a Namespace", "cfg of plain mappings"],
)
def test_older_and_later_releases_of_fairseq_give_the_same_model(
    changes: dict[str, Any], released: Path, tmp_path: Path
) -> None:
    expected, _ = loaded(released, target_with(released))
    folder = change(released, tmp_path / "other", **changes)
    model, left = loaded(folder, target_with(folder))
    assert left == [LANGUAGE]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), expected.parameters(), strict=True))


def without(pattern: str) -> Callable[[Any], Any]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if not re.search(pattern, name)}


def with_tensor(name: str, value: Callable[[Any], Tensor]) -> Callable[[Any], Any]:
    return lambda tensors: {**tensors, name: value(tensors.get(name))}


def test_an_encoder_without_a_head_starts_that_anew_and_more_than_it_takes_is_told(released: Path, tmp_path: Path) -> None:
    folder = change(released, tmp_path / "encoder", model=without("lm_head"))
    _, left = loaded(folder, target_with(folder))
    assert sorted(left) == sorted([LANGUAGE, *HEAD])
    tuned = with_tensor("classification_heads.mnli.dense.weight", lambda _: torch.zeros(2, 2))
    folder = change(released, tmp_path / "tuned", model=tuned)
    started = start_from(str(folder), target_with(folder), Encoder(CONFIG), Voters(0, 1))
    assert started.sha256 == sha256_of(folder / "model.pt")
    text = "\n".join(started.lines())
    assert "model.pt (xlm-roberta of fairseq, SHA-256" in text
    assert "dict.txt has the data's pieces" in text
    assert "not used: classification_heads.mnli.dense.weight" in text


def args_with(**changes: Any) -> Callable[[Any], argparse.Namespace]:
    return lambda old: argparse.Namespace(**{k: v for k, v in {**vars(old), **changes}.items() if v is not None})


BLOCK = "decoder.sentence_encoder"
BAD: dict[str, tuple[dict[str, Any], str]] = {
    "code": (
        {"extra_state": Path("x")},
        r"not a file of tensors by name \(it holds a \S*PosixPath, which is not unpickled\)",
    ),
    "a class of fairseq": (
        {"extra_state": re.compile("x")},
        r"it holds a re\.\S+, which is not unpickled",
    ),
    "no tensors": ({"model": None}, "no tensors under `model`; expected a checkpoint of fairseq's"),
    "no arguments": ({"args": None}, "neither `args` nor `cfg` with a model; expected a checkpoint of fairseq's"),
    "no number of heads": ({"args": args_with(encoder_attention_heads=None)}, "its args have no encoder_attention_heads"),
    "other heads": (
        {"args": args_with(encoder_attention_heads=2)},
        "num_heads 2; the recipe has num_heads 4: set model.num_h",
    ),
    "activation": (
        {"args": args_with(activation_fn="gelu_accurate")},
        "activation_fn 'gelu_accurate'; this encoder has 'gelu'",
    ),
    "no embedding": (
        {"model": without("embed_tokens")},
        r"no matrix encoder\.\w+\.embed_tokens\.weight; .* found e\.g\. encoder",
    ),
    "fewer layers": (
        {"model": without(r"layers\.2\.")},
        "num_layers 2; the recipe has num_layers 3: set model.num_layers=2",
    ),
    "a layer amid": ({"model": without(r"layers\.1\.")}, r"layers\.1\.\S+ is missing \(16 in all\)"),
    "half a projection": ({"model": without("k_proj.bias")}, r"layers\.0\.self_attn\.k_proj\.bias is missing \(3 in all\)"),
    "positions": (
        {"model": with_tensor(f"{BLOCK}.embed_positions.weight", lambda t: t[:-2])},
        "max_positions 18; the recipe has max_positions 20: set model.max_positions=18",
    ),
    "vocabulary": (
        {"model": with_tensor(f"{BLOCK}.embed_tokens.weight", lambda t: t[:-1])},
        "a vocabulary of 65, the data's tokenizer gives 66",
    ),
    "shape": (
        {"model": with_tensor(f"{BLOCK}.layers.1.fc2.weight", lambda t: t[:, :-1])},
        r"layers\.1\.fc2\.weight has the shape \(16, 39\), expected \(16, 40\)",
    ),
    "not finite": (
        {"model": with_tensor(f"{BLOCK}.layers.1.fc2.bias", lambda t: t / 0)},
        r"fc2\.bias holds numbers that are not finite",
    ),
    "untied": (
        {"model": with_tensor("decoder.lm_head.weight", lambda t: t + 1)},
        r"encoder\.lm_head\.weight is not the word emb",
    ),
    "pre-LN": (
        {"model": with_tensor(f"{BLOCK}.layer_norm.weight", lambda _: torch.ones(16))},
        r"its layer norms stand in front of each block \(pre-LN\)",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_one_clear_line(name: str, released: Path, tmp_path: Path) -> None:
    changes, expected = BAD[name]
    folder = change(released, tmp_path / "bad", **changes)
    assert_refused(folder, expected)


def assert_refused(folder: Path, expected: str) -> None:
    with pytest.raises(InputError, match=expected) as caught:
        start_from(str(folder), target_with(folder), Encoder(CONFIG), Voters(0, 1))
    assert str(caught.value).startswith("init_from: ")
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda lines: [lines[1], lines[0], *lines[2:]], r"dict\.txt: 2 of 61 ids mean other pieces: id 4 is "),
        (lambda lines: lines[:-1], r"dict\.txt: 60 pieces, the data's tokenizer .* has 61"),
        (lambda lines: [*lines, "<mask> 1"], r"dict\.txt: 62 pieces, the data's tokenizer .* has 61"),
        (
            lambda lines: [*lines[:4], "alone", *lines[5:]],
            r"dict\.txt, line 5: 'alone'; expected a piece, a space and a count",
        ),
    ],
)
def test_a_dictionary_in_another_order_or_form_is_refused(
    harm: Callable[[list[str]], list[str]], expected: str, released: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(released, tmp_path / "bad"))
    lines = (folder / "dict.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    (folder / "dict.txt").write_text("".join(f"{line}\n" for line in harm(lines)), encoding="utf-8")
    assert_refused(folder, expected)


def test_broken_files_are_refused(released: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(released, tmp_path / "bad"))
    content = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(content[: len(content) // 2])
    assert_refused(folder, r"model\.pt: not a file of tensors by name")
    (folder / "dict.txt").write_bytes(b"\xff\xfe 1\n")
    (folder / "model.pt").write_bytes(content)
    assert_refused(folder, r"dict\.txt: not UTF-8")

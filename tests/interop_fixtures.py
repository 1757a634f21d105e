"""What the tests of ernie_m/interop share: rows as both sides take them, random peers, loading as a run does."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from ernie_m.base.special_tokens import BOS_ID, EOS_ID, FIRST_PIECE_ID, PAD_ID, mask_id
from ernie_m.interop.export import hugging_face_config
from ernie_m.interop.source import open_source
from ernie_m.interop.start_weights import Target
from ernie_m.models.model import Encoder
from ernie_m.models.shape import ModelConfig
from ernie_m.rows.batch import NO_HORIZON, PackedBatch

SEED = 5
LANGUAGES = ("de", "en", "fr", "sw")
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


def rows_of_ids(lengths: list[int], vocab_size: int, with_masks: bool) -> Tensor:
    """One <s> x </s> a row, padded; ids int64 [B, S]."""
    rng = torch.Generator().manual_seed(0)
    ids = torch.full((len(lengths), max(lengths)), PAD_ID)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(FIRST_PIECE_ID, mask_id(vocab_size), (length,), generator=rng)
        ids[row, [0, length - 1]] = torch.tensor([BOS_ID, EOS_ID])
        if with_masks:
            ids[row, 2 : length - 1 : 4] = mask_id(vocab_size)
    return ids


def as_batch(ids: Tensor, language: int = 0) -> PackedBatch:
    """Our form of these rows: one document each, all read all."""
    real = ids != PAD_ID
    position = torch.where(real, torch.arange(ids.shape[1]) + 2, PAD_ID)
    zeros, none = torch.zeros_like(ids), torch.zeros(0, dtype=torch.long)
    horizon, document = torch.full_like(ids, NO_HORIZON), torch.where(real, 0, -1)
    language_BS = torch.where(real, language, 0)
    return PackedBatch(ids, position, language_BS, document, zeros, real.long(), horizon, none, none, none, none, None)


def random_xlm_roberta(config: ModelConfig, seed: int = 1) -> XLMRobertaForMaskedLM:
    """Random weights, none zero: biases, norms and the token type embedding too."""
    model = XLMRobertaForMaskedLM(XLMRobertaConfig(**hugging_face_config(config), type_vocab_size=1)).eval()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty(parameter.shape).normal_(0, 0.15, generator=rng)
            parameter.copy_(noise if parameter.dim() > 1 else parameter + noise)
    assert model.roberta.embeddings.token_type_embeddings.weight.abs().min() > 0
    return model


def target_of(config: ModelConfig, tokenizer: Path = Path("no_tokenizer"), sha256: str = "") -> Target:
    """A new run of that shape, of LANGUAGES."""
    return Target(config, LANGUAGES, tokenizer, sha256)


def loaded(folder: Path, target: Target) -> tuple[Encoder, list[str]]:
    """An encoder started from `folder` as a run is, and the parameters that it left as they were drawn."""
    model = Encoder(target.config).initialise(SEED).eval()
    return model, open_source(str(folder), target).fill_parameters(dict(model.named_parameters()))

"""Small random models of transformers' encoder classes, one a family, and the same documents for all of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoTokenizer

from ernie_m.base.special_tokens import BOS_ID, EOS_ID, PAD_ID
from ernie_m.models.backbones.encoder import ForeignEncoder
from ernie_m.models.head import Targets
from ernie_m.rows.batch import PackedBatch
from tests.tokenizer_fixtures import byte_level, metaspace, word_piece

VOCAB_SIZE = 101
SPECIAL = {"pad_token_id": PAD_ID, "bos_token_id": BOS_ID, "eos_token_id": EOS_ID, "cls_token_id": BOS_ID}
SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 130,
    **SPECIAL,
}
OF_DISTILBERT = {"hidden_size": "dim", "num_hidden_layers": "n_layers", "num_attention_heads": "n_heads",
                 "intermediate_size": "hidden_dim"}  # fmt: skip
WINDOW = 4
FAMILIES: dict[str, dict[str, Any]] = {
    "Bert": {},
    "XLMRoberta": {},
    "Roberta": {},
    "Camembert": {},
    "Ernie": {},
    "Electra": {"embedding_size": 24},
    "Albert": {"embedding_size": 24},
    "DistilBert": {},
    "XLMRobertaXL": {},
    "RobertaPreLayerNorm": {},
    "Data2VecText": {},
    "ModernBert": {"local_attention": 2 * WINDOW, "global_attn_every_n_layers": 3, "sep_token_id": EOS_ID},
    "EuroBert": {"num_key_value_heads": 2, "mask_token_id": VOCAB_SIZE - 1},
    "Gte": {},
    "NomicBert": {},
    "JinaEmbeddingsV3": {},
}
"""Each family's settings beside SHAPE."""


def random_model(family: str, suffix: str = "ForMaskedLM", seed: int = 0, scale: float = 0.2, **shape: Any) -> Any:
    """A model of transformers in evaluation mode, its weights normal(0, scale), biases too, and norms around 1."""
    content = {**SHAPE, **FAMILIES.get(family, {}), **shape}
    if family == "DistilBert":
        content = {OF_DISTILBERT.get(name, name): value for name, value in content.items()}
    with torch.random.fork_rng():
        model = getattr(transformers, family + suffix)(getattr(transformers, f"{family}Config")(**content)).eval()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.empty(parameter.shape).normal_(0, scale, generator=rng)
            is_norm = parameter.dim() == 1 and bool((parameter == 1).all())
            parameter.copy_(1 + noise if is_norm else noise)
    return model


def backbone_of(model: Any, **settings: Any) -> ForeignEncoder:
    """A copy of the model as a backbone in evaluation mode."""
    return ForeignEncoder(copy.deepcopy(model), **settings).eval()


def targets_of(batch: PackedBatch[Tensor]) -> Targets:
    """What the head of masked words is asked, where there are no others."""
    return Targets(batch.predicted_N, batch.labels_N, batch.input_ids_BS.shape[1])


def own_states(model: Any, ids: Tensor) -> tuple[Tensor, ...]:
    """What the class itself makes of one text [L], behind its embeddings and each layer: [L, D] each."""
    with torch.no_grad():
        output = model.base_model(ids[None], attention_mask=torch.ones_like(ids)[None], output_hidden_states=True)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    return tuple(hidden[0] for hidden in output.hidden_states)


TOKENIZERS = {
    "Bert": word_piece,
    "XLMRoberta": metaspace,
    "ModernBert": byte_level,
    "EuroBert": byte_level,
    "Gte": metaspace,
}
"""Each as its family has it: ids of special tokens are SHAPE's but for BERT's."""


def saved_encoder(folder: Path, family: str, lines: Sequence[str], suffix: str = "Model", **shape: Any) -> Path:
    """A Hugging Face folder of a small random model, its tokenizer learnt from `lines`."""
    TOKENIZERS[family](lines, folder, 1500)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    roles = {"pad": tokenizer.pad_token_id, "bos": tokenizer.cls_token_id, "eos": tokenizer.sep_token_id}
    special = {f"{role}_token_id": number for role, number in (roles | {"cls": roles["bos"], "sep": roles["eos"]}).items()}
    sizes = {"vocab_size": len(tokenizer), "num_hidden_layers": 2, "max_position_embeddings": 132}
    random_model(family, suffix, scale=0.15, **special, **sizes, **shape).save_pretrained(folder)
    return folder

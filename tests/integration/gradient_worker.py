"""Run by two ranks: gradients of a DeepSpeed step for ZeRO 0-3 and accumulation 1 and 2, against plain PyTorch.

Arguments: pairs of a data folder and one of OURS or a Hugging Face folder to be trained, then the file to write.

The reference knows nothing of packing into micro-batches, ranks, chunked heads or scales: one process, all rows of the
global step in one batch, full logits, torch's cross entropy, and the loss's formula as it is written down.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ernie_m.corpus.folder import CorpusFolder
from ernie_m.interop.build_model import architecture_of
from ernie_m.interop.start_weights import Target
from ernie_m.models.loss import loss_scales
from ernie_m.models.pretraining import PretrainingModel
from ernie_m.models.pseudo_parallel import fill_placeholders
from ernie_m.models.shape import BackboneConfig, ModelConfig
from ernie_m.models.translation import model_of
from ernie_m.rows.batch import LossRequest, PackedBatch
from ernie_m.rows.dataloader import DataConfig, PretrainingData, to_device
from ernie_m.rows.objectives import LOSS_INDEX
from ernie_m.rows.schedule import Schedule, StageConfig
from ernie_m.runs.ranks import Ranks, Voters
from ernie_m.training.engine import BatchConfig, Engine, EngineConfig, OptimizerConfig, start_ranks

ROWS = 8
OBJECTIVES = ("MMLM", "TLM", "CAMLM", "BTMLM", "XLCO", "PLM", "AlignLM")
LEARNING_RATE, CLIPPING = 1e-4, 1e-4  # so small that Adam's epsilon feels the clipping
SMALL = 0.05
"""Of the whole gradient's norm, for encoders of transformers: a parameter whose own is smaller is compared with that. Random
ones make first states of all sentences alike, and cosines of these round much."""
WEIGHTS = {"MMLM": 1.0, "TLM": 0.5, "CAMLM": 2.0, "BTMLM": 1.5, "XLCO": 0.7, "PLM": 0.8, "MT": 1.2, "AlignLM": 0.9,
           "AlignLM_bilingual": 0.6, "AE": 0.4, "BT": 1.1}  # fmt: skip
OURS = ("encoder", "translation")


def reference(model: PretrainingModel, data: PretrainingData) -> dict[str, torch.Tensor]:
    """Gradients by the formula: sum over objectives of weight * mean nll over all its predicted tokens of the step."""
    (batch,) = (to_device(b, torch.device("cpu")) for b in data.step(0, 0, 1, ROWS))
    batch = fill_placeholders(model, batch)
    hidden = model.hidden_states(batch).flatten(0, 1)
    logits = model.token_head.logits(hidden)[batch.predicted_N.long()]
    loss = torch.zeros(())
    for name, weight in WEIGHTS.items():
        chosen = batch.loss_N == LOSS_INDEX[name]
        if not chosen.any():
            continue
        if name == "XLCO":
            loss = loss + weight * translations_missed(model, hidden, batch.predicted_N[chosen], batch.labels_N[chosen])
        elif name == "AlignLM_bilingual":
            loss = loss + weight * linked_missed(model, hidden, batch, chosen)
        else:
            loss = loss + weight * F.cross_entropy(logits[chosen], batch.labels_N.long()[chosen])
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def linked_missed(model: PretrainingModel, hidden: torch.Tensor, batch: PackedBatch, chosen: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of tokens from the summed states of their links, by a matrix of zeros and ones."""
    head, counts = model.heads["aligned"], batch.sources.counts_N.tolist()
    links, places = torch.zeros(len(counts), len(hidden)), batch.sources.positions_P.tolist()
    for number, count in enumerate(counts):
        for place in places[:count]:
            links[number, place] += 1
        places = places[count:]
    logits = head.logits(head.transfer(links[chosen] @ hidden))
    return F.cross_entropy(logits, batch.labels_N.long()[chosen])


def translations_missed(
    model: PretrainingModel, hidden: torch.Tensor, positions: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Mean cross entropy of each sentence's translation among the other sentences of its row, one after the other."""
    head = model.heads["sentence"]
    states, places = F.normalize(head.projection(hidden[positions.long()]), dim=-1), positions.tolist()
    found = []
    for i, place in enumerate(places):
        others = [j for j, other in enumerate(places) if j != i and other // 128 == place // 128]
        scores = states[others] @ states[i] / head.TEMPERATURE
        partner = others.index(places.index(place + int(labels[i])))
        found.append(F.cross_entropy(scores[None], torch.tensor([partner])))
    return torch.stack(found).mean()


def updated(model: PretrainingModel, gradients: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    """Norm of the gradients; the weights behind one step of torch's AdamW on the clipped gradients."""
    parameters = dict(model.named_parameters())
    for name, parameter in parameters.items():
        parameter.grad = gradients[name].clone()
    norm = torch.nn.utils.clip_grad_norm_(parameters.values(), CLIPPING)
    groups = [{"params": [p], "weight_decay": 0.01 * (p.dim() >= 2)} for p in parameters.values()]
    torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98), eps=1e-6, foreach=False).step()
    return float(norm), {name: parameter.detach() for name, parameter in parameters.items()}


def main(pairs: Sequence[tuple[Path, str]], output: Path) -> None:
    ranks = start_ranks()
    found = [compared(ranks, folder, encoder) for folder, encoder in pairs]
    if ranks.is_first:
        output.write_text(json.dumps(found))
    ranks.close()


def maker(encoder: str, corpus: CorpusFolder) -> Callable[[], PretrainingModel]:
    """What makes the same model again and again."""
    manifest = corpus.manifest
    if encoder in OURS:
        translates = encoder == "translation"
        config = ModelConfig(num_layers=2, hidden_size=64, num_heads=4, ffn_size=128, dropout=0.0, initializer_range=0.1,
                             heads=("token",) if translates else ("token", "sentence", "aligned"),
                             decoder="separate" if translates else None)  # fmt: skip
        config = config.resolved(manifest.vocab_size, len(manifest.languages))
        return lambda: model_of(config).initialise(0)
    section = BackboneConfig(backbone=encoder, dropout=0.0, heads=("token", "sentence", "aligned"))
    architecture = architecture_of(section, manifest.specials, len(manifest.languages))
    target = Target.of(architecture.config, corpus.folder, manifest)
    return lambda: architecture.step_zero(0, target, Voters(0, 1)).model


def compared(ranks: Ranks, folder: Path, encoder: str) -> dict[str, Any]:
    """One model: for each ZeRO stage and accumulation how far gradients, their norm and the update are off."""
    corpus = CorpusFolder(folder)
    made, translates = maker(encoder, corpus), encoder == "translation"
    stage = StageConfig(steps=1, rows={"MT": 3, "AE": 4, "BT": 1} if translates else dict.fromkeys(OBJECTIVES, 1))
    data = PretrainingData(corpus, DataConfig(sequence_length=128), Schedule((stage,), ROWS), seed=3)
    expected = reference(made(), data)
    norm, new_weights = updated(made(), expected)
    num_metrics, small = len(data.metrics), 1e-12 if encoder in OURS else SMALL
    weights_O = torch.tensor([WEIGHTS.get(name, 1.0) for name in LOSS_INDEX])
    results = []
    for zero_stage in (0, 1, 2, 3):
        for accumulation_steps in (1, 2) if encoder == OURS[0] else (2,):
            batch_config = BatchConfig(rows_per_step=ROWS, micro_batch_rows=ROWS // 2 // accumulation_steps)
            engine = Engine(
                made(),
                ranks,
                Path(__file__).resolve().parents[2] / "ds_configs",
                EngineConfig(zero_stage=zero_stage, precision="fp32"),
                OptimizerConfig(gradient_clipping=CLIPPING),
                batch_config,
            )
            batches = data.step(0, ranks.rank, ranks.world_size, batch_config.micro_batch_rows)
            counts = torch.tensor([float((b.loss_N == o).sum()) for b in batches for o in range(len(LOSS_INDEX))])
            mine_O = counts.view(len(batches), -1).sum(0)
            scales_L = loss_scales(weights_O, ranks.sum(mine_O.clone()), ranks.world_size, engine.accumulation_steps)
            gradients = {}
            for number, batch in enumerate(batches):
                filled = fill_placeholders(engine.module, to_device(batch, ranks.device), ranks.all_agree)
                engine.forward_backward(filled, LossRequest(scales_L, num_metrics))
                if number == len(batches) - 1:
                    gradients = engine.full_gradients()
                engine.update(LEARNING_RATE)
            errors = {
                name: float((gradients[name] - expected[name]).norm()) / max(float(expected[name].norm()), small * norm)
                for name in expected
            }
            moved = {name: p.detach() for name, p in engine.module.named_parameters()} if zero_stage < 3 else new_weights
            results.append(
                {
                    "zero_stage": zero_stage,
                    "accumulation_steps": accumulation_steps,
                    "predicted_on_rank_0": mine_O.tolist(),
                    "worst": max(errors.values()),
                    "worst_parameter": max(errors, key=errors.__getitem__),
                    "num_parameters": len(errors),
                    "norm": engine.gradient_norm / norm,
                    # The root of the mean square: a single weight whose gradient is mere rounding may go either way.
                    "update": max(float((moved[n] - new_weights[n]).square().mean().sqrt()) for n in moved) / LEARNING_RATE,
                }
            )
    counts_by_rank = ranks.sum(mine_O.clone()) - mine_O
    return {"results": results, "predicted_elsewhere": counts_by_rank.tolist()}


if __name__ == "__main__":
    *pairs, output = [argument for argument in sys.argv[1:] if not argument.startswith("--local_rank")]
    main([(Path(folder), encoder) for folder, encoder in zip(pairs[::2], pairs[1::2], strict=True)], Path(output))

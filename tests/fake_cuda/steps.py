"""Whole training steps on a CUDA device that is not there, as the trainer makes them: run by test_steps.py.

    python -m tests.fake_cuda.steps CASES.json RESULTS.json

A case is {"model", "precision", "stage", "checkpointing", "rows_at_a_time", "mutation", "objectives"}; its result says what
each objective's step waited for, and a resumed one, or the error that it ended with.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.fake_cuda.device import ROOT, place, pretend, watched

SHAPE = {"num_layers": 2, "hidden_size": 64, "num_heads": 4, "ffn_size": 128, "max_positions": 130, "attention": "sdpa"}
ROWS, LENGTH, UPDATES = 18, 128, 5
OWN, DECODERS = "encoder", ("separate", "shared")
"""Models: our own encoder, ours with one of these decoders, or a class of transformers."""
OF_TRANSFORMERS = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": LENGTH + 2,
    "pad_token_id": 1,
}


def main(cases_file: Path, results_file: Path) -> None:
    job = json.loads(cases_file.read_text(encoding="utf-8"))
    pretend(job["library"], (8, 0))
    os.environ.update(DS_ACCELERATOR="cuda", LOCAL_RANK="0", RANK="0", WORLD_SIZE="1")
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=1, store=FakeStore())
    saved = {}
    for kind in {case["model"]: None for case in job["cases"]}:
        saved[kind] = results_file.parent / f"saved_{kind}"
        saved[kind].mkdir()
        save_state(saved[kind], kind)
    results = []
    for case in job["cases"]:
        try:
            results.append({"steps": run(case, Path(job["corpus"]), saved[case["model"]])})
        except Exception as error:
            words = f"{type(error).__name__} at {place(traceback.extract_tb(error.__traceback__))}: {error}"
            results.append({"error": words.splitlines()[0][:300]})
    results_file.write_text(json.dumps(results), encoding="utf-8")


def config_of(case: dict[str, Any]) -> Any:
    """A recipe whose step i is of the case's objective i alone."""
    from ernie_m.base.config import build
    from ernie_m.rows.objectives import MT
    from ernie_m.training.recipe import TrainingConfig

    decoder = {"decoder": case["model"]} if case["model"] in DECODERS else {}
    shape = SHAPE | decoder | {"language_embedding": "all" if decoder or MT.name in case["objectives"] else "masked"}
    shape |= {"vocab_size": 30_000, "num_languages": 4, "activation_checkpointing": case["checkpointing"]}
    return build(
        TrainingConfig,
        {
            "stages": [{"steps": 1, "rows": {name: 1}} for name in case["objectives"]],
            "model": shape,
            "data": {"sequence_length": LENGTH},
            "batch": {"rows_per_step": ROWS, "micro_batch_rows": case["rows_at_a_time"]},
            "engine": {"precision": case["precision"], "zero_stage": case["stage"]},
            "output": {"peak_tflops": 1.0, "evaluate_every": 0},
        },
        "the test",
    )


def model_of(kind: str, config: Any, device: Any) -> Any:
    """The recipe's model, made there; with numbers on the CPU alone."""
    from ernie_m.models.model import Encoder
    from ernie_m.models.translation import TranslationModel

    if kind == OWN or kind in DECODERS:
        return (Encoder if kind == OWN else TranslationModel)(config.shape, device).initialise(config.seed)
    import transformers

    from ernie_m.models.backbones import encoder
    from ernie_m.models.backbones.rule import NAME

    if device.type == "cuda":  # there are no numbers to try its attention with, as on the meta device
        _replaced(encoder, "check_rule_is_carried", lambda tried, _: tried.whole.set_attn_implementation(NAME))
    special = {"vocab_size": config.shape.vocab_size, "bos_token_id": 0, "eos_token_id": 2}
    settings = getattr(transformers, f"{kind}Config")(**OF_TRANSFORMERS, **special)
    whole = getattr(transformers, f"{kind}ForMaskedLM")(settings)
    how = {"attention_dropout": 0.0, "activation_checkpointing": config.shape.activation_checkpointing}
    return encoder.ForeignEncoder(whole, "sdpa", device, heads=config.shape.head_names, **how)


def save_state(folder: Path, kind: str) -> None:
    """What a checkpoint holds of such a model after UPDATES updates, made on the CPU."""
    import torch

    from ernie_m.rows.objective import WRITTEN
    from ernie_m.rows.objectives import OBJECTIVES
    from ernie_m.runs.fragments import create_moments, fragments_of, replicated_parts, write_tensors

    fitting = [name for name, of in OBJECTIVES.items() if (of.halves if kind in DECODERS else of.source != WRITTEN)]
    case = {"model": kind, "precision": "fp32", "stage": 0, "checkpointing": False, "rows_at_a_time": ROWS}
    model = model_of(kind, config_of(case | {"objectives": fitting}), torch.device("cpu"))
    optimizer = torch.optim.AdamW(model.parameters())
    create_moments(optimizer, UPDATES)
    fragments = fragments_of(replicated_parts(model, 0, 1), optimizer)
    write_tensors(folder / "rank_0.safetensors", dict(pair for f in fragments for pair in f.tensors()))


def run(case: dict[str, Any], corpus: Path, saved: Path) -> dict[str, dict[str, int]]:
    """{objective, or "<the first>, resumed": {what the host waited for: times}}; raises what the step raises.

    A resumed engine holds other moments, whatever the objective.
    """
    import numpy as np
    from torch._subclasses.fake_tensor import FakeTensorMode

    from ernie_m.corpus.folder import CorpusFolder
    from ernie_m.rows import dataloader
    from ernie_m.rows.dataloader import PretrainingData
    from ernie_m.rows.schedule import Schedule
    from ernie_m.runs.fragments import FragmentReader
    from ernie_m.runs.ranks import Ranks
    from ernie_m.runs.skip_steps import SkipSteps
    from ernie_m.training.engine import Engine
    from ernie_m.training.training_loop import RunServices, TrainingLoop

    class Reader(FragmentReader):
        def read(self, name: str, kind: str, start: int, out: Any) -> None:
            self.numel(name)
            out.zero_()  # safetensors reads no FakeTensors, and they hold no numbers

    # The corpus of random ids has no pieces: every other id begins a word.
    _replaced(dataloader, "open_vocabulary", lambda _: None)
    _replaced(dataloader, "begins_any_word", lambda _: np.arange(config.model.vocab_size) % 2 == 0)
    # What the host reads of a tensor without numbers is nought, so no translation would ever be begun: three steps of each.
    ended = itertools.cycle([False, False, False, True])
    _replaced(Ranks, "all_agree", lambda _, __: next(ended))
    config, ranks, found = config_of(case), Ranks(), {}
    data = PretrainingData(CorpusFolder(corpus), config.data, Schedule(config.stages, ROWS), config.seed)
    quiet: Any = SimpleNamespace(progress=lambda *_, **__: None, request=lambda: None)
    services = RunServices(ranks, quiet, quiet, quiet, None, SkipSteps.of([]), False)
    undo = MUTATIONS[case["mutation"]]() if case["mutation"] else lambda: None
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), watched() as waiting:
            for is_resumed in (False, True):
                with ranks.device:
                    model = model_of(case["model"], config, ranks.device)
                engine = Engine(model, ranks, ROOT / "ds_configs", config.engine, config.optimizer, config.batch)
                if is_resumed:
                    scaler = engine.counters()["loss_scaler"]
                    engine.restore(Reader(saved), {"updates": UPDATES, "loss_scaler": scaler})
                loop = TrainingLoop(config, data, engine, services)
                for step, name in enumerate(case["objectives"][: 1 if is_resumed else None]):
                    waiting.found.clear()
                    record = loop._step(step, loop._batches_of(step) or [])
                    assert record.nll_M.is_cuda
                    assert all(f.moments and f.weight.is_cuda for f in engine.fragments()), "no update was made"
                    found[name + ", resumed" * is_resumed] = dict(waiting.found)
    finally:
        undo()
    return found


def _replaced(module: Any, name: str, replacement: Callable[..., Any]) -> Callable[[], None]:
    before = getattr(module, name)
    setattr(module, name, replacement)
    return lambda: setattr(module, name, before)


def a_tensor_on_the_cpu() -> Callable[[], None]:
    """The sums of a micro-batch begin with zeros made without a device."""
    import torch

    from ernie_m.models import pretraining

    def sums(nll_N: Any, metric_N: Any, num_metrics: int) -> Any:
        return torch.zeros(num_metrics, dtype=torch.float64).index_add(0, metric_N.long(), nll_N.detach().double())

    return _replaced(pretraining, "metric_sums", sums)


def adams_count_on_the_cpu() -> Callable[[], None]:
    """What the optimizer counts its updates with is made without a device."""
    from ernie_m.training import engine

    made = engine.create_moments

    def create(adam: Any, num_updates: int, masters: Any = None) -> None:
        made(adam, num_updates, masters)
        for state in adam.state.values():
            state["step"] = state["step"].cpu()

    return _replaced(engine, "create_moments", create)


def a_number_read_by_the_host() -> Callable[[], None]:
    """The loss is looked at in every micro-batch."""
    from ernie_m.models import pretraining

    weighted = pretraining.weighted_loss

    def loss(*args: Any) -> Any:
        value = weighted(*args)
        return value if value.item() >= 0 else -value

    return _replaced(pretraining, "weighted_loss", loss)


def a_number_sent_while_the_host_waits() -> Callable[[], None]:
    """The weights of the losses go to the device by a plain copy, for which the host waits, and so for all before it."""
    from ernie_m.training import training_loop

    return _replaced(training_loop, "sent", lambda tensor, device: tensor.to(device))


MUTATIONS = {
    mutation.__name__: mutation
    for mutation in (
        a_tensor_on_the_cpu,
        adams_count_on_the_cpu,
        a_number_read_by_the_host,
        a_number_sent_while_the_host_waits,
    )
}

if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))

"""The whole training step on CUDA, without one: no two devices mix, and the host waits where it is known to alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from ernie_m.corpus.folder import CorpusFolder
from ernie_m.rows.objective import WRITTEN
from ernie_m.rows.objectives import OBJECTIVES

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).with_name("cuda_device.cpp")
ALLOWED = {  # once an update: whether there is something to clip, or to skip
    "_local_scalar_dense at ernie_m/training/engine.py:_clip",
    "_local_scalar_dense at deepspeed/runtime/zero/stage_1_and_2.py:has_overflow",
    "_local_scalar_dense at deepspeed/runtime/utils.py:is_invalid_grad_norm",  # of each group, and of both
    "_to_copy at deepspeed/runtime/utils.py:mask_nan_or_inf_with_val_inplace",  # behind those
}
WRITING = "_local_scalar_dense at ernie_m/models/decoding.py:written"
"""Back-translation waits at each token that it writes: whether all sentences have ended."""
ONE_STACK = [name for name, objective in OBJECTIVES.items() if objective.source != WRITTEN]
TWO_STACKS = [name for name, objective in OBJECTIVES.items() if objective.halves]
ROWS_AT_A_TIME = 9
GOOD = [
    {"model": model, "precision": precision, "stage": stage, "checkpointing": checkpointing, "objectives": objectives}
    | {"mutation": None, "rows_at_a_time": rows_at_a_time}
    for model, precision, stage, checkpointing, objectives, rows_at_a_time in (
        # A step of each objective in both precisions and both ways of keeping activations; the other two crossings where the
        # model also writes.
        ("encoder", "fp32", 0, False, ["CAMLM", "BTMLM"], ROWS_AT_A_TIME),
        ("encoder", "fp16", 1, False, ONE_STACK, ROWS_AT_A_TIME),
        ("encoder", "bf16", 1, True, ONE_STACK, ROWS_AT_A_TIME),
        ("separate", "fp16", 1, True, TWO_STACKS, ROWS_AT_A_TIME),
        ("separate", "bf16", 1, False, TWO_STACKS, ROWS_AT_A_TIME),
        ("shared", "bf16", 1, True, ["MT", "BT"], ROWS_AT_A_TIME),
        # Encoders of transformers, one with windows.
        ("XLMRoberta", "fp16", 1, True, ["CAMLM", "BTMLM", "AlignLM"], ROWS_AT_A_TIME),
        ("ModernBert", "bf16", 1, False, ["MMLM", "XLCO", "BTMLM"], ROWS_AT_A_TIME),
        # So many micro-batches that gradients are summed in fp32, by us and by DeepSpeed.
        ("encoder", "bf16", 1, False, ["CAMLM"], 2),
        ("encoder", "bf16", 2, False, ["CAMLM"], 2),
    )
]
BROKEN = {
    "a_tensor_on_the_cpu": "expected to be in the same device",
    "adams_count_on_the_cpu": "a fused optimizer step on",
    "a_number_read_by_the_host": "_local_scalar_dense at",
    "a_number_sent_while_the_host_waits": "_to_copy at ernie_m/training/training_loop.py",
}
pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is really there; tests/gpu has the real thing"),
    pytest.mark.skipif(
        not torch.cuda.is_available() and bool(torch.version.cuda or torch.version.hip),
        reason="this build of torch has a CUDA device of its own, which no other replaces; builds for the CPU have none",
    ),
    pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler (g++) here"),
]


@pytest.fixture(scope="module")
def results(corpus_folder: CorpusFolder, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """What came of each case: one process, since a device is registered for a process's life."""
    folder = tmp_path_factory.mktemp("fake_cuda")
    library, spec = folder / "cuda_device.so", find_spec("torch")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    torch_folder = spec.submodule_search_locations[0]
    build = ["g++", "-std=c++20", "-fPIC", "-shared", f"-I{torch_folder}/include", SOURCE, "-o", library]
    build += [f"-L{torch_folder}/lib", "-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch_folder}/lib"]
    build.append(f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}")
    subprocess.run(list(map(str, build)), check=True, timeout=120)
    cases = [*GOOD, *({**GOOD[1], "mutation": name, "objectives": ["MMLM"]} for name in BROKEN)]
    job = {"library": str(library), "corpus": str(corpus_folder.folder), "cases": cases}
    (folder / "cases.json").write_text(json.dumps(job), encoding="utf-8")
    command = [sys.executable, "-m", "tests.fake_cuda.steps", folder / "cases.json", folder / "results.json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    return {"good": found[: len(GOOD)], "broken": found[len(GOOD) :]}


@pytest.mark.parametrize("number", range(len(GOOD)))
def test_a_step_of_each_objective_stays_on_its_device_and_waits_for_it_where_it_must(
    number: int, results: dict[str, list[Any]]
) -> None:
    case, found = GOOD[number], results["good"][number]
    assert "error" not in found, found
    assert set(found["steps"]) == {*case["objectives"], f"{case['objectives'][0]}, resumed"}
    for name, waits in found["steps"].items():
        how = f"{case['model']}, {case['precision']}, ZeRO {case['stage']}, checkpointing {case['checkpointing']}"
        print(f"{how}, micro-batches of {case['rows_at_a_time']} rows, {name}: {waits}")
        assert set(waits) - {WRITING} <= ALLOWED
        assert sum(waits.values()) - waits.get(WRITING, 0) <= 6
        assert (WRITING in waits) == (name.partition(",")[0] == "BT"), "the generation runs in BT's step, and nowhere else"


@pytest.mark.parametrize("number", range(len(BROKEN)))
def test_what_is_broken_on_purpose_is_caught(number: int, results: dict[str, list[Any]]) -> None:
    name, found = list(BROKEN)[number], results["broken"][number]
    waits = {wait for step in found.get("steps", {}).values() for wait in step} - ALLOWED
    assert BROKEN[name] in found.get("error", str(waits)), found

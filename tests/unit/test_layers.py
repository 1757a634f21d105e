"""Imports point down: DESIGN section 3, enforced on the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LAYERS = (
    {
        "config",
        "ranges",
        "console",
        "command_line",
        "table",
        "hostfile",
        "launchers",
        "rank_facts",
        "network",
        "gpu_build",
        "files",
        "special_tokens",
        "batch",
        "host_memory",
        "interruption",
        "skip_steps",
        "run_files",
    },
    {
        "attention_rule",
        "job_defaults",
        "corruption",
        "vocabulary",
        "corpus",
        "manifest",
        "shard_table",
        "sampling",
        "unknown_pieces",
    }
    | {"word_cache", "word_table", "word_independence", "segmentation_gap"},
    {"objectives", "packing", "attention", "block_mask", "loss", "tied_gradient", "gelu_linear", "layer_norm", "row_pieces"}
    | {"gradient_exchange", "read_pairs", "window_plan"},
    {"row_source", "dataloader", "model", "pseudo_parallel"},
    {
        "ranks",
        "meeting",
        "engine",
        "deepspeed_adapter",
        "fragments",
        "checkpoint",
        "checkpoint_store",
        "host_copy",
        "probe",
        "metrics",
        "evaluation",
        "divergence",
    }
    | {"tracking", "heartbeat", "watchdog"},
    {
        "run_folder",
        "run_data",
        "recipe",
        "journal",
        "utilization",
        "training_loop",
        "trainer",
        "supervision",
        "hosts",
        "interop",
        "ablation",
        "show",
        "downstream",
    }
    | {"planning"},
)
LAYER = {module: number for number, modules in enumerate(LAYERS) for module in modules}
TORCH_FREE = LAYERS[0] | LAYERS[1] | {"objectives", "packing", "row_source", "read_pairs", "window_plan"}


def imports_of(path: Path) -> set[str]:
    """Dotted names that a file imports, wherever in it; `from a import b` counts as a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def ours(names: set[str]) -> set[str]:
    """The modules (or packages) of ernie_m among these names; the package itself holds only its version."""
    parts = {tuple(name.split(".")) for name in names}
    return {p[1] for p in parts if p[0] == "ernie_m" and len(p) > 1} - {"__version__"}


def tops(names: set[str]) -> set[str]:
    return {name.split(".")[0] for name in names}


MODULES: dict[str, set[str]] = {}
for file in sorted((ROOT / "ernie_m").rglob("*.py")):
    top = file.relative_to(ROOT / "ernie_m").with_suffix("").parts[0]
    if top != "__init__":
        MODULES[top] = MODULES.get(top, set()) | imports_of(file)


def test_every_module_has_a_layer() -> None:
    assert MODULES.keys() >= set().union(*LAYERS[:5]), "a module named here is gone"
    assert set(MODULES) <= set(LAYER), "a new module needs a layer, here and in the design"


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_point_down(module: str) -> None:
    for imported in ours(MODULES[module]):
        assert LAYER[imported] <= LAYER[module], f"{module} (L{LAYER[module]}) imports {imported} (L{LAYER[imported]})"
    assert not tops(MODULES[module]) & {"data_prep", "launcher", "tests", "benchmarks"}


def test_there_are_no_cycles() -> None:
    order = list(TopologicalSorter({module: ours(names) - {module} for module, names in MODULES.items()}).static_order())
    assert order.index("batch") < order.index("packing") < order.index("trainer")


def test_deepspeed_is_imported_in_one_place() -> None:
    files = [*(ROOT / "ernie_m").rglob("*.py"), *(ROOT / "data_prep").rglob("*.py"), *(ROOT / "launcher").rglob("*.py")]
    importing = [str(f.relative_to(ROOT)) for f in files if "deepspeed" in tops(imports_of(f))]
    assert importing == ["ernie_m/deepspeed_adapter.py"]


@pytest.mark.parametrize("module", sorted(TORCH_FREE))
def test_what_needs_no_torch_imports_none(module: str) -> None:
    """Neither itself nor through others of ours."""
    reached, ahead = set(), {module}
    while ahead:
        reached |= ahead
        ahead = set().union(*(ours(MODULES[name]) for name in ahead)) - reached
    heavy = {name: tops(MODULES[name]) & {"torch", "transformers", "deepspeed"} for name in reached}
    assert not any(heavy.values()), heavy


@pytest.mark.parametrize(
    "modules",
    [
        "dataloader, ernie_m.run_data",  # what looks at a folder of a million shards stays small and quick
        "hosts.probe, ernie_m.hosts.link, ernie_m.hosts.session",  # a doctor is called where torch may be broken
        "checkpoint, ernie_m.supervision.supervisor, ernie_m.watchdog",  # beside the training, for days
    ],
)
def test_what_must_start_without_torch_does(modules: str) -> None:
    """Not imported at all, not even by others."""
    program = f"import sys; sys.modules['torch'] = None; import ernie_m.{modules}"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_data_prep_needs_the_lowest_layers_alone() -> None:
    files = sorted((ROOT / "data_prep").rglob("*.py"))
    assert len(files) > 10
    for file in files:
        names = imports_of(file)
        assert {module for module in ours(names) if LAYER[module] > 1} == set(), file
        assert not tops(names) & {"torch", "transformers", "deepspeed", "launcher"}, file

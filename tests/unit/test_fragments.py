"""A training state that knows no ranks: nothing is lost, doubled or changed, whoever wrote it and whoever reads it.

ZeRO 1, 2 and 3 need a running DeepSpeed: tests/integration/test_world_change.py.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ernie_m.base.console import InputError
from ernie_m.base.files import sha256_of
from ernie_m.runs.checkpoint import rank_file
from ernie_m.runs.fragments import (
    PIECE_BYTES,
    Fragment,
    FragmentReader,
    create_moments,
    fragments_of,
    num_updates,
    replicated_parts,
    write_tensors,
)

WORLD_SIZES = (1, 2, 3, 4, 7, 64)


def trained(num_steps: int, seed: int = 0) -> tuple[nn.Module, torch.optim.AdamW]:
    """A small model (its smallest parameter has one element) after some AdamW steps on random numbers."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 3), nn.Linear(3, 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for step in range(num_steps):
        one_step(model, optimizer, step)
    return model, optimizer


def owned_fragments(model: nn.Module, optimizer: torch.optim.Optimizer, rank: int, world_size: int) -> list[Fragment]:
    return fragments_of(replicated_parts(model, rank, world_size), optimizer)


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    rng = torch.Generator().manual_seed(step)
    optimizer.zero_grad()
    model(torch.randn(4, 5, generator=rng)).square().mean().backward()
    optimizer.step()


def write_state(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, world_size: int) -> FragmentReader:
    folder.mkdir()
    for rank in range(world_size):
        fragments = owned_fragments(model, optimizer, rank, world_size)
        write_tensors(folder / rank_file(rank), {key: view for fragment in fragments for key, view in fragment.tensors()})
    return FragmentReader(folder)


def whole_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[tuple[str, str], Tensor]:
    state = {(name, "weight"): p.data.view(-1) for name, p in model.named_parameters()}
    for name, p in model.named_parameters():
        for kind in ("exp_avg", "exp_avg_sq"):
            if kind in optimizer.state[p]:
                state[name, kind] = optimizer.state[p][kind].view(-1)
    return state


# -- who owns what -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", WORLD_SIZES)
def test_every_element_is_owned_exactly_once(world_size: int) -> None:
    model, optimizer = trained(2)
    counts = {name: np.zeros(p.numel(), int) for name, p in model.named_parameters()}
    shares = []
    for rank in range(world_size):
        fragments = owned_fragments(model, optimizer, rank, world_size)
        for fragment in fragments:
            size = fragment.weight.numel()
            assert size > 0
            assert {kind: tensor.numel() for kind, tensor in fragment.moments.items()} == {
                "exp_avg": size,
                "exp_avg_sq": size,
            }
            counts[fragment.name][fragment.start : fragment.start + size] += 1
        shares.append(sum(fragment.weight.numel() for fragment in fragments))
    assert all((count == 1).all() for count in counts.values())
    assert max(shares) - min(shares) <= len(counts), "and about equally"


def test_fragments_are_views_of_the_live_state() -> None:
    model, optimizer = trained(1)
    fragments = [f for rank in range(3) for f in owned_fragments(model, optimizer, rank, 3)]
    one_step(model, optimizer, 9)
    for fragment in fragments:
        kinds = {key.rpartition(":")[2]: view for key, view in fragment.tensors()}
        for kind, view in kinds.items():
            whole = whole_state(model, optimizer)[fragment.name, kind]
            assert torch.equal(view, whole[fragment.start : fragment.start + view.numel()])
            assert view.data_ptr() == whole.data_ptr() + 4 * fragment.start


def test_before_the_first_update_there_are_weights_alone(tmp_path: Path) -> None:
    model, optimizer = trained(0)
    assert all(not fragment.moments for fragment in owned_fragments(model, optimizer, 0, 2))
    assert num_updates(optimizer) == 0
    reader = write_state(tmp_path / "state", model, optimizer, 2)
    assert not reader.has_moments
    other, _ = trained(0, seed=1)
    reader.fill_weights(other)
    assert all(torch.equal(a, b) for a, b in zip(other.parameters(), model.parameters(), strict=True))


# -- what is written is what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize("written_by", WORLD_SIZES)
def test_any_range_reads_back_bit_for_bit_across_the_files_of_all_ranks(tmp_path: Path, written_by: int) -> None:
    model, optimizer = trained(3)
    reader = write_state(tmp_path / "state", model, optimizer, written_by)
    assert reader.names == sorted(name for name, _ in model.named_parameters())
    rng = np.random.default_rng(written_by)
    for (name, kind), whole in whole_state(model, optimizer).items():
        assert reader.numel(name) == len(whole)
        ranges = [(0, len(whole)), *(sorted(rng.integers(0, len(whole) + 1, 2).tolist()) for _ in range(20))]
        for start, stop in ranges:
            out = torch.full((stop - start,), float("nan"))
            reader.read(name, kind, start, out)
            assert torch.equal(out, whole[start:stop])


@pytest.mark.parametrize(("written_by", "read_by"), [(1, 1), (2, 1), (1, 2), (2, 4), (4, 3), (7, 64)])
def test_training_goes_on_bit_for_bit_at_any_other_number_of_ranks(tmp_path: Path, written_by: int, read_by: int) -> None:
    model, optimizer = trained(3)
    reader = write_state(tmp_path / "state", model, optimizer, written_by)
    resumed, fresh = trained(0, seed=1)
    create_moments(fresh, num_updates(optimizer))
    for rank in range(read_by):
        reader.fill(owned_fragments(resumed, fresh, rank, read_by))
    assert num_updates(fresh) == num_updates(optimizer) == 3
    for step in range(3, 6):
        one_step(model, optimizer, step)
        one_step(resumed, fresh, step)
    states = whole_state(model, optimizer), whole_state(resumed, fresh)
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_the_reader_does_not_care_which_file_holds_what(tmp_path: Path) -> None:
    values = torch.arange(10, dtype=torch.float32)
    write_tensors(tmp_path / rank_file(0), {"w@6:weight": values[6:], "w@0:weight": values[:2]})
    write_tensors(tmp_path / rank_file(1), {"w@2:weight": values[2:6]})
    out = torch.empty(8)
    FragmentReader(tmp_path).read("w", "weight", 1, out)
    assert torch.equal(out, values[1:9])


def test_names_may_contain_what_the_keys_are_made_of(tmp_path: Path) -> None:
    write_tensors(tmp_path / rank_file(0), {"a@1:b@0:weight": torch.ones(2)})
    assert FragmentReader(tmp_path).names == ["a@1:b"]


def test_half_precision_models_get_the_rounded_master_weights(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    reader = write_state(tmp_path / "state", model, optimizer, 3)
    half, _ = trained(0, seed=1)
    half.bfloat16()
    reader.fill_weights(half)
    assert all(torch.equal(a, b.bfloat16()) for a, b in zip(half.parameters(), model.parameters(), strict=True))


# -- what is not there is said -------------------------------------------------------------------------------------


def test_missing_elements_are_named(tmp_path: Path) -> None:
    model, optimizer = trained(1)
    write_state(tmp_path / "state", model, optimizer, 3)
    (tmp_path / "state" / rank_file(1)).unlink()
    reader = FragmentReader(tmp_path / "state")
    out = torch.empty(35)
    with pytest.raises(InputError, match=r"elements from 11 on of 0\.weight \(weight\) are in none of its files"):
        reader.read("0.weight", "weight", 0, out)
    reader.read("0.weight", "weight", 0, out[:11])
    with pytest.raises(InputError, match=r"elements from 35 on of 0\.weight \(exp_avg\)"):
        reader.read("0.weight", "exp_avg", 30, out[:6])  # one behind the last


def test_elements_missing_at_the_end_make_another_size(tmp_path: Path) -> None:
    write_tensors(tmp_path / rank_file(0), {"weight@0:weight": torch.ones(4), "bias@0:weight": torch.ones(2)})
    with pytest.raises(InputError, match=r"weight has 4 elements, expected 6"):
        FragmentReader(tmp_path).fill_weights(nn.Linear(3, 2))


def test_weights_without_moments_do_not_fill_moments(tmp_path: Path) -> None:
    model, optimizer = trained(0)
    reader = write_state(tmp_path / "state", model, optimizer, 2)
    create_moments(optimizer, 1)
    with pytest.raises(InputError, match=r"elements from 0 on of .* \(exp_avg\) are in none"):
        reader.fill(owned_fragments(model, optimizer, 0, 1))


def _another_name(model: nn.Sequential) -> nn.Module:
    return nn.Sequential(*model, nn.Linear(1, 1))


def _fewer(model: nn.Sequential) -> nn.Module:
    return nn.Sequential(*list(model)[:2])


def _another_size(model: nn.Sequential) -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(3, 1))


@pytest.mark.parametrize(
    ("other", "complaint"),
    [
        (_another_name, r"another model's checkpoint; 3\.bias is on one side only"),
        (_fewer, r"another model's checkpoint; 2\.bias is on one side only"),
        (_another_size, r"0\.weight has 35 elements, expected 40"),
    ],
)
def test_another_models_checkpoint_is_refused(
    tmp_path: Path, other: Callable[[nn.Module], nn.Module], complaint: str
) -> None:
    model, optimizer = trained(1)
    reader = write_state(tmp_path / "state", model, optimizer, 2)
    with pytest.raises(InputError, match=complaint):
        reader.fill_weights(other(model))
    with pytest.raises(InputError, match="holds no parameter nobody; another model's checkpoint"):
        reader.read("nobody", "weight", 0, torch.empty(1))


def test_a_folder_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no rank_\*\.safetensors files; expected a checkpoint of ours"):
        FragmentReader(tmp_path)


# -- the files -----------------------------------------------------------------------------------------------------

EMPTY: dict[str, Tensor] = {}
CONTENTS = {
    "nothing": EMPTY,
    "one": {"w@0:weight": torch.tensor([1.5])},
    "empty and odd sizes": {"é@0:weight": torch.empty(0), "b": torch.arange(3, dtype=torch.int32), "c": torch.ones(5)},
    "shapes": {"rows_BS": torch.arange(12).reshape(3, 4), "flat": torch.zeros(1)},
    "several pieces": {"w@0:weight": torch.arange(PIECE_BYTES // 2, dtype=torch.float32), "v@0:weight": torch.ones(7)},
}


@pytest.mark.parametrize("name", CONTENTS)
def test_the_librarys_own_reader_reads_what_is_written_and_the_hash_is_the_files(tmp_path: Path, name: str) -> None:
    path, tensors = tmp_path / "file.safetensors", CONTENTS[name]
    entry = write_tensors(path, tensors)
    assert entry == {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    read = load_file(path)
    assert read.keys() == tensors.keys()
    for key, tensor in tensors.items():
        assert read[key].dtype == tensor.dtype
        assert torch.equal(read[key], tensor)
    with safe_open(path, framework="numpy") as file:
        assert set(file.keys()) == set(tensors)
    assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0, "tensors are aligned"


def test_long_writing_gives_signs_of_life(tmp_path: Path) -> None:
    signs: list[int] = []
    write_tensors(tmp_path / "f", CONTENTS["several pieces"], lambda: signs.append(1))
    assert len(signs) >= 2


def test_writing_to_a_full_disk_is_an_error(tmp_path: Path) -> None:
    os.symlink("/dev/full", tmp_path / "full")
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        write_tensors(tmp_path / "full", CONTENTS["one"])


def test_bits_that_are_no_numbers_survive(tmp_path: Path) -> None:
    """NaN payloads, infinities, negative zero, subnormals: a state is bits."""
    bits = torch.tensor([0x7FC00001, 0x7F800000, -(2**31), 1, -1], dtype=torch.int32)
    tensors: Mapping[str, Tensor] = {"w@0:weight": bits.view(torch.float32)}
    write_tensors(tmp_path / rank_file(0), tensors)
    out = torch.empty(5)
    FragmentReader(tmp_path).read("w", "weight", 0, out)
    assert torch.equal(out.view(torch.int32), bits)


@pytest.mark.parametrize(
    ("options", "device"),
    [({"fused": True}, "meta"), ({"capturable": True}, "meta"), ({}, "cpu"), ({"fused": False}, "cpu")],
)
def test_adams_count_lies_where_torch_would_put_it(options: dict[str, bool], device: str) -> None:
    """Beside the parameter for a fused or capturable optimizer, which refuses tensors on two devices."""
    parameter = torch.nn.Parameter(torch.empty(3, device="meta"))
    optimizer = torch.optim.AdamW([parameter], **options)
    create_moments(optimizer, 5)
    assert optimizer.state[parameter]["step"].device.type == device

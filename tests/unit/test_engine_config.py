"""What the engine decides before DeepSpeed starts."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from ernie_m.base.console import InputError
from ernie_m.training import engine
from ernie_m.training.engine import BatchConfig, EngineConfig, Precision, _filled, choose_precision
from ernie_m.training.engine import _read_ds_config as read_ds_config
from ernie_m.training.optimizer import OptimizerConfig, parameter_groups

if TYPE_CHECKING:
    from conftest import EncoderOf

DS_CONFIGS = Path(__file__).resolve().parents[2] / "ds_configs"


def test_learning_rate_rises_linearly_and_falls_linearly_to_zero() -> None:
    optimizer = OptimizerConfig(peak_learning_rate=1.0, warmup_steps=10)
    rates = [optimizer.learning_rate(step, 110) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == max(rates) == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.5)
    assert rates[109] == pytest.approx(0.01)
    assert rates[110] == 0.0
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert OptimizerConfig(warmup_steps=0, peak_learning_rate=2.0).learning_rate(0, 4) == 2.0


def test_an_inverse_square_root_falls_as_it_says_whatever_the_last_step_is() -> None:
    optimizer = OptimizerConfig(peak_learning_rate=1.0, warmup_steps=10, schedule="inverse_sqrt")
    rates = [optimizer.learning_rate(step, 110) for step in range(1000)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert max(rates) == rates[9] == 1.0
    assert [rates[39], rates[89], rates[999]] == pytest.approx([1 / 2, 1 / 3, 1 / 10])
    without = OptimizerConfig(peak_learning_rate=1.0, warmup_steps=0, schedule="inverse_sqrt")
    assert [without.learning_rate(step, 4) for step in (0, 3)] == [1.0, 0.5]


@pytest.mark.parametrize(("rows", "micro", "world", "steps"), [(2048, 4, 64, 8), (16, 8, 2, 1), (16, 8, 1, 2), (3, 1, 3, 1)])
def test_accumulation_follows_from_the_batch(rows: int, micro: int, world: int, steps: int) -> None:
    assert BatchConfig(rows_per_step=rows, micro_batch_rows=micro).accumulation_steps(world) == steps


@pytest.mark.parametrize(("rows", "world", "nearest"), [(2048, 63, 2016), (1, 2, 8), (15, 2, 16), (9, 2, 8)])
def test_a_batch_that_does_not_divide_is_refused_with_the_nearest(rows: int, world: int, nearest: int) -> None:
    batch = BatchConfig(rows_per_step=rows, micro_batch_rows=4)
    with pytest.raises(InputError, match=rf"{rows} is not a multiple of micro_batch_rows 4 x {world} .*: {nearest}(;|$)"):
        batch.accumulation_steps(world)
    assert BatchConfig(rows_per_step=nearest, micro_batch_rows=4).accumulation_steps(world) >= 1


def advice(rows: int, micro: int, world: int) -> str:
    with pytest.raises(InputError) as caught:
        BatchConfig(rows_per_step=rows, micro_batch_rows=micro).accumulation_steps(world)
    return str(caught.value)


def test_56_of_64_ranks_are_refused_with_every_way_out() -> None:
    """The paper's batch after a host of eight is lost."""
    assert BatchConfig(rows_per_step=2048, micro_batch_rows=4).accumulation_steps(64) == 8
    assert advice(2048, 4, 56) == (
        "batch.rows_per_step: 2048 is not a multiple of micro_batch_rows 4 x 56 ranks = 224; the nearest that is: 2016; "
        "with this batch: 32 ranks or 64 ranks"
    )
    assert BatchConfig(rows_per_step=2016, micro_batch_rows=4).accumulation_steps(56) == 9
    assert advice(2016, 4, 64).endswith("the nearest that is: 2048; with this batch: 63 ranks or 72 ranks")


def test_fewer_rows_at_a_time_are_advised_where_they_suffice() -> None:
    assert advice(1792, 6, 56).endswith("= 336; the nearest that is: 1680; or batch.micro_batch_rows=4")
    assert BatchConfig(rows_per_step=1792, micro_batch_rows=4).accumulation_steps(56) == 8


def test_every_advice_works() -> None:
    """Whatever is advised divides; nearer ranks that divide do not exist."""
    for rows in (1, 6, 12, 35, 64, 96):
        for micro in (1, 2, 3, 4):
            for world in range(1, 20):
                if rows % (micro * world) == 0:
                    continue
                text = advice(rows, micro, world)
                nearest = int(re.search(r"nearest that is: (\d+)", text)[1])  # type: ignore[index]
                assert nearest % (micro * world) == 0
                assert abs(nearest - rows) <= max(micro * world / 2, micro * world - rows)
                ranks = [int(found) for found in re.findall(r"(\d+) ranks(?! =)", text)]
                possible = [n for n in range(1, rows + 1) if rows % (micro * n) == 0]
                fewer = [n for n in possible if n < world][-1:]
                more = [n for n in possible if n > world][:1]
                assert ranks == fewer + more
                for found in re.findall(r"micro_batch_rows=(\d+)", text):
                    assert BatchConfig(rows_per_step=rows, micro_batch_rows=int(found)).accumulation_steps(world) >= 1


@pytest.mark.parametrize(
    ("capability", "value", "reason"), [((7, 0), "fp16", "V100 has no bf16"), ((8, 0), "bf16", "V100 has bf16")]
)
def test_precision_follows_from_the_device(
    capability: tuple[int, int], value: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "V100")
    choice = choose_precision("auto", torch.device("cuda", 0))
    assert (choice.value, choice.reason) == (value, reason)
    assert str(choose_precision("auto", torch.device("cpu"))) == "precision: fp32 (cpu device)"
    if value == "fp16":
        with pytest.raises(InputError, match=r"engine.precision=bf16: V100 \(sm70\) has none.*use auto or fp16"):
            choose_precision("bf16", torch.device("cuda", 0))
    else:
        assert choose_precision("bf16", torch.device("cuda", 0)).value == "bf16"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_precision_that_the_processor_has_no_products_of_is_told(
    precision: Precision, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = {}
    for has_products in (True, False):
        monkeypatch.setattr(engine, "multiplies_in", lambda asked, has=has_products: has or asked == "fp32")
        told[has_products] = str(choose_precision(precision, torch.device("cpu")))
    slow = "; in it this processor multiplies many times slower than in fp32"
    assert told == {True: f"precision: {precision} (asked for)", False: f"precision: {precision} (asked for{slow})"}
    assert str(choose_precision("fp32", torch.device("cpu"))) == "precision: fp32 (asked for)"


def test_biases_and_norms_do_not_decay(encoder_of: EncoderOf) -> None:
    model = encoder_of()
    decayed, free = parameter_groups(model, OptimizerConfig(weight_decay=0.01))
    assert (decayed.weight_decay, free.weight_decay) == (0.01, 0.0)
    groups = {id(p): "decayed" for p in decayed.parameters} | {id(p): "free" for p in free.parameters}
    for name, parameter in model.named_parameters():
        assert groups[id(parameter)] == ("free" if name.endswith("bias") or "norm." in name else "decayed"), name
    assert len(groups) == len(list(model.parameters()))


def test_auto_is_filled_by_the_recipe_and_nothing_else_is_touched() -> None:
    content = {"lr": "auto", "deep": {"betas": "auto", "stage": 1}, "mode": "manual"}
    assert _filled(content, {"lr": 1.0, "betas": [0.9]}) == {
        "lr": 1.0,
        "deep": {"betas": [0.9], "stage": 1},
        "mode": "manual",
    }
    with pytest.raises(InputError, match="speed says auto, but the recipe owns no such value"):
        _filled({"speed": "auto"}, {"lr": 1.0})


@pytest.mark.parametrize("path", sorted(DS_CONFIGS.glob("*.json")), ids=lambda path: path.stem)
def test_every_ds_config_leaves_batch_rate_and_clip_to_the_recipe(path: Path) -> None:
    content = read_ds_config(path)
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping"):
        assert content[key] == "auto", key
    assert {content["optimizer"]["params"][key] for key in ("lr", "betas", "eps", "weight_decay")} == {"auto"}
    stage, precision = re.fullmatch(r"zero(\d)_(\w+)", path.stem).groups()  # type: ignore[union-attr]
    assert content.get("zero_optimization", {"stage": 0})["stage"] == int(stage)
    enabled = {key for key in ("bf16", "fp16") if content.get(key, {}).get("enabled")}
    assert enabled == ({precision} if precision != "fp32" else set())


def test_stage_and_precision_that_cannot_work_are_refused() -> None:
    with pytest.raises(InputError, match="zero_stage: 4; expected a whole number from 0 to 3"):
        EngineConfig(zero_stage=4)
    with pytest.raises(InputError, match="loss scale"):
        EngineConfig(zero_stage=0, precision="fp16")


def test_broken_ds_configs_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file; engine\.zero_stage and engine\.precision must name"):
        read_ds_config(tmp_path / "zero9_fp32.json")
    (tmp_path / "broken.json").write_text('{"a": 1,\n "b" 2}')
    with pytest.raises(InputError, match=r"broken\.json, line 2: not valid JSON"):
        read_ds_config(tmp_path / "broken.json")
    assert json.loads((DS_CONFIGS / "zero1_bf16.json").read_text())

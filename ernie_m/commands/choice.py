"""`ernie-m COMMAND …`: the table of commands, and the one among them that the user names.

Only the module of that command is imported. A new command is a file here, a row of COMMANDS, and a script in launcher/.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import dataclass

from ernie_m.base.command_line import nearest
from ernie_m.base.console import fail

PROGRAM = "ernie-m"


@dataclass(frozen=True)
class Command:
    """Where a command's `main(called)` is, and what it is for, in a line."""

    module: str
    summary: str


COMMANDS = {
    "data_prep": Command("data_prep.__main__", "From raw corpora to verified token shards."),
    "plan": Command("ernie_m.commands.plan", "Before booking: memory, micro-batch, ZeRO stage and days."),
    "doctor": Command("ernie_m.commands.doctor", "Before starting: are hosts, data, disk and batch as they must be?"),
    "pretrain": Command(
        "ernie_m.commands.pretrain",
        "Pre-train an encoder, in one process; resumes by itself.",
    ),
    "supervise": Command("ernie_m.commands.supervise", "Keep a pre-training on many ranks alive, without bad hosts."),
    "inspect_step": Command("ernie_m.commands.inspect_step", "Show the rows of one step of a run, e.g. of a loss spike."),
    "evaluate": Command("ernie_m.commands.evaluate", "Measure a model: retrieval, word links, cross-lingual gain, BLEU."),
    "translate": Command("ernie_m.commands.translate", "Translate text with a run that was trained to (MT), or its export."),
    "export": Command("ernie_m.commands.export", "Write a run's weights as a Hugging Face folder."),
    "vocabulary": Command("ernie_m.commands.vocabulary", "Extend an encoder's vocabulary for a language, or trim it."),
    "finetune": Command("ernie_m.commands.finetune", "Fine-tune any Hugging Face encoder on benchmarks and score it."),
    "compare": Command("ernie_m.commands.compare", "Fine-tuning scores of several encoders side by side."),
    "show": Command("ernie_m.commands.show", "Show a run as one HTML page."),
    "ablate": Command("ernie_m.commands.ablate", "Compare pre-trainings that differ in one thing."),
    "align": Command("ernie_m.commands.align", "Align any Hugging Face encoder on sentence pairs of your own."),
    "demo": Command("ernie_m.commands.demo", "All of the above, small, on a generated corpus."),
}
"""Name -> command, in the order in which one meets them."""


def main() -> None:
    """Run the command that the first argument of this process names, on the others."""
    words = sys.argv[1:]
    if not words or words[0] in ("--help", "-h"):
        print(_help())
        return
    name = words[0].replace("-", "_")
    if name not in COMMANDS:
        fail(f"unknown command {words[0]}{nearest(name, COMMANDS) or ','} expected one of {', '.join(COMMANDS)}")
    called = f"{PROGRAM} {words[0]}"
    sys.argv = [called, *words[1:]]
    importlib.import_module(COMMANDS[name].module).main(called)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"    {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"{PROGRAM} COMMAND [options]: cross-lingual pre-training on DeepSpeed, from raw corpora to Hugging Face.",
            "",
            *lines,
            "",
            f"{PROGRAM} COMMAND --help explains its options. Several ranks, on one machine and on those of a hostfile:",
            "",
            "    deepspeed --num_gpus 8 --module ernie_m.commands.pretrain --recipe base --data DATA --run RUN",
            f"    {PROGRAM} supervise --hostfile HOSTFILE -- pretrain --recipe large --data DATA --run RUN",
        ]
    )

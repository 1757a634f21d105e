"""Export a run's newest checkpoint for Hugging Face.

    python launcher/export.py --run RUN --to FOLDER

FOLDER then loads with AutoModel, AutoModelForMaskedLM and AutoTokenizer (XLM-R's class; safetensors).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

try:
    from ernie_m.command_line import run as run_command
    from ernie_m.console import InputError
except ModuleNotFoundError as error:
    raise SystemExit(f"error: {error}; install the package first: pip install -e .") from None


def export(run: str, to: str, data: str | None = None) -> None:
    """Write the weights of a pre-training run as a Hugging Face folder.

    Args:
        run: run folder of launcher/pretrain.py
        to: folder to make; must not exist or be empty
        data: data folder, for its tokenizer; default: the one the run was started on
    """
    from ernie_m.interop.xlm_roberta import export as write_folder
    from ernie_m.run_folder import RunFolder, load_weights, model_config, tokenizer_of

    target = Path(to)
    if target.is_dir() and any(target.iterdir()):
        raise InputError(f"{target}: not empty; give a new folder with --to")
    configuration, checkpoint = RunFolder(Path(run)).read()
    tokenizer = tokenizer_of(configuration, Path(data) if data else None)
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        aside.mkdir(parents=True)
        write_folder(load_weights(configuration, checkpoint), model_config(configuration), tokenizer, aside)
        if target.is_dir():
            target.rmdir()
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    print(f"exported step {checkpoint.step} of {run} to {target}")


if __name__ == "__main__":
    run_command(export, "launcher/export.py")

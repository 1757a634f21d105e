"""A trained encoder of transformers as a Hugging Face folder: its own class, its tokenizer's files, its further modules.

What training did not change is written as it was. A head that training added is left out: the class has none.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from torch import Tensor

from ernie_m.interop.backbone_folder import carried_files
from ernie_m.interop.foreign import Foreign
from ernie_m.interop.opening import quietly
from ernie_m.interop.weight_files import CONFIG_FILE, SAFETENSORS

ONE_FILE = "1000TB"  # so that all weights are in one


def export_backbone(architecture: Foreign, weights: dict[str, Tensor], to: Path) -> None:
    """Write `weights`, a state dict of the architecture's model, into the folder `to`."""
    backbone, names = architecture.backbone, architecture.sketch.names_in_class()
    model, constants = architecture.blank()
    trained = {there: weights[here] for here, there in names.items()}
    never_stored = {name for name, _ in backbone.skeleton().named_parameters()} - {*trained, *constants}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in trained:
                parameter.copy_(trained[name])
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in never_stored}
    further = {name: tensor for name, tensor in constants.items() if name not in state}
    with quietly():
        model.save_pretrained(to, state_dict=state | further, max_shard_size=ONE_FILE)
    for name in carried_files(backbone.folder):
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(backbone.folder / name, to / name)
    (to / SAFETENSORS).chmod((to / CONFIG_FILE).stat().st_mode)  # safetensors makes them the owner's alone

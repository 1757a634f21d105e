"""The files of a Hugging Face folder: config.json, and tensors by name, out of safetensors or .bin files.

Files are mapped and tensors read one at a time, so that loading takes the memory of one model, not of two. Only tensors
are unpickled (torch.load with weights_only).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ernie_m.base.console import InputError
from ernie_m.base.files import read_json, sha256_of_all
from ernie_m.corpus.vocabulary import TOKENIZER_FILE

CONFIG_FILE = "config.json"
SAFETENSORS, PYTORCH = "model.safetensors", "pytorch_model.bin"
INDEX_SUFFIX = ".index.json"
WEIGHT_NAMES = (SAFETENSORS, SAFETENSORS + INDEX_SUFFIX, PYTORCH, PYTORCH + INDEX_SUFFIX)
TOKENIZER_JSON, VOCABULARY_TEXT, DICTIONARY_TEXT = "tokenizer.json", "vocab.txt", "dict.txt"
TOKENIZER_FILES = (
    *(TOKENIZER_FILE, TOKENIZER_JSON, VOCABULARY_TEXT, "spm.model", "spiece.model", "vocab.json", "merges.txt"),
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
)
"""All files that a tokenizer of transformers may consist of."""

MODULES_FILE = "modules.json"
SENTENCE_FILES = (MODULES_FILE, "config_sentence_transformers.json", "sentence_bert_config.json")
"""Of sentence-transformers; the first one names folders of further modules."""
MODULE_FILES = (CONFIG_FILE, SAFETENSORS, PYTORCH)
"""What a folder of such a module may hold."""

_FORBIDDEN = re.compile(r"GLOBAL ([\w.]+)")  # in torch's message


def folder_of(name: str) -> Path:
    """The folder `name`, or the folder of that hub id: in the local cache, or downloaded into it.

    Raises InputError when there is none.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise InputError(f"{name}: a file; expected a Hugging Face folder, a hub id, a run folder or fairseq's model.pt")
    if name.startswith(("/", ".", "~")) or name.count("/") > 1:
        raise InputError(f"{name}: no such folder; expected a Hugging Face folder, a hub id or a run folder")
    try:
        return _snapshot(name, from_cache=True) or _snapshot(name, from_cache=False) or _no_weights(name)
    except HFValidationError:
        raise InputError(f"{name}: neither a folder nor a hub id, which reads organisation/name") from None
    except LocalEntryNotFoundError:
        raise InputError(
            f"{name}: no such folder, not in the hub's local cache, and the hub cannot be reached; fetch it where there is "
            "a network (`hf download`) and give its folder"
        ) from None
    except (HfHubHTTPError, EntryNotFoundError) as error:
        what = str(error).strip().splitlines()[0]
        raise InputError(f"{name}: no such folder, and the hub says: {what}") from None


def _snapshot(name: str, from_cache: bool) -> Path | None:
    """The local folder of a hub id; None when it has no weights. `from_cache`: do not ask the network."""

    def fetched(file: str) -> Path | None:
        try:
            return Path(hf_hub_download(name, file, local_files_only=from_cache))
        except LocalEntryNotFoundError:
            if from_cache:
                return None
            raise
        except EntryNotFoundError:
            return None

    chosen = next(filter(None, map(fetched, WEIGHT_NAMES)), None)
    config = fetched(CONFIG_FILE)
    if chosen is None or config is None:
        return None
    if chosen.name.endswith(INDEX_SUFFIX) and None in [fetched(file) for file in set(_weight_map(chosen).values())]:
        return None
    for file in (*TOKENIZER_FILES, *SENTENCE_FILES):
        fetched(file)
    for module in module_folders(config.parent):
        for file in MODULE_FILES:
            fetched(f"{module}/{file}")
    return config.parent


def module_folders(folder: Path) -> list[str]:
    """Folders of the further modules that sentence-transformers' modules.json names, relative to `folder`; [] without it.

    Raises InputError for a file that is no such list, and for a folder outside of `folder`.
    """
    path = folder / MODULES_FILE
    if not path.is_file():
        return []
    try:
        named = [str(module["path"]) for module in read_json(path)]
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: not a list of modules ({type(error).__name__}: {error}); fetch it again") from None
    for name in named:
        if not (folder / name).resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{path}: its module {name} lies outside of the folder")
    return [name for name in named if name]


def _no_weights(name: str) -> Path:
    raise InputError(f"{name}: the hub has no {CONFIG_FILE} with one of {', '.join(WEIGHT_NAMES)} of it")


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of the folder that belong to its tokenizer."""
    return [path for path in (folder / name for name in TOKENIZER_FILES) if path.is_file()]


def read_config(folder: Path, name: str = CONFIG_FILE) -> dict[str, Any]:
    """The content of config.json, or of another JSON file. Raises InputError when it is missing or broken."""
    path = folder / name
    try:
        content = read_json(path)
    except FileNotFoundError:
        raise InputError(f"{folder}: no {name}; expected a Hugging Face folder or a run folder of ours") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; expected a file that can be read") from None
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not valid JSON ({error}); fetch it again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a mapping of keys, found {type(content).__name__}; fetch it again")
    return content


class WeightFiles:
    """Names, shapes and values of all tensors in a folder's weight files.

    Raises InputError for a folder without weights, and for files that are missing, too short, or hold other objects.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        chosen = next((name for name in WEIGHT_NAMES if (folder / name).is_file()), None)
        if chosen is None:
            raise InputError(f"{folder}: no weights there; expected one of {', '.join(WEIGHT_NAMES)}")
        index = _weight_map(folder / chosen) if chosen.endswith(INDEX_SUFFIX) else {}
        self.files = sorted({folder / name for name in index.values()}) if index else [folder / chosen]
        missing = [path.name for path in self.files if not path.is_file()]
        if missing:
            raise InputError(f"{folder}: {missing[0]}, which {chosen} names, is missing; fetch the folder again")
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._readers: dict[str, Callable[[], Tensor]] = {}
        for path in self.files:
            self._open(path)
        lacking = sorted(index.keys() - self.shapes.keys())
        if lacking:
            raise InputError(f"{folder}: {index[lacking[0]]} lacks {lacking[0]}, which {chosen} says is there")

    def read(self, name: str) -> Tensor:
        """One tensor, as stored, on the CPU."""
        return self._readers[name]()

    def sha256(self, on_progress: Callable[[], None] = lambda: None) -> str:
        """A hash of the files' names and bytes."""
        return sha256_of_all(self.files, self.folder, on_progress)

    def num_bytes(self) -> int:
        """Size of all files."""
        return sum(path.stat().st_size for path in self.files)

    def _open(self, path: Path) -> None:
        if path.suffix != ".bin":
            try:
                file: Any = safe_open(path, framework="pt")
            except SafetensorError as error:
                raise InputError(f"{path}: not a whole safetensors file ({error}); fetch it again") from None
            for name in file.keys():  # noqa: SIM118 - not a dict
                self.shapes[name] = tuple(file.get_slice(name).get_shape())
                self._readers[name] = lambda name=name: file.get_tensor(name)  # type: ignore[misc]
            return
        for name, tensor in load_pickled(path).items():
            if isinstance(tensor, Tensor):
                self.shapes[name] = tuple(tensor.shape)
                self._readers[name] = lambda tensor=tensor: tensor  # type: ignore[misc]


def load_pickled(path: Path, also: Sequence[type] = ()) -> dict[str, Any]:
    """The content of a file of torch.save: tensors, plain containers, and objects of the classes `also`.

    Raises InputError for a file that is broken, or holds objects of other classes.
    """
    content = None
    for mapped in (True, False):  # files of torch before 1.6, XLM-R's own among them, cannot be mapped
        try:
            with torch.serialization.safe_globals(list(also)):
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
            break
        except Exception as error:  # torch raises a dozen kinds, by what is broken
            reason = _reason(error)
    if not isinstance(content, dict):
        reason = reason if content is None else f"a {type(content).__name__}"
        raise InputError(f"{path}: not a file of tensors by name ({reason}); fetch it again, or take the safetensors")
    return content


def _reason(error: Exception) -> str:
    if wanted := _FORBIDDEN.search(str(error)):
        return f"it holds a {wanted[1]}, which is not unpickled"
    return str(error).strip().splitlines()[0] if str(error) else type(error).__name__


def _weight_map(path: Path) -> dict[str, str]:
    """Tensor -> file, from the index of weights that lie in several files."""
    try:
        weight_map = read_json(path)["weight_map"]
        if not weight_map or not all(Path(file).name == file for file in weight_map.values()):
            raise ValueError("its weight_map names no files beside it")
    except (UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path}: not an index of weight files ({type(error).__name__}: {error}); fetch it again") from None
    return dict(weight_map)

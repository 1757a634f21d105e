"""Small files made to harm: one line each, in bounded memory and time."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from data_prep.catalog import read_catalog
from ernie_m.aligning.choices import _pooling_of
from ernie_m.base.config import read_recipe, read_yaml
from ernie_m.base.console import InputError, fail, printable
from ernie_m.base.files import read_json, read_small, sha256_of, write_json
from ernie_m.base.hostfile import read_hostfile
from ernie_m.corpus.manifest import Manifest
from ernie_m.corpus.word_links import read_gold
from ernie_m.interop.backbone_folder import SOURCE_FILE, open_kept
from ernie_m.interop.encoder import open_encoder
from ernie_m.interop.opening import check_parameters
from ernie_m.interop.weight_files import WeightFiles
from ernie_m.runs.checkpoint import _digest, rank_file, verify
from ernie_m.runs.fragments import FragmentReader
from ernie_m.runs.metrics import read_metrics
from ernie_m.training.checkpoint_probe import read_probe

LAUGHS = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10) if i else 'ha'}]\n" for i in range(30))
MERGES = "".join(
    f"m{i}: &m{i} {{'<<': [{', '.join([f'*m{i - 1}'] * 10)}]}}\n" if i else "m0: &m0 {k: v}\n" for i in range(30)
)
YAMLS = {
    "aliases": (LAUGHS, "more than 100,000 values"),
    "merges": (MERGES, "more than 100,000 values"),
    "itself": ("a: &a [*a]\n", "an alias of what it stands in"),
    "brackets": ("a: " + "[" * 100_000, "more than 50 levels"),
    "levels": ("".join(" " * i + "a:\n" for i in range(2000)), "more than 50 levels"),
    "digits": ("a: " + "9" * 10_000, "a number of 10,000 digits"),
    "sixtieths": ("a: " + ":".join(["59"] * 1000), "a number of 2,999 digits"),
    "decimal sixtieths": ("a: " + ":".join(["59"] * 1000) + ".5", "int too large to convert to float"),
    "keys": ("a: {" + "b: 1, " * 2 + "}", "the key `b` is given twice"),
    "text": ("# " + "x" * (1 << 21), "characters, expected at most 2,097,152"),
}


@pytest.mark.parametrize("what", YAMLS)
def test_yaml_without_end_is_one_line(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.yaml"
    content, message = YAMLS[what]
    path.write_text(content)
    for read in (read_yaml, read_catalog):
        with pytest.raises(InputError, match=rf"a\.yaml.*({message})") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_what_has_no_end_is_no_small_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "long").write_bytes(b"[" * 11)
    for path, message in ((tmp_path / "pipe", "a pipe or device"), (Path("/dev/zero"), "a pipe or device")):
        for read in (read_small, read_json, read_yaml, read_hostfile):
            with pytest.raises(InputError, match=message):
                read(path)
    with pytest.raises(InputError, match=r"long: more than 10 bytes, which no such file needs"):
        read_json(tmp_path / "long", most=10)


def test_what_the_shell_made_is_read(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"a: 1\n")
    os.close(writing)
    assert read_yaml(Path(f"/dev/fd/{reading}")) == {"a": 1}
    os.close(reading)


def test_ordinary_aliases_are_unfolded(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: &a {x: 1}\nb: [*a, *a]\nc: {<<: *a, y: 2}\nd: {<<: *a, x: 3}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": {"x": 1}, "b": [{"x": 1}] * 2, "c": {"x": 1, "y": 2}, "d": {"x": 3}}


@pytest.mark.parametrize("base", ["../../etc/passwd", "/etc/passwd", "..", "[a, b]", "3", "a/b"])
def test_a_recipe_extends_one_in_its_own_folder(tmp_path: Path, base: str) -> None:
    (tmp_path / "a.yaml").write_text(f"extends: {base}\n")
    with pytest.raises(InputError, match=r"a\.yaml: extends: .*expected the name of a recipe in the same folder"):
        read_recipe(tmp_path / "a.yaml")


def test_recipes_that_extend_each_other_without_end_are_one_line(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"r{number}.yaml").write_text(f"extends: r{number + 1}\n")
    with pytest.raises(InputError, match="extends"):
        read_recipe(tmp_path / "r0.yaml")


# -- checkpoints -------------------------------------------------------------------------------------------------------


def forged(folder: Path, **changes: object) -> Path:
    """A checkpoint of one rank whose digests fit, with these keys of its manifest changed."""
    folder.mkdir(exist_ok=True)
    if not (folder / rank_file(0)).exists():
        save_file({"w@0:weight": torch.zeros(2)}, folder / rank_file(0))
    files = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in folder.glob("rank_*")}
    content = {"format": "ernie-m checkpoint", "format_version": 2, "step": 1, "world_size": 1, "state": {}, "files": files}
    content |= changes
    write_json(folder / "manifest.json", {**content, "sha256": _digest(content)})
    return folder


ENTRY = {"bytes": 1, "sha256": "x"}
MANIFESTS: dict[str, tuple[dict[str, object], str]] = {
    "ranks without number": ({"world_size": 10**9}, "names 1 files of ranks, of 1,000,000,000 ranks"),
    "more than can be": ({"world_size": 10**400}, "world_size is 1000"),
    "a text": ({"world_size": "1"}, "world_size is '1', expected a whole number"),
    "a step below 0": ({"step": -1}, "step is -1"),
    "elsewhere": ({"files": {"../../../etc/passwd": ENTRY}}, r"names a file '\.\./"),
    "no size": ({"files": {rank_file(0): {}}}, "does not tell bytes and sha256"),
    "a list of files": ({"files": [rank_file(0)]}, "not a valid manifest"),
    "a list for a state": ({"state": []}, "not a valid manifest"),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_a_forged_checkpoint_whose_digest_fits_is_one_line(tmp_path: Path, what: str) -> None:
    assert verify(forged(tmp_path / "c")).world_size == 1
    changes, message = MANIFESTS[what]
    with pytest.raises(InputError, match=message):
        verify(forged(tmp_path / "c", **changes))


def test_levels_without_end_and_unnamed_files_are_one_line(tmp_path: Path) -> None:
    folder = forged(tmp_path / "c")
    (folder / rank_file(1)).write_bytes(b"never hashed")
    with pytest.raises(InputError, match=r"rank_00001\.safetensors is there, and manifest\.json does not name it"):
        verify(folder)
    (folder / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="not a valid manifest"):
        verify(folder)


def test_forged_tensors_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / rank_file(0)
    for key, shape, message in (
        ("w@0:weight", (2, 2), r"of shape \[2, 2\]; expected NAME@START:KIND, flat"),
        ("w", (2,), "expected NAME@START:KIND"),
        ("w@-5:weight", (2,), "expected NAME@START:KIND"),
        (f"w@{10**30}:weight", (2,), "expected NAME@START:KIND"),
    ):
        save_file({key: torch.zeros(shape)}, path)
        with pytest.raises(InputError, match=message):
            FragmentReader(tmp_path)
    for content, message in (
        ((10**9).to_bytes(8, "little") + b"{}", "a header of 1,000,000,000 bytes"),
        ((2).to_bytes(8, "little") + b"[]", "not a whole safetensors file"),
        (b"", "not a whole safetensors file"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=message):
            FragmentReader(tmp_path)
    with pytest.raises(InputError, match="not a whole safetensors file"):
        read_probe(path)


# -- other small files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["tokenizer_file", "companion", "corpus"])
def test_a_data_manifest_names_nothing_elsewhere(tmp_path: Path, key: str) -> None:
    elsewhere = "../../../etc/passwd"
    content = {
        "format": "ernie-m token shards",
        "format_version": 3,
        "languages": [],
        "tokenizer_file": elsewhere if key == "tokenizer_file" else "sentencepiece.bpe.model",
        "tokenizer_companions": {elsewhere: "x"} if key == "companion" else {},
        "corpora": [{"name": elsewhere}] if key == "corpus" else [],
    }
    write_json(tmp_path / "manifest.json", content)
    with pytest.raises(InputError, match=r"manifest\.json: names '\.\./"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("languages", [[], ["en", "de", "fr"], ["en", "en"], "en", {"en": 1}, ["../en"], [1], ["e" * 101]])
def test_a_data_manifest_has_one_or_two_languages_a_corpus(tmp_path: Path, languages: object) -> None:
    content = {
        "format": "ernie-m token shards",
        "format_version": 3,
        "languages": [],
        "tokenizer_file": "sentencepiece.bpe.model",
        "corpora": [{"name": "a", "languages": languages}],
    }
    write_json(tmp_path / "manifest.json", content)
    with pytest.raises(InputError, match=r"manifest\.json: .*(expected one or two codes|not a valid manifest)"):
        Manifest.read(tmp_path)


def test_a_kept_backbone_and_a_list_of_modules_name_nothing_elsewhere(tmp_path: Path) -> None:
    kept = {"../../x": hashlib.sha256().hexdigest()}
    write_json(tmp_path / SOURCE_FILE, {"name": "n", "has_head": True, "sha256": "x", "kept": kept})
    with pytest.raises(InputError, match=r"names '\.\./\.\./x', which lies elsewhere"):
        open_kept(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "config.json").write_text("{}")
    modules = tmp_path / "folder" / "modules.json"
    modules.write_text(json.dumps([{"type": "x.Pooling", "path": ".."}]))
    with pytest.raises(InputError, match=r"modules\.json: its pooling cannot be read .*outside"):
        _pooling_of(modules)


def test_weights_that_are_a_program_are_refused_and_not_run(tmp_path: Path) -> None:
    class Program:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path(tmp_path / "ran").write_text, ("x",))

    torch.save({"w": torch.zeros(1), "program": Program()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\.bin: not a file of tensors by name"):
        WeightFiles(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layers", "num_local_experts", "num_labels"])
def test_a_configuration_counts_nothing_without_end(tmp_path: Path, key: str) -> None:
    for number in (10**7, 10**400, -(10**9)):
        (tmp_path / "config.json").write_text(f'{{"model_type": "xlm-roberta", "{key}": {number}}}')
        with pytest.raises(InputError, match=rf"config\.json says {key} .*expected at most"):
            open_encoder(tmp_path)


def test_a_model_far_larger_than_its_weights_is_not_made() -> None:
    model = torch.nn.Embedding(10**7, 1024, device="meta")
    with pytest.raises(InputError, match=r"m: config\.json describes 10,240,000,000 parameters, its weights have 20;"):
        check_parameters("m", model, {"weight": (10, 2)})
    check_parameters("m", model, {"weight": (10**7, 1024)})


# -- the terminal ------------------------------------------------------------------------------------------------------


def test_what_strangers_say_is_not_long() -> None:
    assert len(str(InputError("x" * 10**6))) < 10_000


def test_what_strangers_say_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    for text, shown in (
        ("\x1b[2J\x07\r", "\\x1b[2J\\x07\\r"),
        ("a\u202eb\x9b", "a\\u202eb\\x9b"),
        ("\udcff", "\\udcff"),
        ("naïve 猫\tx", "naïve 猫\tx"),
    ):
        assert printable(text) == str(InputError(text)) == shown
    with pytest.raises(SystemExit):
        fail("name\x1b]0;title\x07")
    assert capsys.readouterr().err == "error: name\\x1b]0;title\\x07\n"


# -- lines -------------------------------------------------------------------------------------------------------------


def test_a_log_of_anything_gives_the_lines_that_are_its_own(tmp_path: Path) -> None:
    good = b'{"step": 1, "loss": 2.0}\n'
    strange = [b"[" * 100_000, b"9" * 5000, b"[1]", b"3", b'"step"', b'{"step": "x"}', b"\xff\xfe", b'{"step": 2, "lo']
    (tmp_path / "metrics.jsonl").write_bytes(good + b"\n".join(strange) + b"\n" + good)
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.0}] * 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0-1000000000\n", "is no link"),
        (f"0-{'9' * 5000}\n", "is no link"),
        ("\u0660-\u0661\n", "is no link"),
        ("999999999 1 1\n", "pair 999,999,999, expected at most 1,000,000"),
        ("0-0 " * (1 << 19), "a line of more than 1,048,576 bytes"),
    ],
)
def test_links_beyond_all_sentences_are_one_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_gold(tmp_path / "a")

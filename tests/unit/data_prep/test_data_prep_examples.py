"""The example catalog as it stands: every entry is built from small files in the layout of its corpus."""

from __future__ import annotations

import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
import zstandard
from prep_samples import bare_ids, rows_of, tarred

import data_prep
from data_prep.build import Options, build
from data_prep.verify import verify

EXAMPLES = Path(data_prep.__file__).with_name("example_catalog.yaml")
DOCUMENTS = ["the house is small\nand green\n\nder hund\n", "läuft schnell", "el río\u2028 polet\n"]
LINES = ["the house is small", "and green", "der hund", "läuft schnell", "el río\u2028 polet"]
STARTS = [True, False, False, True, True]

CRAWL = [
    "Nyumba hiyo iko juu ya kilima kidogo nyuma ya kanisa la zamani, na watu wengi huja kuiona kila mwaka.",
    "The house stands on a small hill behind the old church, and many people come to see it every year.",
    "https://example.org/habari/1 https://example.org/habari/2 <a href='x'>soma zaidi</a>",
    "Mvulana mdogo alikwenda sokoni asubuhi na mapema ili kununua samaki, mchele na matunda kwa ajili ya mama yake.",
    "Nyumba hiyo iko juu ya kilima kidogo nyuma ya kanisa la zamani, na watu wengi huja kuiona kila mwaka.",
    "NYUMBA hiyo iko juu ya kilima kidogo nyuma ya kanisa la zamani na watu wengi huja kuiona kila mwaka!",
    "Serikali ya Tanzania ilitangaza jana kwamba shule zote zitafunguliwa tena wiki ijayo baada ya likizo ndefu.",
]
"""Of a crawl: in Swahili; in English; an address and a tag; in Swahili; again, exactly; again, nearly; in Swahili."""
CRAWL_KEPT = [CRAWL[place] for place in (0, 3, 6)]


def text(side: str = "") -> bytes:
    return "".join(f"{line}{side}\n" for line in LINES).encode()


def cc100() -> bytes:
    return lzma.compress("\n".join(document.replace("\n\n", "\n").strip("\n") + "\n" for document in DOCUMENTS).encode())


def fineweb_2() -> pa.Table:
    ids = [f"<urn:uuid:{number}>" for number in range(3)]
    columns = {"text": DOCUMENTS, "id": ids, "dump": ["CC-MAIN-2014-10"] * 3, "language_score": [0.9] * 3}
    return pa.table({**columns, "top_langs": ["{}"] * 3, "minhash_cluster_size": [1] * 3})


def culturax() -> pa.Table:
    return pa.table({"text": DOCUMENTS, "timestamp": ["2020"] * 3, "url": ["http://a"] * 3, "source": ["mC4"] * 3})


def hplt() -> bytes:
    rows = [{"f": "./warc", "u": "http://a", "id": str(n), "lang": ["swh_Latn"], "text": t} for n, t in enumerate(DOCUMENTS)]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def madlad() -> bytes:
    return "".join(json.dumps({"text": text.replace("\n", "\\n")}) + "\n" for text in DOCUMENTS).encode()


def opus(name: str, source: str, target: str) -> bytes:
    """A zip in Moses' format."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in ("README", "LICENSE"):
            archive.writestr(member, "about")
        for side in (source, target):
            archive.writestr(f"{name}.{source}-{target}.{side}", text(f" {side}"))
        archive.writestr(f"{name}.{source}-{target}.xml", "<cesAlign/>")
    return buffer.getvalue()


def tmx(source: str, target: str) -> bytes:
    """As OPUS writes it."""
    units = "".join(
        "    <tu>\n"
        + "".join(f'      <tuv xml:lang="{side}"><seg>{line} {side}</seg></tuv>\n' for side in (source, target))
        + "    </tu>\n"
        for line in LINES
    )
    head = '<?xml version="1.0" encoding="UTF-8" ?>\n<tmx version="1.4">\n<header creationdate="2023" srclang="en"\n'
    head += '\tadminlang="en"\n\to-tmf="unknown"\n\tsegtype="sentence"\n\tcreationtool="Uplug"\n\tdatatype="PlainText" />\n'
    return f"{head}  <body>\n{units}  </body>\n</tmx>\n".encode()


def table(source: str, target: str, first: str = "") -> bytes:
    return "".join(f"{first}{line} {source}\t{line} {target}\n" for line in LINES).encode()


FILES: dict[str, Callable[[], bytes | pa.Table]] = {
    **{f"cc100/{code}.txt.xz": cc100 for code in ("en", "fr", "sw", "no")},
    "opus/Tatoeba.de-en.txt.zip": lambda: opus("Tatoeba", "de", "en"),
    "news/train.de.gz": lambda: gzip.compress(text(" de")),
    "news/train.en.gz": lambda: gzip.compress(text(" en")),
    "opus/Tatoeba.en-es.tmx.gz": lambda: gzip.compress(tmx("en", "es")),
    "WikiMatrix.en-fr.tsv.gz": lambda: gzip.compress(table("en", "fr", "1.1\t") + b"1.03\ttoo\tfar apart\n"),
    "opus/MultiUN.en-zh.txt.zip": lambda: opus("MultiUN", "en", "zh"),
    "parallel.tgz": lambda: tarred({f"parallel/IITB.en-hi.{side}": text(f" {side}") for side in ("hi", "en")}),
    "pairs.en-sw.tsv.gz": lambda: gzip.compress(table("en", "sw")),
    "fineweb-2/data/swh_Latn/train/000_00000.parquet": fineweb_2,
    "CulturaX/sw/sw_part_00000.parquet": culturax,
    **{f"HPLT/swh_Latn/{number}.jsonl.zst": lambda: zstandard.compress(hplt()) for number in (1, 2)},
    "madlad-400/sw/sw_clean_0000.jsonl.gz": lambda: gzip.compress(madlad()),
    "own.sw.txt.zst": lambda: zstandard.compress(text()),
    "crawl.sw.txt.zst": lambda: zstandard.compress("".join(f"{line}\n" for line in CRAWL).encode()),
    **{f"opus/{name}/v1/en-sw.txt.zip": lambda name=name: opus(name, "en", "sw") for name in ("CCMatrix", "NLLB")},
    **{
        f"opus-100-corpus/v1.0/supervised/en-sw/opus.en-sw-train.{side}": lambda side=side: text(f" {side}")
        for side in ("en", "sw")
    },
}
"""Path, as the example catalog has it -> what lies there."""


def put(path: Path, content: bytes | pa.Table) -> None:
    """Write a file, or a table in row groups of two."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pyarrow.parquet.write_table(content, path, row_group_size=2)


def test_every_entry_of_the_example_catalog_is_built_from_files_as_they_are_distributed(
    tokenizer: Path, tmp_path: Path
) -> None:
    for package in ("pycld2", "rensa"):
        pytest.importorskip(package)
    for path, content in FILES.items():
        put(tmp_path / path, content())
    (tmp_path / "c.yaml").write_bytes(EXAMPLES.read_bytes())
    manifest = build(tmp_path / "c.yaml", tokenizer, tmp_path / "out", Options(allow_unknown=True))
    assert manifest is not None
    assert verify(tmp_path / "out") == []
    entries = {entry["name"]: entry for entry in yaml.safe_load(EXAMPLES.read_text())["corpora"]}
    assert [corpus.name for corpus in manifest.corpora if corpus.name not in entries] == [
        "fineweb-2.sw.00000",
        "culturax.sw.00000",
        "hplt.sw.00000",
        "hplt.sw.00001",
    ]
    expected = [
        {"tokens": bare_ids(tokenizer, line), "starts_document": start} for line, start in zip(LINES, STARTS, strict=True)
    ]
    for corpus in manifest.corpora:
        rows = rows_of(tmp_path / "out", corpus.name, "train")
        if corpus.name == "crawl.sw":
            assert rows == [{"tokens": bare_ids(tokenizer, line), "starts_document": True} for line in CRAWL_KEPT]
            assert sorted(corpus.rejected.values()) == [1] * 4
            assert {"duplicate of an earlier line", "near duplicate of an earlier line"} < {*corpus.rejected}
        elif corpus.name == "own.sw":
            assert rows == [{**row, "starts_document": True} for row in expected]
        elif len(corpus.languages) == 1:
            assert rows == expected, corpus.name
        else:
            rows += rows_of(tmp_path / "out", corpus.name, "held_out")
            source, target = corpus.languages  # of the shards: sorted
            pairs = [(bare_ids(tokenizer, f"{line} {source}"), bare_ids(tokenizer, f"{line} {target}")) for line in LINES]
            assert sorted((row["source"], row["target"]) for row in rows) == sorted(pairs), corpus.name

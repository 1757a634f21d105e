"""The corpus as files, in the layouts of real corpora, so that the same readers read both.

1. Every file takes its sentences from its own range of indices, so no fact is used twice.
2. Monolingual text becomes CC-100 files; the English-centred pairs are spread over the published layouts of parallel text.
3. The WikiMatrix files also hold pairs that do not belong together, below the score where a reader should cut.
4. Held-out pairs come last: a fact is passed over if its text, in either language, stands in a training file.
5. `catalog.yaml` lists the training files.

Every byte follows from the arguments: archives carry no clock time and no user name.
"""

from __future__ import annotations

import gzip
import io
import itertools
import lzma
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.sax.saxutils import escape

from data_prep.embedded.facts import Draws, fact
from data_prep.embedded.phrases import LANGUAGES, phrasebook
from ernie_m.base.console import InputError, Progress
from ernie_m.base.files import refuse_existing, written_atomically

LAYOUTS = {
    "ar": "tmx.zip",
    "el": "moses",
    "fr": "wikimatrix",
    "hi": "iitb",
    "ja": "tsv",
    "ko": "moses",
    "ru": "wikimatrix",
    "sw": "tmx",
    "th": "tmx.gz",
    "tr": "tsv",
    "zh": "multiun",
}
"""In which layout the pairs of each language with English are written."""

HELD_OUT_SHARE = 0.03
"""Of the training pairs that data_prep keeps for the cross-lingual gain; the files in heldout/ are apart from these."""
THRESHOLD = 1.04
"""WikiMatrix pairs that score below this are better left out, as its authors advise."""
NOISE_SHARE = 0.05
"""Share of the pairs in a WikiMatrix file that are no translations of each other."""

_PURPOSES = ("monolingual", "parallel", "noise", "held out")
_RANGE = 10**9
Pair = tuple[str, str]


def sentence(seed: int, index: int, language: str) -> str:
    """Fact `index` of the list that `seed` stands for, in words: the same fact whatever the language."""
    return phrasebook(language).sentence(fact(seed, index))


def first_index(purpose: str, language: str) -> int:
    """Where the index range of a purpose and language begins; ranges hold 10^9 facts and do not overlap."""
    return (_PURPOSES.index(purpose) * len(LANGUAGES) + LANGUAGES.index(language)) * _RANGE


def write_embedded_corpus(
    out: Path,
    *,
    seed: int = 0,
    lines_per_language: int,
    pairs_per_language: int,
    held_out_pairs: int = 500,
    overwrite: bool = False,
) -> None:
    """Write the whole corpus below `out`: cc100/, parallel/, heldout/ and catalog.yaml.

    Files that are there already with the same bytes stay; any other is refused (InputError) unless `overwrite`.
    """
    sizes = (("lines", lines_per_language, 1), ("pairs", pairs_per_language, 1), ("held_out", held_out_pairs, 0))
    for name, number, least in sizes:
        if not isinstance(number, int) or not least <= number < _RANGE // 2:
            raise InputError(f"{name} is {number!r}: expected a whole number between {least} and {_RANGE // 2 - 1:,}")
    phrasebook("en")  # says at once if Babel is missing
    for folder in ("cc100", "parallel", "heldout"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    progress = Progress("embedded corpus", 3 * len(LANGUAGES) - 2, "files")
    known: dict[str, set[str]] = {language: set() for language in LANGUAGES}
    entries: list[str] = []
    for language in LANGUAGES:
        lines = [sentence(seed, first_index("monolingual", language) + i, language) for i in range(lines_per_language)]
        known[language].update(lines)
        path = out / "cc100" / f"{language}.txt.xz"
        _write(path, lzma.compress(_documents(lines, seed, language).encode(), preset=3), overwrite)
        entries.append(_entry(f"cc100-{language}", "cc100", path.relative_to(out), f"language: {language}"))
        progress.advance(1, path.name)
    for language in LAYOUTS:
        pairs = [_pair(seed, first_index("parallel", language) + i, language) for i in range(pairs_per_language)]
        entries.append(_write_pairs(out, seed, language, pairs, known, overwrite))
        progress.advance(1, language)
    for language in LAYOUTS:
        pairs = list(itertools.islice(held_out(seed, language, known), held_out_pairs))
        for side, code in enumerate((language, "en")):
            _write(out / "heldout" / f"{language}-en.{code}", _lines(pair[side] for pair in pairs), overwrite)
        progress.advance(1, f"heldout {language}")
    _write(out / "catalog.yaml", ("corpora:\n" + "".join(entries)).encode(), overwrite)
    progress.close()


def held_out(seed: int, language: str, known: dict[str, set[str]]) -> Iterator[Pair]:
    """Pairs (language, English) of the held-out range whose texts are new: not in `known`, not given before."""
    seen: dict[str, set[str]] = {language: set(), "en": set()}
    for index in itertools.count(first_index("held out", language)):
        texts = {code: sentence(seed, index, code) for code in (language, "en")}
        if not any(text in known[code] or text in seen[code] for code, text in texts.items()):
            for code, text in texts.items():
                seen[code].add(text)
            yield texts[language], texts["en"]


def scored_pairs(seed: int, language: str, pairs: list[Pair]) -> list[tuple[float, Pair]]:
    """WikiMatrix rows, best score first: the true pairs at the threshold or above, and the noise below it."""
    true_rows = [(_score(seed, language, i, THRESHOLD, 1.3), pair) for i, pair in enumerate(pairs)]
    num_noise = max(1, round(len(pairs) * NOISE_SHARE / (1 - NOISE_SHARE)))
    start = first_index("noise", language)
    noise_rows = []
    for i in range(num_noise):  # two different facts side by side
        pair = sentence(seed, start + 2 * i, language), sentence(seed, start + 2 * i + 1, "en")
        noise_rows.append((_score(seed, language, len(pairs) + i, 0.95, THRESHOLD), pair))
    return sorted(true_rows + noise_rows, key=lambda row: (-row[0], row[1]))


def _score(seed: int, language: str, row: int, low: float, high: float) -> float:
    """A score in [low, high), in millionths."""
    low_millionths = round(low * 1e6)
    return (low_millionths + Draws("score", seed, language, row).below(round(high * 1e6) - low_millionths)) / 1e6


def _pair(seed: int, index: int, language: str) -> Pair:
    return sentence(seed, index, language), sentence(seed, index, "en")


def _documents(lines: list[str], seed: int, language: str) -> str:
    """Documents of five to ten sentences, a blank line between them."""
    documents, start = [], 0
    while start < len(lines):
        end = start + 5 + Draws("document", seed, language, start).below(6)
        documents.append("".join(line + "\n" for line in lines[start:end]))
        start = end
    return "\n".join(documents)


def _write_pairs(out: Path, seed: int, language: str, pairs: list[Pair], known: dict[str, set[str]], overwrite: bool) -> str:
    """Write one language's pairs with English in its layout; note the texts in `known`; return the catalog entry."""
    layout = LAYOUTS[language]
    codes = sorted((language, "en"))
    rows = scored_pairs(seed, language, pairs) if layout == "wikimatrix" else [(0.0, pair) for pair in pairs]
    known[language].update(pair[0] for _, pair in rows)
    known["en"].update(pair[1] for _, pair in rows)
    if codes[0] == "en":  # OPUS names and orders the two sides alphabetically
        rows = [(score, (english, other)) for score, (other, english) in rows]
    columns = {code: _lines(pair[side] for _, pair in rows) for side, code in enumerate(codes)}
    name, title, file_name, content = f"CLDR.{'-'.join(codes)}", layout.partition(".")[0], "", b""
    if layout in ("moses", "multiun"):
        name = name.replace("CLDR", "MultiUN") if layout == "multiun" else name
        file_name, content = f"{name}.txt.zip", _zip({"README": _readme(name), **_named(name, columns)})
    elif title == "tmx":
        tmx, file_name = _tmx(codes, (pair for _, pair in rows)), f"{name}.{layout}"
        content = {"tmx": tmx, "tmx.gz": _gzip(tmx), "tmx.zip": _zip({f"{name}.tmx": tmx})}[layout]
    elif layout == "wikimatrix":
        name = name.replace("CLDR", "WikiMatrix")
        content = _gzip("".join(f"{score:.6f}\t{first}\t{second}\n" for score, (first, second) in rows).encode())
        file_name = f"{name}.tsv.gz"
    elif layout == "iitb":
        name, file_name = f"IITB.{'-'.join(codes)}", "parallel.tgz"
        content = _gzip(_tar(_named(f"parallel/{name}", columns)))
    else:
        assert layout == "tsv", layout
        file_name, content = f"{name}.tsv.gz", _gzip("".join(f"{a}\t{b}\n" for _, (a, b) in rows).encode())
    _write(out / "parallel" / file_name, content, overwrite)
    more = [f"languages: [{', '.join(codes)}]", f"held_out: {HELD_OUT_SHARE}"] + (
        [f"threshold: {THRESHOLD}"] if layout == "wikimatrix" else []
    )
    return _entry(name, title, Path("parallel") / file_name, *more)


def _entry(name: str, title: str, path: Path, *more: str) -> str:
    """One corpus of catalog.yaml."""
    first, *rest = [f"name: {name}", f"format: {title}", f"path: {path.as_posix()}", *more]
    return f"  - {first}\n" + "".join(f"    {line}\n" for line in rest)


def _named(name: str, columns: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{name}.{code}": content for code, content in columns.items()}


def _readme(name: str) -> bytes:
    return f"{name}: sentences generated from Unicode CLDR data (https://cldr.unicode.org), one a line.\n".encode()


def _lines(texts: Iterable[str]) -> bytes:
    return "".join(text + "\n" for text in texts).encode()


def _tmx(codes: list[str], pairs: Iterable[Pair]) -> bytes:
    """TMX 1.4 as OPUS writes it."""
    parts = [
        '<?xml version="1.0" encoding="UTF-8" ?>\n<tmx version="1.4">\n'
        f'<header creationtool="data_prep" creationtoolversion="1" segtype="sentence" o-tmf="unknown" adminlang="en" '
        f'srclang="{codes[0]}" datatype="PlainText" />\n  <body>\n'
    ]
    for pair in pairs:
        units = (f'      <tuv xml:lang="{c}"><seg>{escape(t)}</seg></tuv>\n' for c, t in zip(codes, pair, strict=True))
        parts.append("    <tu>\n" + "".join(units) + "    </tu>\n")
    return ("".join(parts) + "  </body>\n</tmx>\n").encode()


def _gzip(content: bytes) -> bytes:
    return gzip.compress(content, mtime=0)


def _zip(members: dict[str, bytes]) -> bytes:
    """A zip whose members have the earliest date that a zip can store."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            info.compress_type, info.create_system, info.external_attr = zipfile.ZIP_DEFLATED, 3, 0o644 << 16
            archive.writestr(info, content)
    return buffer.getvalue()


def _tar(members: dict[str, bytes]) -> bytes:
    """A tar whose members have no owner and are dated 1970."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def _write(path: Path, content: bytes, overwrite: bool) -> None:
    if path.is_file() and path.read_bytes() == content:
        return
    refuse_existing("--out", path, overwrite=overwrite)
    with written_atomically(path) as aside:
        aside.write_bytes(content)

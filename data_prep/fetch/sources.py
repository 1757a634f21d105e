"""Addresses of public corpora, their paths in the user's folder, and their entries in the catalog.

The path in the folder identifies the file, whichever catalog names it:

    cc100/sw.txt.xz                        https://data.statmt.org/cc-100/sw.txt.xz
    wikimatrix/WikiMatrix.en-sw.tsv.gz     https://dl.fbaipublicfiles.com/laser/WikiMatrix/v1/WikiMatrix.en-sw.tsv.gz
    opus/Tanzil/v1/en-sw.txt.zip           https://object.pouta.csc.fi/OPUS-Tanzil/v1/moses/en-sw.txt.zip
    iitb/parallel.tgz                      https://www.cfilt.iitb.ac.in/iitb_parallel/iitb_corpus_download/parallel.tgz

Those of `FROM_PACKAGES` are made of a distribution's packages instead.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from data_prep.fetch import cc100_listing, freedict, gettext_messages, libreoffice, mozilla
from data_prep.fetch.catalog_file import Entry
from data_prep.fetch.from_packages import FromPackages
from ernie_m.base.command_line import nearest
from ernie_m.base.console import InputError
from ernie_m.base.language_codes import canonical, without_region

FROM_PACKAGES = {
    libreoffice.CORPUS: FromPackages(libreoffice.needed, libreoffice.write),
    mozilla.CORPUS: FromPackages(mozilla.needed, mozilla.write),
    freedict.CORPUS: FromPackages(freedict.needed, freedict.write),
    gettext_messages.CORPUS: FromPackages(gettext_messages.needed, gettext_messages.write, gettext_messages.named),
}
"""Corpora out of a distribution's packages: no file of theirs has an address."""
LAYOUTS = (
    (r"cc100/([A-Za-z_-]+)\.txt\.xz", r"https://data.statmt.org/cc-100/\1.txt.xz"),
    (
        r"wikimatrix/(WikiMatrix\.[a-z_]+-[a-z_]+\.tsv\.gz)",
        r"https://dl.fbaipublicfiles.com/laser/WikiMatrix/v1/\1",
    ),
    (
        r"opus/([A-Za-z0-9][\w.-]*)/([A-Za-z0-9][\w.-]*)/([A-Za-z_]+-[A-Za-z_]+)\.txt\.zip",
        r"https://object.pouta.csc.fi/OPUS-\1/\2/moses/\3.txt.zip",
    ),
    (r"iitb/parallel\.tgz", r"https://www.cfilt.iitb.ac.in/iitb_parallel/iitb_corpus_download/parallel.tgz"),
)
MULTIUN_VERSION = "v1"
MULTIUN_LANGUAGES = ("ar", "de", "en", "es", "fr", "ru", "zh")
_WIKIMATRIX = """
an ar arz as az azb ba bar be bg bn br bs ca ceb cs da de el en eo es et eu fa fi fo fr fy gl gom he hi hr hu hy id io is
it ja jv ka kk ko la lb lmo lt mg mk ml mr mwl nds nds_nl ne nl no oc pl pt rm ro ru scn sh si simple sk sl sq sr sv sw ta
te tg tl tr tt ug uk vi wuu zh
"""
WIKIMATRIX_LANGUAGES = tuple(_WIKIMATRIX.split())


@dataclass(frozen=True)
class Remote:
    """A file that can be fetched, and the corpus that it becomes."""

    url: str
    entry: Entry
    hint: str = ""
    """Said when the server has no such file."""

    @property
    def path(self) -> Path:
        """Where it goes, relative to the user's folder."""
        return Path(self.entry["path"])

    @property
    def about_bytes(self) -> int:
        """Its published size, rounded; 0 if none is published."""
        return cc100_listing.SIZES.get(self.path.name.removesuffix(".txt.xz"), 0) if self.path.parts[0] == "cc100" else 0


def address_of(path: str) -> str | None:
    """The address of a file by its path in the user's folder; None for one that no source of ours publishes."""
    for pattern, address in LAYOUTS:
        if found := re.fullmatch(pattern, path, re.ASCII):
            return found.expand(address)
    return None


def remote_of(entry: Entry) -> Remote:
    """The remote file of a catalog's entry; raises InputError for a file that is none of ours."""
    path = str(entry.get("path", f"{entry.get('source')} with {entry.get('target')}"))
    url = address_of(path)
    if url is None:
        raise InputError(
            f"corpus {entry['name']}: fetch does not know {path}, expected a path such as cc100/sw.txt.xz, "
            "wikimatrix/WikiMatrix.en-sw.tsv.gz, opus/Tanzil/v1/en-sw.txt.zip or iitb/parallel.tgz; "
            "take it out of the catalog or download it yourself"
        )
    return Remote(url, entry, _hint(path))


def _hint(path: str) -> str:
    top, *folders, name = path.split("/")
    pair = name.removeprefix("WikiMatrix.").partition(".")[0].split("-")
    if top == "wikimatrix":
        return _unknown_language(pair, WIKIMATRIX_LANGUAGES, "WikiMatrix")
    if folders[:1] == ["MultiUN"]:
        return _unknown_language(pair, MULTIUN_LANGUAGES, "MultiUN")
    return "; look at its page in a browser, it may have moved; another server can be given with --mirror"


def _unknown_language(pair: list[str], known: Sequence[str], name: str) -> str:
    for code in pair:
        if code not in known:
            return f"; {name} has no language `{code}`" + (nearest(code, known) or f", expected one of {' '.join(known)}")
    return f"; {name} has both languages, but not this pair"


def cc100_files(language: str) -> list[Remote]:
    """CC-100 of a language: one file, or two for `zh`; raises InputError with the nearest for one it does not have."""
    codes = cc100_listing.codes_of(language)
    if not codes:
        by_name = {name.lower(): code for code, name in cc100_listing.NAMES.items()}
        hint = f", did you mean `{by_name[language.lower()]}`?" if language.lower() in by_name else None
        hint = hint or nearest(language.lower(), cc100_listing.NAMES) or f", expected one of {' '.join(cc100_listing.NAMES)}"
        raise InputError(f"--lang {language}: CC-100 has no file {language}.txt.xz{hint}")
    return [remote_of(_cc100_entry(code)) for code in codes]


def _cc100_entry(code: str) -> Entry:
    path = f"cc100/{code}.txt.xz"
    return {"name": f"cc100.{code}", "format": "cc100", "path": path, "language": cc100_listing.language_of(code)}


def wikimatrix_file(source: str, target: str) -> Remote:
    """WikiMatrix of a pair; the files have their languages in alphabetical order."""
    first, second = sorted((source, target))
    path = f"wikimatrix/WikiMatrix.{first}-{second}.tsv.gz"
    return remote_of(pair_entry("wikimatrix", "wikimatrix", (source, target), path))


def multiun_file(source: str, target: str) -> Remote:
    """MultiUN of a pair, from OPUS, in whose names the languages are in alphabetical order."""
    first, second = sorted((source, target))
    path = f"opus/MultiUN/{MULTIUN_VERSION}/{first}-{second}.txt.zip"
    return remote_of(pair_entry("multiun", "multiun", (source, target), path))


def iitb_file(source: str, target: str) -> Remote:
    """IIT Bombay's English-Hindi corpus; raises InputError for another pair."""
    if {source, target} != {"en", "hi"}:
        raise InputError(f"--lang {source}-{target}: IIT Bombay's corpus has en-hi alone; leave --lang out")
    return remote_of(pair_entry("iitb", "iitb", (source, target), "iitb/parallel.tgz"))


def pair_entry(name: str, format_name: str, codes: tuple[str, str], path: str) -> Entry:
    """The entry of a pair; regions are dropped (zh_cn is zh), unless nothing else tells its two languages apart."""
    languages = list(map(without_region, codes))
    languages = languages if len(set(languages)) == 2 else list(map(canonical, codes))
    return {"name": f"{name}.{'-'.join(codes)}", "format": format_name, "path": path, "languages": languages}

"""Codes of languages by BCP 47: one spelling of each, and whether two of them mean the same text.

`DE`, `deu` and `de` are one language, `iw` is `he`, `zh_cn` is `zh-CN` (langcodes, which carries IANA's registry). Corpora
have codes of their own besides, which `OF_CORPORA` translates.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from ernie_m.base.console import InputError

if TYPE_CHECKING:
    from langcodes import Language

CODE = re.compile(r"[A-Za-z]{2,8}([-_][A-Za-z0-9]+)*")
"""How a code looks, in any spelling."""
OF_CORPORA = {
    "simple": "en-simple",
    "bat-smg": "sgs",
    "be-x-old": "be-tarask",
    "fiu-vro": "vro",
    "my-zaw": "my-Qaag",
    "nds-nl": "nds-NL",
    "roa-rup": "rup",
    "zh-classical": "lzh",
    "zh-min-nan": "nan",
    "zh-yue": "yue",
}
"""Codes of Wikipedia, OPUS and CC-100 that are not BCP 47."""
OF_DATA_SETS = {"fil": "tl"}
"""Languages that CLDR, and so langcodes, calls otherwise than benchmarks do."""
DIFFERENT = ("sh", "tl")
"""Languages of IANA's registry that CLDR, and so langcodes, would give another's code: corpora have both."""
_SHORT = (
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el "
    "en eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu "
    "ja jv ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na "
    "nb nd ne ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so "
    "sq sr ss st su sv sw ta te tg th ti tk tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu "
)
SHORT = frozenset(_SHORT.split())
"""Canonical codes of two letters. Most corpora have no others, and then the registry is not loaded, a tenth of a start."""
MOST_CHARACTERS = 100
"""Of a code; the longest that BCP 47 foresees has 35, and langcodes goes a level down with every part."""
MOST_KEPT = 10_000
"""Of what langcodes has read."""
NORWEGIAN = ("nb", "no")
"""The same text in practice: corpora call Bokmål so or so."""
ROMANIZED = re.compile(r"([a-z]{2,3})-rom")


def canonical(code: str) -> str:
    """The one spelling of a code; raises InputError for a text that is no code."""
    found = _canonical(code)
    if found is None:
        raise InputError(f"language {code[:80]!r}: expected a BCP 47 code such as en, zh-Hans or sr-Latn")
    return found


@lru_cache(maxsize=4096)
def agree(code: str, wanted: str, exactly: bool = False) -> bool:
    """Whether text marked `code` is what is `wanted`.

    Languages are compared (en-US is en, cmn is zh, nb is no), and scripts where both say one, by themselves or by their
    region: zh-TW is not zh-Hans, sr-Latn is not sr-Cyrl. `exactly`: the canonical codes are the same.
    """
    ours, theirs = _canonical(wanted), _canonical(code)
    if ours is None or theirs is None:
        return ours == theirs and code.lower() == wanted.lower()
    if ours == theirs or exactly:
        return ours == theirs
    (our_language, our_script), (their_language, their_script) = _parts(ours), _parts(theirs)
    is_same = our_language == their_language or {our_language, their_language} == {*NORWEGIAN}
    return is_same and (our_script == their_script or not our_script or not their_script)


def script_of(code: str) -> str | None:
    """The script that text in a language is usually written in, e.g. Cyrl; None where nobody knows."""
    language = _canonical(code)
    if language is None:
        return None
    given = _parsed(language)
    found = given.maximize()
    is_guess = (found.script, found.territory) == ("Latn", "US") and found.language != "en"  # langcodes' answer to any code
    return None if is_guess and given.script is None else found.script


def three_letters(code: str) -> str:
    """ISO 639-3: bre for br, deu for de; raises InputError for what is no language's code."""
    try:
        return _parsed(canonical(code)).to_alpha3()
    except LookupError:
        raise InputError(f"language {code[:80]!r}: no such language; expected a code such as br or bre") from None


def macrolanguage(code: str) -> str:
    """The code that most data sets use: zh for cmn, fa for pes, tl for fil and tgl; as it stands where it is no code."""
    found = _canonical(code)
    return code if found is None else OF_DATA_SETS.get(language := _parts(found)[0], language)


def without_region(code: str) -> str:
    """The canonical code without its region: zh_cn is zh, sr_Latn_RS is sr-Latn."""
    parsed = _parsed(canonical(code), normalize=False)
    return "-".join(part for part in parsed.to_tag().split("-") if part != parsed.territory)


@lru_cache(maxsize=4096)
def _canonical(code: str) -> str | None:
    if len(code) > MOST_CHARACTERS:
        return None
    text = code.strip().replace("_", "-").lower()
    if text in SHORT:
        return text
    from langcodes.tag_parser import LanguageTagError

    text = OF_CORPORA.get(text, ROMANIZED.sub(r"\1-Latn", text))
    try:
        if text.partition("-")[0] in DIFFERENT:
            return _parsed(text, normalize=False).to_tag()
        return _standard(text)
    except LanguageTagError:
        return None


def _parsed(code: str, normalize: bool = True) -> Language:
    from langcodes import Language

    for kept in ("_PARSE_CACHE", "_INSTANCES"):  # langcodes forgets none: a file may have a code a unit
        if len(known := vars(Language).get(kept, {})) > MOST_KEPT:
            known.clear()
    return Language.get(code, normalize=normalize)


def _standard(code: str, macro: bool = False) -> str:
    from langcodes import standardize_tag

    return standardize_tag(code, macro=macro)


@lru_cache(maxsize=4096)
def _parts(code: str) -> tuple[str, str | None]:
    """(language, its script if the code says one, by itself or by its region) of a canonical code."""
    parsed = _parsed(code)
    language, script = parsed.language or code, parsed.script
    if language not in DIFFERENT:
        language = _parsed(_standard(language, macro=True)).language or language
    if script is None and parsed.territory is not None:
        script = parsed.maximize().script
    return language, script

"""One spelling of each language, and which text is what was asked for."""

from __future__ import annotations

import langcodes
import pytest

from ernie_m.base.console import InputError
from ernie_m.base.language_codes import SHORT, agree, canonical, script_of, without_region


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        (("de", "DE", "deu", "ger", "de_Latn"), "de"),
        (("zh-CN", "zh_cn", "ZH-cn"), "zh-CN"),
        (("iw", "he", "heb"), "he"),
        (("sr_Latn", "sr-latn"), "sr-Latn"),
        (("bn_rom",), "bn-Latn"),
        (("simple",), "en-simple"),
        (("tl",), "tl"),
        (("sh",), "sh"),
        (("no",), "no"),
    ],
)
def test_all_spellings_of_a_code_are_one(codes: tuple[str, ...], expected: str) -> None:
    assert {canonical(code) for code in codes} == {expected}
    assert canonical(expected) == expected


def test_codes_that_are_taken_as_they_stand_are_those_of_the_registry() -> None:
    assert len(SHORT) > 180
    assert {code: langcodes.standardize_tag(code) for code in SHORT} == {code: code for code in SHORT}


def test_codes_without_end_take_no_memory_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ernie_m.base.language_codes.MOST_KEPT", 50)
    for number in range(300):
        assert not agree(f"x-code{number}", "fr")
        assert canonical(f"de-x-code{number}") == f"de-x-code{number}"
    kept = langcodes.Language._PARSE_CACHE, langcodes.Language._INSTANCES
    assert all(len(known) < 100 for known in kept)
    assert agree("zh-TW", "zh-Hant")


@pytest.mark.parametrize("code", ["", "e", "english1", "fr_FR.UTF-8", "de en", "en-" + "-".join(["abcdefgh"] * 5000)])
def test_what_is_no_code_is_refused(code: str) -> None:
    with pytest.raises(InputError, match="expected a BCP 47 code"):
        canonical(code)


@pytest.mark.parametrize(
    ("code", "wanted", "loosely", "exactly"),
    [
        ("en-US", "en", True, False),
        ("EN", "en", True, True),
        ("eng", "en", True, True),
        ("en", "en-GB", True, False),
        ("es", "en", False, False),
        ("frr", "fr", False, False),
        ("sr-Latn", "sr-Cyrl", False, False),
        ("sr_Cyrl_RS", "sr-Latn", False, False),
        ("sr-Latn", "sr", True, False),
        ("zh-TW", "zh-Hans", False, False),
        ("zh_CN", "zh-Hans", True, False),
        ("zh_tw", "zh", True, False),
        ("cmn", "zh", True, False),
        ("iw", "he", True, True),
        ("nb-NO", "no", True, False),
        ("no", "nb", True, False),
        ("nn", "no", False, False),
        ("no code", "fr", False, False),
    ],
)
def test_languages_are_compared_and_scripts_where_they_are_given(
    code: str, wanted: str, loosely: bool, exactly: bool
) -> None:
    assert agree(code, wanted) is loosely
    assert agree(code, wanted, exactly=True) is exactly


def test_a_region_goes_and_a_script_stays() -> None:
    codes = ["zh_cn", "pt_br", "sr_Latn", "sr_Latn_RS", "de", "es_419"]
    assert list(map(without_region, codes)) == ["zh", "pt", "sr-Latn", "sr-Latn", "de", "es"]


def test_a_language_has_its_usual_script() -> None:
    assert [script_of(code) for code in ("sr", "sr-Latn", "he", "zh-TW", "th")] == ["Cyrl", "Latn", "Hebr", "Hant", "Thai"]
    assert [script_of(code) for code in ("en", "en-US", "qaa", "qaa-Latn")] == ["Latn", "Latn", None, "Latn"]

from __future__ import annotations

import pytest

from ernie_m.base.command_line import checked_arguments, run, words_in
from ernie_m.base.console import InputError


def train(*overrides: str, recipe: str, seed: int = 0, from_scratch: bool = False) -> None:
    """A command with overrides."""


class Tools:
    """Two commands."""

    def measure(self, *, model: str, layer: int | str = "all") -> None:
        """Measure."""

    def write_out(self, *, to: str) -> None:
        """Write."""


def test_texts_stay_texts_and_flags_need_no_value() -> None:
    checked = checked_arguments(train, "train", ["a.b=1e3", "--recipe", "1e3", "--from_scratch", "c=[x: 1]", "--seed=7"])
    assert checked == ["'a.b=1e3'", "'c=[x: 1]'", "--recipe='1e3'", "--from_scratch=True", "--seed=7"]
    assert checked_arguments(train, "train", ["--recipe=r", "--nofrom-scratch"])[-1] == "--from_scratch=False"


def test_options_of_another_program_are_a_value() -> None:
    checked = checked_arguments(train, "train", ["--recipe", "--ssh_port 22 --bind", "--seed", "7"])
    assert checked == ["--recipe='--ssh_port 22 --bind'", "--seed=7"]


def test_commands_may_be_spelt_with_hyphens() -> None:
    assert checked_arguments(Tools, "tools", ["write-out", "--to", "x"]) == ["write_out", "--to='x'"]
    assert checked_arguments(Tools, "tools", ["measure", "--model", "m", "--layer", "3"])[-1] == "--layer=3"


@pytest.mark.parametrize(
    ("component", "arguments", "expected"),
    [
        (train, ["--recipe", "r", "--from_scrach"], "unknown option --from_scrach, did you mean `from_scratch`?"),
        (train, ["--seed", "3"], "--recipe is missing"),
        (train, ["--recipe"], "--recipe has no value"),
        (train, ["--recipe", "--bind"], "; as the value of --recipe it is --recipe=--bind"),
        (
            train,
            ["--recipe", "r", "--from_scratch=no"],
            "--from_scratch=no; a flag takes no value: --from_scratch, or --nofrom",
        ),
        (train, ["--recipe", "r", "--from-scratch=false"], "--from_scratch=false; a flag takes no value"),
        (train, ["--recipe", "r", "--seed", "3", "--recipe=s"], "name: --recipe is given 2 times; expected once"),
        (train, ["--recipe", "r", "--from_scratch", "--nofrom-scratch"], "--from_scratch is given 2 times"),
        (train, ["--recipe", "r", "a.b=1", "c=a.b=2", "a.b=1"], "name: a.b is given 2 times; expected once"),
        (Tools, ["measure", "--model", "m", "-m", "n"], "--model is given 2 times"),
        (Tools, ["mesure", "--model", "m"], "unknown command mesure, did you mean `measure`?"),
        (Tools, ["measure", "m"], "unexpected `m`"),
        (Tools, ["measure", "--layer", "3"], "--model is missing"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_runs(component: object, arguments: list[str], expected: str) -> None:
    with pytest.raises(InputError) as caught:
        checked_arguments(component, "name", arguments)  # type: ignore[arg-type]
    assert expected in str(caught.value)


def test_help_runs_nothing() -> None:
    assert checked_arguments(train, "train", ["--help", "--recipe", "r"])[-1] == "--help"
    assert checked_arguments(Tools, "tools", []) == ["--help"]
    assert checked_arguments(Tools, "tools", ["measure", "--help"]) == ["measure", "--help"]


def test_help_offers_no_short_form_that_is_its_own(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def plan(*, hostfile: str | None = None, gpu: str | None = None) -> None:
        """Plan."""

    monkeypatch.setattr("sys.argv", ["plan", "-h"])
    with pytest.raises(SystemExit):
        run(plan, "plan")
    told = capfd.readouterr()
    assert "--hostfile" in told.out + told.err
    assert "-g, --gpu" in told.out + told.err
    assert "-h, " not in told.out + told.err


def test_words_in_quotes_are_split_as_by_a_shell_and_an_open_quotation_is_refused() -> None:
    assert words_in("""--ssh_port 22 -F 'my file'""", "--more") == ("--ssh_port", "22", "-F", "my file")
    with pytest.raises(InputError, match=r"--more -F 'x: No closing quotation; expected words as in a shell"):
        words_in("-F 'x", "--more")


def test_a_home_folder_is_found_where_the_shell_leaves_it_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert checked_arguments(train, "train", ["--recipe=~/r.yaml"]) == ["--recipe='/home/somebody/r.yaml'"]
    assert checked_arguments(train, "train", ["--recipe", "a~b"]) == ["--recipe='a~b'"]
    with pytest.raises(InputError, match=r"--recipe ~nobody-here/r: there is no home folder of ~nobody-here"):
        checked_arguments(train, "train", ["--recipe=~nobody-here/r"])

"""Numbers on the command line: every option bounds its own, and no length of digits is a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest

from csp_index.cli import cli
from csp_index.errors import AddressError, EvaluationError, SettingError
from csp_index.evaluation.options import MethodChoice
from csp_index.records import BOUNDS, ExampleOptions, NeuronKey, ScoringOptions
from csp_index.store.addresses import parse_neurons

WHOLE = [
    (name, option)
    for name, command in sorted(cli.commands.items())
    for option in command.params
    if isinstance(option.type, click.types.IntParamType)
]


def test_every_option_that_takes_a_whole_number_is_bounded_to_64_bits() -> None:
    assert len(WHOLE) > 20
    for name, option in WHOLE:
        kind = option.type
        assert isinstance(kind, click.IntRange), f"{name} {option.opts}"
        assert kind.min is not None and kind.max is not None
        assert -(2**63) <= kind.min <= kind.max < 2**63


@pytest.mark.parametrize(("name", "option"), WHOLE, ids=[f"{name} {option.opts[0]}" for name, option in WHOLE])
def test_a_number_out_of_its_bounds_is_refused(name: str, option: click.Parameter) -> None:
    for number in ("9" * 20, "-" + "9" * 20, "9" * 5000, "1e9", "0x10", "", "½"):
        with pytest.raises(click.BadParameter):
            option.type.convert(number, option, None)


@pytest.mark.parametrize("option", ["--decode-workers", "--shard-size"])
@pytest.mark.parametrize("number", ["9" * 20, "9" * 5000])
def test_wrong_numbers_are_wrong_usage(run: Any, tmp_path: Path, option: str, number: str) -> None:
    said = run("index", tmp_path / "new", option, number)
    assert (said.status, said.out) == (2, "")
    assert f"Invalid value for '{option}'" in said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", BOUNDS)
def test_the_options_of_labels_are_bounded_in_python_too(name: str) -> None:
    kinds = [kind for kind in (ExampleOptions, ScoringOptions) if name in kind.__dataclass_fields__]
    for kind in kinds:
        least, most = BOUNDS[name]
        kind(**{name: least})
        kind(**{name: most})
        for value in (least - 1, most + 1, 10**20, -(10**20), 10**5000, float("inf"), True):
            with pytest.raises(SettingError, match=name.replace("_", " ")) as caught:
                kind(**{name: value})
            assert "\n" not in str(caught.value) and len(str(caught.value)) < 300


@pytest.mark.parametrize("text", ["csp:examples=" + "9" * 5000, "csp:gamma=" + "[" * 100_000, "csp:gamma=1e999"])
def test_the_options_of_a_method_are_refused_by_the_option(text: str) -> None:
    with pytest.raises((SettingError, EvaluationError)):
        choice = MethodChoice.parse(text)
        ExampleOptions(**{k: v for k, v in choice.options.items() if k == "examples"})
        ScoringOptions(**{k: v for k, v in choice.options.items() if k == "gamma"})


@pytest.mark.parametrize("neurons", ["9" * 20, "0-" + "9" * 20, "9" * 5000, "1,2," + "9" * 30])
def test_numbers_of_neurons_are_bounded(neurons: str) -> None:
    with pytest.raises(AddressError):
        for address in parse_neurons("m/l", neurons):
            NeuronKey.parse(address)

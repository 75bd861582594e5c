import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.facts import units as quantities
from hornbook.facts.errors import InputError


@pytest.mark.parametrize(
    ("text", "number"),
    [("7B", 7e9), ("2T", 2e12), ("124439808", 124439808), ("1.1b", 1.1e9), ("250k", 250_000), ("8e9", 8e9)],
)
def test_counts(text: str, number: float) -> None:
    assert quantities.parse_count(text) == number


@pytest.mark.parametrize("text", ["", "B", "-7B", "0", "7X", "seven", "7 billion", "1.2.3", "nan", "inf"])
def test_a_bad_count_is_one_sentence_that_names_it(text: str) -> None:
    with pytest.raises(InputError, match=r"7B or 2T\.$") as caught:
        quantities.parse_count(text, "--parameters")
    assert f'--parameters is "{text}"' in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["30", "hour", "30/fortnight", "-3/hour", "free"])
def test_a_price_without_its_unit_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="30/hour"):
        quantities.parse_price(text)


@pytest.mark.parametrize("text", ["10", "m", "10x", "0s", "h1", "1h 30"])
def test_a_duration_without_its_unit_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="10m"):
        quantities.parse_duration(text)


@given(st.integers(1, 10**15))
def test_a_formatted_count_reads_back_to_three_digits(number: int) -> None:
    assert math.isclose(quantities.parse_count(quantities.format_count(number)), number, rel_tol=0.0051)


@given(st.floats(1e-3, 1e9))
def test_every_duration_is_written(seconds: float) -> None:
    assert any(unit in quantities.format_duration(seconds) for unit in (" s", " min", " h", " days"))


def test_time_without_end_is_written() -> None:
    assert quantities.format_duration(math.inf) == "forever"


@given(st.floats(0, 40))
def test_perplexity_is_the_exponential(loss: float) -> None:
    assert abs(float(quantities.perplexity_text(loss).replace(",", "")) / math.exp(loss) - 1) <= 0.0051

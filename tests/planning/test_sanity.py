from typing import Any

import pytest

from hornbook.facts.shape import PRESETS, preset
from hornbook.planning.sanity import Recipe, rate_rule, sanity

HEALTHY: dict[str, Any] = {
    "shape": preset("1M"), "batch_tokens": 8192, "steps": 1000, "warmup_steps": 20, "evaluate_every": 50,
    "optimizer": "muon", "learning_rates": {"muon": 0.02, "beside muon": 0.01}, "train_tokens": 3_000_000,
    "train_bytes": 10_000_000, "median_document_tokens": 4000.0, "needed_bytes": 10**9, "available_bytes": 16 * 10**9,
}  # fmt: skip


def test_a_healthy_recipe_is_left_in_peace() -> None:
    assert sanity(Recipe(**HEALTHY)) == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"warmup_steps": 1000}, "all warm-up"),
        ({"warmup_steps": 600}, "most of the run is warm-up"),
        ({"evaluate_every": 2000}, "validation never fires"),
        ({"train_tokens": 5000, "steps": 1}, "fewer tokens than one batch"),
        ({"median_document_tokens": 20.0}, "longer than most documents"),
        ({"train_tokens": 10_000, "train_bytes": None, "batch_tokens": 100, "steps": 100}, "vocabulary of 1,024"),
        ({"train_bytes": 100_000, "steps": 5000}, "by heart"),
        ({"readings_per_epoch": 100.0}, "3,000,000 tokens, 30,000 without repetition, against"),
        ({"steps": 20_000}, "epochs are worth about"),
        ({"needed_bytes": 17 * 10**9}, "does not fit"),
        ({"learning_rates": {"muon": 0.6}}, "30 times above the rule for muon"),
        ({"learning_rates": {"adamw": 1e-5}}, "300 times below the rule for adamw"),
    ],
)
def test_what_goes_wrong_is_said(change: dict[str, Any], said: str) -> None:
    sentences = sanity(Recipe(**(HEALTHY | change)))
    assert any(said in sentence for sentence in sentences), sentences
    assert all("\n" not in sentence for sentence in sentences)


def test_what_is_unknown_is_not_judged() -> None:
    assert sanity(Recipe(shape=preset("6M"), batch_tokens=8192, steps=100)) == []


@pytest.mark.parametrize("name", PRESETS)
def test_the_rates_that_published_recipes_use_are_near_their_rule(name: str) -> None:
    rule = rate_rule("adamw", preset(name).width)
    assert 2e-4 <= rule <= 3e-3
    # GPT-3's table (Brown et al. 2020): 6e-4 at width 768, 3e-4 at 4096 (Llama 2)
    assert 1 / 8 < rule / (6e-4 if preset(name).width <= 1024 else 3e-4) < 8

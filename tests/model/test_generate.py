"""Generation: the windows it reads, the filters against brute force, transformers as a second implementation."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.facts.errors import InputError
from hornbook.facts.shape import GPTShape
from hornbook.model.decoder import Decoder
from hornbook.model.generate import Sampling, draw, generate, generate_batch, probabilities
from hornbook.model.init import initialise

PROMPT = [3, 1, 4, 1, 5, 9, 2, 6]


def model_of(family: str, **changes: int) -> Decoder:
    """A model with lively random weights: greedy text that does not repeat one token at once."""
    torch.manual_seed(0)
    shape = GPTShape(
        **{
            "family": family,
            "layers": 2,
            "width": 32,
            "heads": 4,
            "context": 16,
            "vocabulary": 61,
            "tied": False,
            **changes,
        }
    )
    model = initialise(Decoder(shape), 0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(0, 0.35)
    return model


def brute_force(logits: list[float], temperature: float, top_k: int | None, top_p: float | None, min_p: float | None):
    """The definition, with lists: the kept tokens in order of probability, renormalised after each filter."""

    def renormalised(pairs):
        total = sum(p for p, _ in pairs)
        return [(p / total, token) for p, token in pairs]

    top = max(logits)
    weights = torch.tensor([(x - top) / temperature for x in logits], dtype=torch.float64).exp().tolist()
    pairs = renormalised(sorted(((p, token) for token, p in enumerate(weights)), key=lambda pair: (-pair[0], pair[1])))
    if top_k is not None:
        pairs = renormalised(pairs[:top_k])
    if top_p is not None:
        count = next((n for n in range(1, len(pairs)) if sum(p for p, _ in pairs[:n]) >= top_p), len(pairs))
        pairs = renormalised(pairs[:count])
    if min_p is not None:
        pairs = renormalised([(p, token) for p, token in pairs if p >= min_p * pairs[0][0]])
    return {token: p for p, token in pairs}


@given(
    logits=st.lists(st.integers(-40, 40).map(lambda n: n / 7), min_size=1, max_size=30),
    temperature=st.sampled_from([0.3, 1.0, 2.5]),
    top_k=st.none() | st.integers(1, 40),
    top_p=st.none() | st.floats(0.01, 0.987),
    min_p=st.none() | st.floats(0.003, 0.97),
)
@settings(max_examples=300, deadline=None)
def test_filters_equal_their_definition(logits, temperature, top_k, top_p, min_p):
    got = probabilities(torch.tensor([logits], dtype=torch.float64), Sampling(temperature, top_k, top_p, min_p))[0]
    wanted = brute_force(logits, temperature, top_k, top_p, min_p)
    assert {token for token, p in enumerate(got.tolist()) if p > 0} == set(wanted)
    assert got.sum().item() == pytest.approx(1, abs=1e-12)
    for token, p in wanted.items():
        assert got[token].item() == pytest.approx(p, rel=1e-9)


def test_drawn_tokens_follow_the_distribution():
    logits = torch.tensor([[1.0, 0.5, -1.0, 2.0, 0.0]])
    generator, draws = torch.Generator().manual_seed(1), 4000
    counts = torch.zeros(5, dtype=torch.float64)
    for _ in range(draws):
        counts[draw(logits, Sampling(top_k=4), [generator])] += 1
    expected = probabilities(logits, Sampling(top_k=4))[0] * draws
    assert counts[2] == 0
    kept = expected > 0
    chi_square = ((counts - expected) ** 2 / expected.clamp(min=1e-9))[kept].sum().item()
    assert chi_square < 16.3  # 99.9 % of a chi-square with 3 degrees of freedom; the seed is fixed


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "qwen3"])
def test_cache_and_no_cache_give_the_same_greedy_tokens_beyond_the_context(family):
    model = model_of(family, kv_heads=1 if family == "qwen3" else 0)
    cached, plain = (
        list(generate(model, PROMPT, max_tokens=45, temperature=0, cache=cache)) for cache in (True, False)
    )
    assert cached == plain
    assert len(set(cached)) > 5


def test_the_window_slides_by_half_a_context():
    """Token by token, from the rule: when 16 tokens are full, the last 8 are read again from position 0."""
    model = model_of("gpt2")
    window, wanted = list(PROMPT), []
    for _ in range(30):
        if len(window) > 16:
            window = window[-8:]
        with torch.no_grad():
            wanted.append(int(model(torch.tensor([window]))[0, -1].argmax()))
        window.append(wanted[-1])
    assert list(generate(model, PROMPT, max_tokens=30, temperature=0)) == wanted


def test_a_full_prompt_and_a_context_of_one_token():
    assert len(list(generate(model_of("gpt2"), PROMPT * 2, max_tokens=3))) == 3
    assert len(list(generate(model_of("qwen3", context=1), [5], max_tokens=4, temperature=0))) == 4


def test_same_seed_same_text_and_no_other_randomness():
    model = model_of("qwen3")
    before = torch.get_rng_state()
    first, again, other = (list(generate(model, PROMPT, max_tokens=40, seed=seed)) for seed in (7, 7, 8))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), before)
    assert list(generate(model, PROMPT, max_tokens=40, seed=7, cache=False)) == first


def test_top_k_of_one_is_greedy():
    model = model_of("llama")
    greedy = list(generate(model, PROMPT, max_tokens=25, temperature=0))
    assert list(generate(model, PROMPT, max_tokens=25, top_k=1, seed=3)) == greedy
    assert list(generate(model, PROMPT, max_tokens=25, top_p=1e-9, seed=4)) == greedy


def test_ends_before_a_stop_token():
    model = model_of("qwen3")
    text = list(generate(model, PROMPT, max_tokens=40, seed=2))
    stop = text[20]
    assert list(generate(model, PROMPT, max_tokens=40, seed=2, stop_ids=[stop])) == text[: text.index(stop)]


def test_streams_and_leaves_dropout_as_it_was():
    torch.manual_seed(0)
    model = initialise(Decoder(model_of("gpt2").shape, dropout=0.5), 0).train()
    first = list(itertools.islice(generate(model, PROMPT, max_tokens=10**9, temperature=0), 12))
    assert model.training
    assert first == list(generate(model.eval(), PROMPT, max_tokens=12, temperature=0))


def test_rows_of_a_batch_are_what_each_prompt_gives_alone():
    model = model_of("qwen3")
    prompts = [PROMPT, PROMPT[::-1], [7] * 8]
    batch = generate_batch(model, prompts, max_tokens=30, seeds=[11, 12, 13])
    alone = [
        list(generate(model, prompt, max_tokens=30, seed=seed))
        for prompt, seed in zip(prompts, [11, 12, 13], strict=True)
    ]
    assert batch == alone
    assert generate_batch(model, prompts, max_tokens=2)[1] == list(generate(model, prompts[1], max_tokens=2, seed=1))


@pytest.mark.parametrize(
    ("prompt", "changes", "word"),
    [
        ([], {}, "empty"),
        ([0] * 17, {}, "17 tokens"),
        ([61], {}, "61"),
        ([-1], {}, "-1"),
        ([1], {"temperature": -1.0}, "temperature"),
        ([1], {"temperature": float("nan")}, "temperature"),
        ([1], {"top_k": 0}, "top_k"),
        ([1], {"top_p": 0.0}, "top_p"),
        ([1], {"min_p": 1.5}, "min_p"),
        ([1], {"max_tokens": -1}, "max_tokens"),
    ],
)
def test_bad_input_is_a_sentence_at_the_call(prompt, changes, word):
    with pytest.raises(InputError, match=word):
        generate(model_of("gpt2"), prompt, **{"max_tokens": 3, **changes})


def test_damaged_weights_are_a_sentence():
    model = model_of("llama")
    torch.nn.init.constant_(model.blocks[0].mlp.down.weight, float("nan"))
    for temperature in (0.0, 1.0):
        with pytest.raises(InputError, match="NaN"):
            list(generate(model, PROMPT, max_tokens=1, temperature=temperature))

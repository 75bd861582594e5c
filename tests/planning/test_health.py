"""Real runs of a tiny model on a Markov chain, healthy and with each fault seeded; and the rules one by one."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from hornbook.facts.shape import PRESETS, GPTShape, preset
from hornbook.planning.health import (
    DIVERGED_STEPS,
    History,
    issues,
    loss_spike,
    skipped_updates,
    unigram_nats,
)
from hornbook.planning.workload import usual_learning_rate

VOCABULARY, CONTEXT, BATCH, STEPS, RATE = 32, 32, 16, 220, 3e-3


@pytest.fixture(autouse=True)
def one_thread():  # type: ignore[no-untyped-def]
    """The matrices are tiny: a second thread only waits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def chain(seed: int, num_tokens: int) -> np.ndarray:
    """Tokens of a Markov chain: each is followed by one of four others, so that about ln 4 nats are left to learn."""
    generator = np.random.default_rng(7)  # the chain is the same for every seed, the walk is not
    following = np.stack([generator.choice(VOCABULARY, 4, replace=False) for _ in range(VOCABULARY)])
    weights = generator.dirichlet(np.full(4, 2.0), VOCABULARY)
    walk, state = np.random.default_rng(seed), 0
    tokens = np.empty(num_tokens, dtype=np.int64)
    for index in range(num_tokens):
        state = int(following[state, np.searchsorted(np.cumsum(weights[state])[:-1], walk.random())])
        tokens[index] = state
    return tokens


TRAIN, VALIDATION = chain(1, 100_000), chain(2, 2_100)


def run(
    seed: int, *, family: str = "qwen3", rate: float = RATE, warmup: int = 10, shuffled: bool = False,
    other_tokenizer: bool = False, every: int = 10,
) -> list[History]:  # fmt: skip
    """What the run had recorded at each of its evaluations."""
    from hornbook.likelihood import sum_nats
    from hornbook.model.decoder import Decoder
    from hornbook.model.init import initialise

    shape = GPTShape(family=family, layers=2, width=32, heads=2, context=CONTEXT, vocabulary=VOCABULARY)
    model, generator = initialise(Decoder(shape), seed), np.random.default_rng(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.95))
    validation = np.random.default_rng(3).permutation(VOCABULARY)[VALIDATION] if other_tokenizer else VALIDATION

    def loss_of(tokens: np.ndarray, starts: np.ndarray) -> Any:
        windows = torch.from_numpy(np.stack([tokens[s : s + CONTEXT + 1] for s in starts]))
        targets = windows[:, 1:].reshape(-1)
        if shuffled:
            targets = targets[torch.from_numpy(generator.permutation(len(targets)))]
        hidden = model.hidden(windows[:, :CONTEXT]).flatten(0, 1)
        return sum_nats(model.head, hidden, targets, VOCABULARY) / len(targets)

    train: list[float] = []
    points: list[tuple[float, float]] = []
    histories = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / max(warmup, 1), (STEPS - step) / 40)
        loss = loss_of(TRAIN, generator.integers(0, len(TRAIN) - CONTEXT - 1, BATCH))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        train.append(loss.item())
        if (step + 1) % every == 0:
            with torch.no_grad():
                points.append(((step + 1) * BATCH * CONTEXT, loss_of(validation, np.arange(0, 2000, 64)).item()))
            history = History(
                shape=shape, train_losses=list(train),
                validation_tokens=[t for t, _ in points], validation_losses=[v for _, v in points],
                unigram_nats=unigram_nats(np.bincount(TRAIN).tolist()), epochs=points[-1][0] / len(TRAIN),
                learning_rates={"AdamW": rate}, warmup_steps=warmup,
            )  # fmt: skip
            histories.append(history)
    return histories


HEALTHY: list[dict[str, Any]] = [{}, {"rate": 6e-4}, {"family": "gpt2"}, {"warmup": 0}, {"rate": 8e-3}]


@pytest.mark.parametrize("settings", HEALTHY, ids=str)
def test_healthy_runs_are_left_in_peace(settings: dict[str, Any]) -> None:
    for history in run(11, **settings):
        assert issues(history) == {}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"rate": 30 * RATE}, "30 times the usual one"),
        ({"shuffled": True}, "nothing else has been learned yet"),
        ({"other_tokenizer": True}, "another tokenizer"),
        ({"warmup": 0, "rate": 5 * RATE}, "no warm-up"),
    ],
    ids=["rate-x30", "shuffled", "tokenizer", "no-warm-up"],
)
def test_seeded_faults_are_named(settings: dict[str, Any], said: str) -> None:
    named = [sentence for history in run(5, **settings) for sentence in issues(history).values()]
    assert any(said in sentence for sentence in named)
    assert all(said in sentence for sentence in named), "another fault was named beside it"


def test_a_text_without_structure_is_not_blamed_on_the_targets() -> None:
    losses = [4.17, 3.6, 3.2, *([3.0, 3.01, 2.99] * 80)]
    history = History(shape=SHAPE, train_losses=losses, unigram_nats=3.0, warmup_steps=10)
    ((name, sentence),) = issues(history).items()
    assert name == "only token frequencies"
    assert "targets that are misaligned with the inputs" in sentence
    assert "slow start" in sentence
    (sentence,) = issues(msgspec.structs.replace(history, bigram_nats=3.02)).values()
    assert "a bigram model does no better on held-out text (3.02)" in sentence
    assert "targets" not in sentence
    (sentence,) = issues(msgspec.structs.replace(history, bigram_nats=2.4)).values()
    assert "targets" in sentence
    assert issues(msgspec.structs.replace(history, train_losses=losses[:150])) == {}, "too soon"
    assert issues(msgspec.structs.replace(history, warmup_steps=70)) == {}, "most of it was warm-up"
    left = [*losses[:150], *np.linspace(3.0, 2.8, 90)]
    assert issues(msgspec.structs.replace(history, train_losses=left)) == {}, "it has begun to learn"


SHAPE = GPTShape(family="qwen3", layers=2, width=64, heads=2, context=64, vocabulary=65)


def test_given_weights_with_another_tokenizer() -> None:
    assert issues(History(shape=SHAPE, train_losses=[2.0], fresh=False)) == {}
    (sentence,) = issues(History(shape=SHAPE, train_losses=[7.0], fresh=False)).values()
    assert "or their folder's tokenizer" in sentence


@pytest.mark.parametrize(("vocabulary", "few"), [(384, True), (257, False)])  # single bytes are all that 257 ids spell
def test_given_weights_of_a_run_and_a_text_unlike_theirs(vocabulary: int, few: bool) -> None:
    shape = msgspec.structs.replace(SHAPE, vocabulary=vocabulary)
    history = History(shape=shape, train_losses=[9.0], fresh=False, own_tokenizer=True, bytes_per_token=1.02)
    (sentence,) = issues(history).values()
    assert "the text is unlike the one they were trained on, or they have memorized that one" in sentence
    assert "the tokenizer beside them" not in sentence
    assert ("only 1.02 bytes" in sentence) == few


def test_a_diverging_run_is_named() -> None:
    losses = [4.17] * 10 + list(np.linspace(4.1, 2.0, 60)) + list(np.linspace(2.0, 6.0, 40))
    assert any("is diverging" in sentence for sentence in issues(History(shape=SHAPE, train_losses=losses)).values())
    lost = History(shape=SHAPE, train_losses=losses + [math.nan] * 10)
    assert any("is diverging" in sentence for sentence in issues(lost).values())


def test_a_jump_without_warm_up_is_named() -> None:
    losses = [4.17, 4.9, 5.2, *np.linspace(5.0, 3.0, 40)]
    (sentence,) = issues(History(shape=SHAPE, train_losses=losses, warmup_steps=0)).values()
    assert "no warm-up" in sentence


def test_overfitting_after_the_first_epoch_is_not_blamed_on_the_tokenizer() -> None:
    losses = list(np.linspace(4.17, 0.5, 100))
    history = History(
        shape=SHAPE, train_losses=losses, validation_tokens=[1e4, 2e4], validation_losses=[4.5, 5.0], epochs=20
    )
    assert issues(history) == {}


def test_nothing_recorded_nothing_said() -> None:
    assert issues(History(shape=SHAPE, train_losses=[])) == {}


def test_validation_text_that_leaked_is_named() -> None:
    losses = list(np.linspace(math.log(65), 0.2, 30))
    low = History(shape=SHAPE, train_losses=losses, validation_tokens=[900], validation_losses=[0.2], unigram_nats=3.0)
    ((name, sentence),) = issues(msgspec.structs.replace(low, leaked_share=0.6)).items()
    assert name == "validation text seen"
    assert "60% of the validation text" in sentence
    assert issues(low) == {}
    assert issues(msgspec.structs.replace(low, leaked_share=0.6, validation_losses=[0.5])) == {}, "not that low"


def test_a_steady_loss_does_not_loss_spike():
    losses = [6 - i / 50 + 0.1 * math.sin(i) for i in range(200)]
    assert [loss_spike(losses[:i]) for i in range(1, 201)] == [None] * 200


def test_a_spike_is_named_with_its_numbers():
    losses = [3 + 0.01 * (i % 3) for i in range(30)]
    assert loss_spike([*losses, 5.0]) == "the loss jumped from about 3.01 to 5.00"
    assert loss_spike([*losses, 5.0, 3.0]) is None
    assert loss_spike([*losses, math.nan, 5.0]) == "the loss jumped from about 3.01 to 5.00"
    assert loss_spike([*losses, 5.0, math.nan]) is None  # it was skipped


def test_the_first_steps_may_move_as_they_like():
    assert loss_spike([10.0, 30.0, 5.0, 11.0]) is None


def test_skipped_updates_are_counted_in_a_row():
    assert skipped_updates([]) == skipped_updates([1.0]) == 0
    assert skipped_updates([math.nan] * 9 + [1.0] + [math.nan] * 9) == 9
    assert skipped_updates([math.nan] * 10) == DIVERGED_STEPS


@pytest.mark.parametrize("name", PRESETS)
def test_the_rates_that_published_recipes_use_are_near_their_usual(name: str) -> None:
    usual = usual_learning_rate("AdamW", preset(name).width)
    assert 2e-4 <= usual <= 3e-3
    # GPT-3's table (Brown et al. 2020): 6e-4 at width 768, 3e-4 at 4096 (Llama 2)
    assert 1 / 8 < usual / (6e-4 if preset(name).width <= 1024 else 3e-4) < 8

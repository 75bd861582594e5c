"""Real runs of a tiny model on a Markov chain, healthy and with each fault seeded; and the rules one by one."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from hornbook.facts.shape import GPTShape
from hornbook.planning.health import LOST, Course, faults, leap, skipped, start_range, unigram_nats

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
    seed: int, *, family: str = "qwen3", rate: float = RATE, warmup: int = 10, shift: int = 1, shuffled: bool = False,
    frozen: bool = False, other_tokenizer: bool = False, every: int = 10,
) -> list[Course]:  # fmt: skip
    """What the run had recorded at each of its evaluations."""
    from hornbook.likelihood import sum_nats
    from hornbook.model.decoder import Decoder
    from hornbook.model.init import initialise

    shape = GPTShape(family=family, layers=2, width=32, heads=2, context=CONTEXT, vocabulary=VOCABULARY)
    model, generator = initialise(Decoder(shape), seed), np.random.default_rng(seed)
    start = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    if frozen:
        model.blocks[1].requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, betas=(0.9, 0.95))
    validation = np.random.default_rng(3).permutation(VOCABULARY)[VALIDATION] if other_tokenizer else VALIDATION

    def loss_of(tokens: np.ndarray, starts: np.ndarray) -> Any:
        windows = torch.from_numpy(np.stack([tokens[s : s + CONTEXT + 1] for s in starts]))
        targets = windows[:, shift : CONTEXT + shift].reshape(-1)
        if shuffled:
            targets = targets[torch.from_numpy(generator.permutation(len(targets)))]
        hidden = model.hidden(windows[:, :CONTEXT]).flatten(0, 1)
        return sum_nats(model.head, hidden, targets, VOCABULARY) / len(targets)

    train: list[float] = []
    norms: list[float] = []
    points: list[tuple[float, float]] = []
    courses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / max(warmup, 1), (STEPS - step) / 40)
        loss = loss_of(TRAIN, generator.integers(0, len(TRAIN) - CONTEXT - 1, BATCH))
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        train.append(loss.item())
        if (step + 1) % every == 0:
            with torch.no_grad():
                points.append(((step + 1) * BATCH * CONTEXT, loss_of(validation, np.arange(0, 2000, 64)).item()))
                moved = {name: float((p - start[name]).norm()) for name, p in model.named_parameters()}
            course = Course(
                shape=shape, train_losses=list(train), gradient_norms=list(norms),
                validation_tokens=[t for t, _ in points], validation_losses=[v for _, v in points],
                unigram_nats=unigram_nats(np.bincount(TRAIN).tolist()), epochs=points[-1][0] / len(TRAIN),
                learning_rates={"adamw": rate}, warmup_steps=warmup, movement=moved,
            )  # fmt: skip
            courses.append(course)
    return courses


HEALTHY: list[dict[str, Any]] = [{}, {"rate": 6e-4}, {"family": "gpt2"}, {"warmup": 0}, {"rate": 8e-3}]


@pytest.mark.parametrize("settings", HEALTHY, ids=str)
def test_healthy_runs_are_left_in_peace(settings: dict[str, Any]) -> None:
    for course in run(11, **settings):
        assert faults(course) == {}


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shift": 0}, "not shifted by one"),
        ({"rate": 30 * RATE}, "30 times the rule"),
        ({"shuffled": True}, "nothing else has been learned yet"),
        ({"frozen": True}, "a layer is frozen"),
        ({"other_tokenizer": True}, "another tokenizer"),
        ({"warmup": 0, "rate": 5 * RATE}, "no warm-up"),
    ],
    ids=["not-shifted", "rate-x30", "shuffled", "frozen", "tokenizer", "no-warm-up"],
)
def test_seeded_faults_are_named(settings: dict[str, Any], said: str) -> None:
    named = [sentence for course in run(5, **settings) for sentence in faults(course).values()]
    assert any(said in sentence for sentence in named)
    assert all(said in sentence for sentence in named), "another fault was named beside it"


def test_a_text_without_structure_is_not_blamed_on_the_targets() -> None:
    losses = [4.17, 3.6, 3.2, *([3.0, 3.01, 2.99] * 80)]
    course = Course(shape=SHAPE, train_losses=losses, unigram_nats=3.0, warmup_steps=10)
    ((name, sentence),) = faults(course).items()
    assert name == "only token frequencies"
    assert "targets that do not belong to the inputs" in sentence
    assert "slow start" in sentence
    (sentence,) = faults(msgspec.structs.replace(course, bigram_nats=3.02)).values()
    assert "counts of token pairs do no better on text they have not counted (3.02)" in sentence
    assert "targets" not in sentence
    (sentence,) = faults(msgspec.structs.replace(course, bigram_nats=2.4)).values()
    assert "targets" in sentence
    assert faults(msgspec.structs.replace(course, train_losses=losses[:150])) == {}, "too soon"
    assert faults(msgspec.structs.replace(course, warmup_steps=70)) == {}, "most of it was warm-up"
    left = [*losses[:150], *np.linspace(3.0, 2.8, 90)]
    assert faults(msgspec.structs.replace(course, train_losses=left)) == {}, "it has begun to learn"


def test_the_first_loss_of_each_initialisation_is_in_its_range() -> None:
    from hornbook.likelihood import sum_nats
    from hornbook.model.decoder import Decoder
    from hornbook.model.init import initialise

    for family, width, vocabulary in (("gpt2", 64, 65), ("gpt2", 256, 1000), ("qwen3", 64, 65), ("llama", 128, 300)):
        shape = GPTShape(family=family, layers=2, width=width, heads=2, context=32, vocabulary=vocabulary)
        model = initialise(Decoder(shape), 0)
        tokens = torch.from_numpy(np.random.default_rng(0).integers(0, vocabulary, (8, 33)))
        hidden = model.hidden(tokens[:, :-1]).flatten(0, 1)
        loss = sum_nats(model.head, hidden, tokens[:, 1:].flatten(), vocabulary).item() / 256
        expected = start_range(shape)
        assert expected is not None
        assert expected.low <= loss <= expected.high


SHAPE = GPTShape(family="qwen3", layers=2, width=64, heads=2, context=64, vocabulary=65)


def test_given_weights_with_another_tokenizer() -> None:
    assert faults(Course(shape=SHAPE, train_losses=[2.0], fresh=False)) == {}
    (sentence,) = faults(Course(shape=SHAPE, train_losses=[7.0], fresh=False)).values()
    assert "or the tokenizer beside them" in sentence


@pytest.mark.parametrize(("vocabulary", "few"), [(384, True), (257, False)])  # single bytes are all that 257 ids spell
def test_given_weights_of_a_run_and_a_text_unlike_theirs(vocabulary: int, few: bool) -> None:
    shape = msgspec.structs.replace(SHAPE, vocabulary=vocabulary)
    course = Course(shape=shape, train_losses=[9.0], fresh=False, own_tokenizer=True, bytes_per_token=1.02)
    (sentence,) = faults(course).values()
    assert "the text is unlike what they were trained on" in sentence
    assert "the tokenizer beside them" not in sentence
    assert ("only 1.02 bytes" in sentence) == few


def test_a_diverging_run_is_named() -> None:
    losses = [4.17] * 10 + list(np.linspace(4.1, 2.0, 60)) + list(np.linspace(2.0, 6.0, 40))
    assert any("diverges" in sentence for sentence in faults(Course(shape=SHAPE, train_losses=losses)).values())
    lost = Course(shape=SHAPE, train_losses=losses + [math.nan] * 10)
    assert any("diverges" in sentence for sentence in faults(lost).values())


def test_a_jump_without_warm_up_is_named() -> None:
    losses = [4.17, 4.9, 5.2, *np.linspace(5.0, 3.0, 40)]
    (sentence,) = faults(Course(shape=SHAPE, train_losses=losses, warmup_steps=0)).values()
    assert "no warm-up" in sentence


def test_overfitting_after_the_first_epoch_is_not_blamed_on_the_tokenizer() -> None:
    losses = list(np.linspace(4.17, 0.5, 100))
    course = Course(
        shape=SHAPE, train_losses=losses, validation_tokens=[1e4, 2e4], validation_losses=[4.5, 5.0], epochs=20
    )
    assert faults(course) == {}


def test_nothing_recorded_nothing_said() -> None:
    assert faults(Course(shape=SHAPE, train_losses=[])) == {}


def test_validation_text_that_stands_in_the_training_text_is_named_before_the_targets() -> None:
    losses = list(np.linspace(math.log(65), 0.2, 30))
    low = Course(shape=SHAPE, train_losses=losses, validation_tokens=[900], validation_losses=[0.2], unigram_nats=3.0)
    (sentence,) = faults(low).values()
    assert "not shifted by one" in sentence
    ((name, sentence),) = faults(msgspec.structs.replace(low, leaked_share=0.6)).items()
    assert name == "validation text seen"
    assert "60% of the validation text" in sentence
    assert "shifted" not in sentence


def test_a_steady_loss_does_not_leap():
    losses = [6 - i / 50 + 0.1 * math.sin(i) for i in range(200)]
    assert [leap(losses[:i]) for i in range(1, 201)] == [None] * 200


def test_a_leap_is_named_with_its_numbers():
    losses = [3 + 0.01 * (i % 3) for i in range(30)]
    assert leap([*losses, 5.0]) == "the loss leapt from about 3.01 to 5.00"
    assert leap([*losses, 5.0, 3.0]) is None
    assert leap([*losses, math.nan, 5.0]) == "the loss leapt from about 3.01 to 5.00"
    assert leap([*losses, 5.0, math.nan]) is None  # it was skipped


def test_the_first_steps_may_move_as_they_like():
    assert leap([10.0, 30.0, 5.0, 11.0]) is None


def test_skipped_updates_are_counted_in_a_row():
    assert skipped([]) == skipped([1.0]) == 0
    assert skipped([math.nan] * 9 + [1.0] + [math.nan] * 9) == 9
    assert skipped([math.nan] * 10) == LOST

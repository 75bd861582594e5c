import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.facts.errors import InputError
from hornbook.facts.settings import Settings, from_table, read_table, to_toml
from hornbook.facts.shape import PRESETS
from hornbook.planning.choose import LADDER, Machine, choose, shape_of
from hornbook.planning.wall import resolve_steps
from hornbook.planning.workload import CorpusStats, StepTimes, fill_steps, steps_of

LAPTOP, CARD = Machine(False, 5e10), Machine(True, 3e14)
BOOKS = CorpusStats(num_tokens=1_000_000, num_bytes=4_000_000, vocabulary=4096)


def wanted(**sections):
    return from_table(sections, source="test")


def resolved(choice, steps=100):
    fill_steps(choice.settings, choice.settings.train.steps or steps, choice.data)
    return choice.settings


@given(
    st.integers(2_000, 10**10), st.integers(257, 100_000), st.booleans(), st.floats(1e9, 1e15),
    st.sampled_from([{}, {"steps": 50}, {"epochs": 2.0}, {"tokens": 10**6}, {"budget": "90s"}]),
    st.sampled_from([None, "gpt2", "llama", "qwen3"]),
)  # fmt: skip
def test_nothing_stays_open_and_all_fits(num_tokens, vocabulary, accelerator, speed, length, family):
    asked = wanted(train=length, model={"family": family} if family else {})
    choice = choose(asked, CorpusStats(num_tokens, 4 * num_tokens, vocabulary), Machine(accelerator, speed))
    settings, shape = resolved(choice), choice.shape
    open_for_good = {
        "text.separator",
        "model.preset",
        "train.early_stop",
        "train.parallel",
        "train.skip_spikes",
        "train.threads",
        "watch.price",
    }
    open_for_good |= {f"train.{name}" for name in ("epochs", "tokens", "budget")}
    table = msgspec.to_builtins(settings)
    left = {f"{s}.{k}" for s, values in table.items() for k, v in values.items() if v is None}
    assert left <= open_for_good
    assert shape.vocabulary == vocabulary
    assert shape.context < num_tokens
    assert 1 <= settings.train.microbatch <= settings.train.batch
    assert shape_of(settings, vocabulary) == shape
    assert (choice.seconds is not None) is (length.get("budget") is not None or (not length and not accelerator))
    again = from_table(read_toml(to_toml(settings)), source="settings.toml")
    assert again == settings


def read_toml(text):
    import tomllib

    return tomllib.loads(text)


def test_what_is_given_stays_and_the_question_is_not_changed():
    asked = wanted(
        model={"layers": 3, "width": 96, "heads": 3, "kv_heads": 1, "context": 48, "family": "llama", "tied": True},
        optimizer={"name": "adamw", "learning_rate": 0.001, "weight_decay": 0.3, "beta2": 0.9},
        train={"steps": 7, "batch": 5, "microbatch": 2, "precision": "float32", "compile": False},
        schedule={"warmup_steps": 3},
        watch={"evaluate_every": 2, "sample_every": 9, "probe_tokens": 100},
        checkpoint={"every": 4},
    )
    before = msgspec.json.encode(asked)
    settings = resolved(choose(asked, BOOKS, CARD))
    assert msgspec.json.encode(asked) == before
    given_table, chosen_table = msgspec.to_builtins(asked), msgspec.to_builtins(settings)
    for section, values in given_table.items():
        for key, value in values.items():
            if value is not None:
                assert chosen_table[section][key] == value, (section, key)


def test_each_choice_has_its_reason_and_no_other():
    words = [reason.split(":")[0] for reason in choose(Settings(), BOOKS, LAPTOP).reasons]
    assert words == ["length", "model", "context", "batch", "optimizer"]
    asked = wanted(
        model={"layers": 2, "width": 64, "context": 64}, train={"steps": 3, "batch": 2}, optimizer={"name": "adamw"}
    )
    assert choose(asked, BOOKS, LAPTOP).reasons == []


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        ({"steps": 12}, 12),
        ({"tokens": 1000}, math.ceil(1000 / (4 * 32))),
        ({"tokens": 128}, 1),
        ({"epochs": 1.0}, math.ceil(math.ceil(10_001 / 32) / 4)),
        ({"epochs": 2.5}, math.ceil(2.5 * math.ceil(10_001 / 32) / 4)),
        ({"budget": "10m"}, None),
    ],
)
def test_a_length_becomes_a_number_of_steps(length, steps):
    asked = wanted(train=length | {"batch": 4}, model={"context": 32})
    choice = choose(asked, CorpusStats(10_001, 40_000, 500), LAPTOP)
    assert choice.settings.train.steps == steps
    assert choice.seconds == (600 if steps is None else None)
    assert steps_of(asked, choice.data) == steps


def test_the_default_length():
    assert choose(Settings(), BOOKS, LAPTOP).seconds == 180
    on_card = choose(Settings(), BOOKS, CARD).settings
    tokens = on_card.train.batch * on_card.model.context
    assert on_card.train.steps == pytest.approx(BOOKS.num_tokens / tokens, abs=1.01)


@pytest.mark.parametrize("two", [("steps", "epochs"), ("epochs", "tokens"), ("steps", "tokens")])
def test_two_lengths_are_one_too_many(two):
    values = {"steps": 5, "epochs": 1.0, "tokens": 100, "budget": "1m"}
    with pytest.raises(InputError, match=f"one length, not both {two[0]} and {two[1]}"):
        choose(wanted(train={name: values[name] for name in two}), BOOKS, LAPTOP)


def test_beside_a_length_a_budget_is_a_limit():
    asked = wanted(train={"steps": 50, "budget": "1m", "batch": 4}, model={"context": 32})
    choice = choose(asked, CorpusStats(10_001, 40_000, 500), LAPTOP)
    assert (choice.seconds, choice.most_steps, choice.settings.checkpoint.best) == (60, 50, False)
    slow, fast = StepTimes(10.0, 0.0, 0.0), StepTimes(0.001, 0.0, 0.0)
    assert [resolve_steps(choice, pace, spent=0.0).train.steps for pace in (slow, fast)] == [5, 50]


def test_a_text_shorter_than_one_context():
    with pytest.raises(InputError, match=r"256 tokens, fewer than one context of 256 .*--model.context"):
        choose(wanted(model={"context": 256}), CorpusStats(256, 1000, 300), LAPTOP)
    choose(wanted(model={"context": 256}), CorpusStats(257, 1000, 300), LAPTOP)


def test_more_time_or_a_faster_machine_never_gives_a_smaller_model():
    def width(speed, budget):
        asked = wanted(train={"budget": budget})
        return choose(asked, CorpusStats(10**9, 4 * 10**9, 4096), Machine(False, speed)).shape.width

    by_speed = [width(speed, "10m") for speed in (1e9, 1e10, 1e11, 1e12, 1e16)]
    by_time = [width(5e10, budget) for budget in ("20s", "3m", "1h", "1d")]
    assert by_speed == sorted(by_speed)
    assert by_time == sorted(by_time)
    assert by_speed[0] == LADDER[0][0]
    assert by_speed[-1] == LADDER[-1][0]


def test_more_text_never_gives_a_smaller_model_or_context():
    shapes = [choose(Settings(), CorpusStats(n, 4 * n, 4096), CARD).shape for n in (5_000, 10**5, 10**6, 10**7, 10**9)]
    assert [s.width for s in shapes] == sorted(s.width for s in shapes)
    assert [s.context for s in shapes] == sorted(s.context for s in shapes)
    assert shapes[0].context < shapes[-1].context


@pytest.mark.parametrize("name", ["0.2M", "gpt2", "350M"])
def test_a_preset_is_itself_but_for_the_vocabulary(name):
    choice = choose(wanted(model={"preset": name}, train={"steps": 1}), CorpusStats(10**7, 4 * 10**7, 777), CARD)
    assert msgspec.structs.replace(choice.shape, vocabulary=PRESETS[name].vocabulary) == PRESETS[name]
    assert choice.shape.vocabulary == 777
    assert choice.settings.model.preset is None  # resolved: the numbers stand in its place


def test_a_preset_can_be_overridden():
    data = CorpusStats(10**7, 4 * 10**7, 777)
    shape = choose(wanted(model={"preset": "gpt2", "context": 256}, train={"steps": 1}), data, CARD).shape
    assert (shape.context, shape.width, shape.hidden) == (256, 768, 3072)
    shape = choose(wanted(model={"preset": "gpt2", "width": 384}, train={"steps": 1}), data, CARD).shape
    assert (shape.width, shape.hidden, shape.head_width) == (384, 1536, 32)
    shape = choose(wanted(model={"preset": "gpt2", "family": "llama"}, train={"steps": 1}), data, CARD).shape
    assert (shape.family, shape.tied, shape.activation) == ("llama", False, "silu")


def test_unknown_names_bring_the_nearest():
    with pytest.raises(InputError, match='did you mean "gpt2-large"'):
        choose(wanted(model={"preset": "gpt2-larg"}), BOOKS, LAPTOP)
    with pytest.raises(InputError, match='did you mean "qwen3"'):
        choose(wanted(model={"family": "qwen33"}), BOOKS, LAPTOP)


@pytest.mark.parametrize(("batch", "name"), [(8, "muon"), (4, "muon"), (2, "adamw")])
def test_muon_where_there_are_tokens_enough(batch, name):
    """At 4 tokens for each feature of width: below, orthogonalising costs more than it brings."""
    asked = wanted(model={"width": 64, "layers": 2, "context": 64}, train={"steps": 5, "batch": batch})
    assert choose(asked, BOOKS, LAPTOP).settings.optimizer.name == name
    asked.model.family = "gpt2"
    assert choose(asked, BOOKS, LAPTOP).settings.optimizer.name == "adamw"


@given(st.integers(1, 10**7))
def test_what_follows_from_the_number_of_steps(steps):
    settings = choose(wanted(train={"steps": steps}), BOOKS, LAPTOP).settings
    fill_steps(settings, steps, BOOKS)
    assert 1 <= settings.schedule.warmup_steps <= max(1, steps)
    assert 1 <= settings.watch.evaluate_every <= steps
    assert 2 < steps / settings.watch.evaluate_every <= 20 or settings.watch.evaluate_every == 1
    assert 1 <= settings.checkpoint.every <= steps
    assert 1 <= settings.watch.sample_every <= steps


def test_given_weights_keep_their_shape():
    shape = msgspec.structs.replace(PRESETS["0.2M"], vocabulary=4096)
    choice = choose(wanted(train={"steps": 5}), BOOKS, LAPTOP, shape=shape)
    assert choice.shape == shape
    assert choice.settings.model.width == shape.width


@pytest.mark.parametrize(("machine", "precision"), [
    (Machine(False, 1e11), "float32"), (Machine(False, 1e11, True), "bfloat16"), (Machine(True, 1e14), "bfloat16"),
])  # fmt: skip
def test_precision_is_what_the_machine_is_fast_in(machine, precision):
    settings = choose(Settings(), CorpusStats(10**6, 4 * 10**6, 4096), machine).settings
    assert settings.train.precision == precision
    settings.train.precision = "float32"
    assert choose(settings, CorpusStats(10**6, 4 * 10**6, 4096), machine).settings.train.precision == "float32"


def test_a_recipe_is_read(tmp_path):
    (tmp_path / "recipe.toml").write_text('[model]\npreset = "1M"\n[train]\nsteps = 3\n', encoding="utf-8")
    asked = from_table(read_table(tmp_path / "recipe.toml"), source="recipe.toml")
    assert choose(asked, BOOKS, LAPTOP).shape.width == 128

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from hornbook.facts.accelerators import lookup
from hornbook.facts.errors import InputError
from hornbook.facts.hardware import custom
from hornbook.facts.settings import Settings
from hornbook.facts.shape import preset
from hornbook.planning.health import RunFacts
from hornbook.planning.memory import counting_bytes
from hornbook.planning.plan import RANGES, Plan, make_plan, score, shape_of_size
from hornbook.planning.plan_run import plan_of
from hornbook.planning.plan_text import render
from hornbook.planning.wall import overhead
from hornbook.planning.workload import CorpusStats, Range

ROOT = Path(__file__).parents[2]


@pytest.fixture
def llama() -> Plan:
    return make_plan(parameters=7 * 10**9, tokens=2 * 10**12, on=lookup("8xA100"), usd_per_hour=30.0)


def test_the_seed_figure_is_in_its_range(llama: Plan) -> None:
    for span, value in ((llama.gpu_hours, 184_320), (llama.price_usd, 691_200)):
        assert span is not None
        assert span.low < value < span.high < 4 * span.low


def test_a_plan_is_json_with_a_reason_for_each_range(llama: Plan) -> None:
    fields = msgspec.json.decode(msgspec.json.encode(llama.to_dict()))
    for key in ("gpu_hours", "wall_seconds", "energy_kwh", "price_usd", "loss_nats_per_token"):
        low, high = fields[f"{key}_interval_90"]
        assert low < fields[key] < high
        assert fields["reasons"][key]
        assert (low, high) == (getattr(llama, key).low, getattr(llama, key).high)
    assert fields.keys() - set(Plan.__struct_fields__) == {f"{name}_interval_90" for name in RANGES}


def test_a_shape_is_exact_and_its_parts_add_up() -> None:
    shape = preset("llama2-7b")
    plan = make_plan(shape=shape, tokens=10**12, on=lookup("64xA100"))
    assert plan.parameters == 6_738_415_616 == sum((plan.parameters_by_part or {}).values())
    assert plan.flops == shape.flops_per_token() * 10**12
    assert plan.assumed == ["steps of 2M tokens, as GPT-3's sizes had (Brown et al. 2020)."]
    assert plan.price_usd is None
    assert any("--price" in sentence for sentence in plan.unknown)


def test_more_devices_take_less_time_and_the_same_hours() -> None:
    one, many = (make_plan(parameters=10**9, tokens=10**11, on=lookup(on)) for on in ("H100", "8xH100"))
    assert one.gpu_hours == many.gpu_hours
    assert one.wall_seconds is not None
    assert many.wall_seconds is not None
    assert one.wall_seconds.central == pytest.approx(8 * many.wall_seconds.central)


def test_what_does_not_fit_is_said() -> None:
    plan = make_plan(shape=preset("llama3-8b"), tokens=10**12, on=lookup("T4"))
    assert plan.largest_microbatch == 0
    assert any("does not fit" in sentence for sentence in plan.warnings)


def test_a_small_run_measured_here() -> None:
    shape = preset("1M")
    facts = RunFacts(shape=shape, batch_tokens=4096, steps=100, warmup_steps=100, train_tokens=10**6)
    plan = make_plan(
        shape=shape, tokens=409_600, on=(1, custom("this machine", 150e9)), facts=facts,
        wall=Range(30.0, 60.0, 90.0, "measured"), memory_bytes=8 * 2**30,
    )  # fmt: skip
    assert plan.wall_seconds is not None
    assert plan.wall_seconds.central == pytest.approx(60.0)
    assert plan.epochs == 0.4096
    assert plan.loss_nats_per_token is None
    assert any("the whole run is warm-up" in sentence for sentence in plan.warnings)
    assert (plan.largest_microbatch_checkpointing or 0) > (plan.largest_microbatch or 0) > 0


def test_the_score_of_a_plan(llama: Plan) -> None:
    scored = score(llama.to_dict(), gpu_hours=184_320, price_usd=10.0, memory_bytes=10**10)
    assert scored["gpu_hours"]["inside"] is True
    assert 1 < scored["gpu_hours"]["factor"] < 1.35
    assert scored["price_usd"]["inside"] is False
    assert scored["memory_bytes"]["predicted"] == llama.memory_bytes["total"]
    with pytest.raises(InputError, match="speed"):
        score(llama.to_dict(), speed=1.0)


def test_either_a_shape_or_a_size() -> None:
    with pytest.raises(InputError, match="not both"):
        make_plan(tokens=10**9, on=lookup("A100"))
    with pytest.raises(InputError, match="not both"):
        make_plan(tokens=10**9, on=lookup("A100"), shape=preset("1B"), parameters=10**9)
    with pytest.raises(InputError, match="tokens"):
        make_plan(tokens=0, on=lookup("A100"), parameters=10**9)


@pytest.mark.parametrize("size", [10**6, 10**7, 10**8, 10**9, 7 * 10**9, 7 * 10**10, 4 * 10**11])
def test_a_typical_shape_has_about_its_size(size: int) -> None:
    assert shape_of_size(size).parameters == pytest.approx(size, rel=0.15)


def test_the_text_says_every_number_and_what_is_unknown(llama: Plan) -> None:
    text = "\n".join(render(llama))
    words = ("7B parameters", "device-hours", "wall time", "kWh", "$", "microbatch", "because", "frontier", "assumed")
    for word in words:
        assert word in text
    bare = "\n".join(render(make_plan(shape=preset("1M"), tokens=10**6, on=lookup("H100"))))
    assert "device-hours" not in bare
    assert "unknown" in bare
    assert all(len(line) < 250 for line in text.splitlines())
    short = msgspec.structs.replace(
        llama, epochs=1084.2, num_accelerators=1, gpu_hours=Range(0.005, 0.00821, 0.01, "measured"), steps=1
    )
    text = "\n".join(render(short))
    assert "in 1 step, " in text
    assert "1,084 epochs" in text
    assert "device-hours" not in text  # the wall time says it


def test_a_run_that_computes_its_activations_again_is_planned_so() -> None:
    settings = Settings()
    settings.train.steps, settings.train.batch, settings.schedule.warmup_steps = 10, 8, 1
    settings.optimizer.learning_rate = 1e-3
    kept = plan_of(settings, preset("1M"), None, lookup("H100"), pace=None)
    settings.train.recompute = True
    again = plan_of(settings, preset("1M"), None, lookup("H100"), pace=None)
    assert again.memory_bytes["total"] == kept.memory_bytes_checkpointing
    assert again.memory_bytes["total"] < kept.memory_bytes["total"]


def test_looks_and_the_copies_searched_at_some_of_them_are_counted() -> None:
    settings = Settings()
    settings.train.steps, settings.watch.evaluate_every, settings.watch.sample_every = 90, 20, 90
    settings.train.batch, settings.model.context = 4, 64
    settings.watch.sample_tokens, settings.watch.probe_tokens = 100, 4096
    long = preset("1M")
    short = msgspec.structs.replace(long, context=32)
    # Even looks at 20, 40, 60, 80 and 90; extra ones at 1, 2, 4, 8, 16, 32, 64, and two ends of epochs of 40 steps, of
    # which one is even.
    data = CorpusStats(40 * 4 * 64, 40_000, 300)
    extra = 7
    for tokens in (5000, 1000):
        found = overhead(settings, long, replace(data, validation_tokens=tokens))
        probe = min(4096, tokens)
        assert found.evaluated_tokens == 512 + 5 * 4096 + 512 + 5 * probe + extra * probe
    samples = 16 + 100  # before the first step, when fresh weights write little, and after the last
    assert overhead(settings, long, data).sampled_tokens == samples
    assert overhead(settings, long, replace(data, validation_tokens=5000)).sampled_tokens == samples + 2 * 64
    assert overhead(settings, short, replace(data, validation_tokens=5000)).sampled_tokens == samples + 2 * 32


def test_a_plan_needs_no_torch_and_no_matplotlib() -> None:
    code = (
        "import sys; from hornbook.planning.plan import make_plan; from hornbook.planning.plan_text import render; "
        "from hornbook.facts.accelerators import lookup; "
        "import hornbook.planning.health; "
        "render(make_plan(parameters=7*10**9, tokens=2*10**12, on=lookup('8xA100'), usd_per_hour=30)); "
        "sys.exit(bool({'torch', 'matplotlib', 'tokenizers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "src")}, check=False)
    assert done.returncode == 0


def test_counting_models_are_in_the_memory_of_a_run_on_a_cpu() -> None:
    shape = preset("1M")
    sizes = []
    for tokens in (10_000, 3_000_000):
        facts = RunFacts(shape=shape, batch_tokens=4096, steps=100, train_tokens=tokens)
        plan = make_plan(shape=shape, tokens=409_600, on=(1, custom("this machine", 150e9)), facts=facts)
        assert plan.memory_bytes["counting"] == counting_bytes(tokens, shape.vocabulary)
        sizes.append(plan.memory_bytes["total"])
    assert sizes[1] - sizes[0] > 200 * 2**20

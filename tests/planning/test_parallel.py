"""Which layout is planned, against figures computed by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.facts.accelerators import lookup
from hornbook.facts.shape import preset
from hornbook.planning.memory import memory
from hornbook.planning.parallel import layout_for, published_batch_tokens
from hornbook.planning.plan import make_plan
from hornbook.planning.plan_text import render

GB = 10**9


@given(devices=st.integers(1, 64), least=st.integers(1, 64), per_node=st.sampled_from([1, 4, 8]))
def test_the_copies_fill_the_devices_and_fit_where_anything_does(devices, least, per_node):
    layout = layout_for(lambda shards: shards >= least, devices, per_node)
    assert devices % layout.shards == 0
    assert layout.shards >= least or layout.shards == devices
    assert (layout.parallel == "replicate") == (layout.shards == 1 < devices)
    assert (layout.parallel == "shard") == (layout.shards == devices > 1)
    if layout.parallel == "hybrid":
        assert layout.shards % per_node == 0


@pytest.mark.parametrize(
    ("name", "on", "parallel", "shards"),
    [  # 18 bytes a parameter: weights 4 and their copy in bfloat16 2, gradients 4, AdamW 8
        ("gpt2", "8xA100", "replicate", 1),  # 124M: 2.2 GB
        ("llama2-7b", "8xA100", "shard", 8),  # 121 GB: not on 80, 15 on each of 8
        ("llama2-7b", "64xA100", "hybrid", 8),
        ("llama2-7b", "1xA100", None, 1),
        ("llama2-7b", "2xT4", "shard", 2),  # 61 GB on 16
    ],
)
def test_the_layout_of_published_shapes(name, on, parallel, shards):
    plan = make_plan(shape=preset(name), tokens=10**12, on=lookup(on))
    assert (plan.parallel, plan.shards) == (parallel, shards)
    assert any("does not fit" in line for line in plan.warnings) == on.endswith(("1xA100", "T4"))
    assert any(line.startswith("parallel") for line in render(plan)) == (parallel is not None)


def test_sharded_state_is_sixteen_bytes_a_parameter_and_a_copy_in_half_precision():
    shape = preset("llama2-7b")
    needed = memory(shape, 1, half=True, on_cpu=False, shards=8)
    blocks = shape.parameters_by_part()["attention"] + shape.parameters_by_part()["mlp"]
    gathered = 2 * (blocks // shape.layers) * 4
    state = needed.weights - gathered + needed.gradients + needed.optimizer
    assert state == pytest.approx(18 * shape.parameters / 8, rel=1e-6)


def test_the_microbatch_of_a_size_is_what_fits():
    plan = make_plan(parameters=7 * 10**9, tokens=10**12, on=lookup("64xH100"))
    assert plan.memory_bytes["total"] <= 80 * GB
    assert plan.microbatch == plan.largest_microbatch
    assert plan.steps == -(-(10**12) // published_batch_tokens(7e9))
    large = make_plan(parameters=20 * 10**9, tokens=10**12, on=lookup("8xH100"))
    assert large.recompute
    assert large.memory_bytes["total"] == large.memory_bytes_checkpointing <= 80 * GB


def test_no_process_needs_the_memory_of_the_whole_weights():
    """280 GB of 70B parameters, on devices of 80."""
    plan = make_plan(parameters=70 * 10**9, tokens=10**12, on=lookup("64xH100"))
    assert plan.memory_bytes["total"] < 80 * GB
    assert not any("does not fit" in line for line in plan.warnings)

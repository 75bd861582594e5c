"""The decoder against transformers, against its own shape, and against what attention may see."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.facts.shape import FAMILIES, PRESETS, GPTShape, RotaryScaling
from hornbook.formats.huggingface import assemble, naming_of, scatter
from hornbook.model import decoder
from hornbook.model.cpu import functional
from hornbook.model.decoder import (
    Cache,
    Decoder,
    attention_mask,
    rotary_frequencies,
    rotary_table,
    rotate,
)

VOCABULARY, CONTEXT = 61, 24


def small(family: str, **changes) -> Decoder:
    """A small model, every weight random: norms and biases too."""
    kv_heads = 4 if family == "gpt2" else 2
    sizes = {"layers": 2, "width": 32, "heads": 4, "kv_heads": kv_heads, "hidden": 48, "vocabulary": VOCABULARY}
    model = Decoder(GPTShape(**{"family": family, "context": CONTEXT, **sizes, **changes})).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=generator) * 0.2 + 1.0 * (name.endswith("norm.weight"))
            )
    return model


def tokens(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, VOCABULARY, size, generator=torch.Generator().manual_seed(seed))


def their_config(shape: GPTShape):
    """Written here key by key, not by our own export."""
    transformers = pytest.importorskip("transformers", reason="transformers is the second implementation here")
    if shape.family == "gpt2":
        activation = {"gelu": "gelu", "gelu_tanh": "gelu_new"}[shape.activation]
        return transformers.GPT2Config(
            vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=shape.width, n_layer=2, n_head=4, n_inner=shape.hidden,
            activation_function=activation, tie_word_embeddings=shape.tied,
        )  # fmt: skip
    kind = {"llama": "LlamaConfig", "qwen2": "Qwen2Config", "qwen3": "Qwen3Config"}[shape.family]
    rope = {"rope_type": "default", "rope_theta": shape.rope_base}
    if shape.rope_scaling is not None:
        s = shape.rope_scaling
        rope |= {"rope_type": s.kind, "factor": s.factor}
        if s.kind == "llama3":
            rope |= {"low_freq_factor": s.low_frequency_factor, "high_freq_factor": s.high_frequency_factor}
            rope |= {"original_max_position_embeddings": s.original_context}
    return getattr(transformers, kind)(
        vocab_size=VOCABULARY, max_position_embeddings=CONTEXT, hidden_size=shape.width, intermediate_size=shape.hidden,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=shape.kv_heads, head_dim=shape.head_width,
        rms_norm_eps=shape.norm_epsilon, rope_parameters=rope, tie_word_embeddings=shape.tied,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("gpt2", {}),
        ("gpt2", {"tied": False, "activation": "gelu"}),
        ("llama", {}),
        ("llama", {"tied": True, "rope_base": 500_000.0, "kv_heads": 1}),
        ("llama", {"rope_scaling": RotaryScaling("llama3", 8.0, 1.0, 4.0, 16), "rope_base": 1000.0}),
        ("llama", {"rope_scaling": RotaryScaling("linear", 4.0)}),
        ("qwen2", {}),
        ("qwen3", {"head_width": 16}),
        ("qwen3", {"tied": True, "kv_heads": 4}),
    ],
)
def test_logits_equal_transformers(family, changes):
    transformers = pytest.importorskip("transformers", reason="transformers is the second implementation here")
    model = small(family, **changes)
    theirs = transformers.AutoModelForCausalLM.from_config(their_config(model.shape), dtype=torch.float32).eval()
    state = scatter(model, naming_of(model.shape))
    if model.shape.tied:
        state["lm_head.weight"] = model.embedding.weight
    theirs.load_state_dict(state)
    batch = tokens(3, CONTEXT)
    with torch.no_grad():
        torch.testing.assert_close(model(batch), theirs(batch).logits, atol=1e-5, rtol=0)


@pytest.mark.parametrize("scaling", [None, RotaryScaling("linear", 4.0), RotaryScaling("llama3", 8.0, 1.0, 4.0, 8192)])
def test_rotary_frequencies_equal_transformers(scaling):
    """The frequencies of Llama 3.1 itself (head of 128, base 500,000): fast, blended and slow ones all occur."""
    functions = pytest.importorskip(
        "transformers.modeling_rope_utils", reason="transformers is the second implementation"
    ).ROPE_INIT_FUNCTIONS
    shape = GPTShape(
        family="llama", layers=2, width=512, heads=4, context=CONTEXT, vocabulary=VOCABULARY, rope_base=5e5,
        rope_scaling=scaling,
    )  # fmt: skip
    ours = rotary_frequencies(128, 5e5, scaling)
    if scaling is None:
        theirs = torch.tensor([5e5 ** (-2 * i / 128) for i in range(64)])
    else:
        theirs, factor = functions[scaling.kind](their_config(shape), "cpu")
        assert factor == 1
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)


def test_rotation_keeps_lengths_and_depends_on_distance_only():
    frequencies = rotary_frequencies(8, 100.0, None)
    x, y = torch.randn(2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def at(vector: torch.Tensor, position: int) -> torch.Tensor:
        cos, sin = rotary_table(torch.tensor([position]), frequencies)
        return rotate(vector[None], (cos.double(), sin.double()))[0]

    torch.testing.assert_close(at(x, 7).norm(), x.norm(), atol=1e-6, rtol=0)
    torch.testing.assert_close(at(x, 9) @ at(y, 4), at(x, 5) @ at(y, 0), atol=1e-5, rtol=0)
    assert torch.equal(at(x, 0), x)


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_of_presets_equal_the_shape(name):
    with torch.device("meta"):
        assert sum(p.numel() for p in Decoder(PRESETS[name]).parameters()) == PRESETS[name].parameters


@given(
    family=st.sampled_from(sorted(FAMILIES)), layers=st.integers(1, 3), heads=st.sampled_from([1, 2, 4, 6]),
    kv_divisor=st.sampled_from([1, 2, 3]), head_width=st.sampled_from([2, 4, 8]), hidden=st.integers(1, 70),
    context=st.integers(1, 50), vocabulary=st.integers(1, 99), tied=st.sampled_from([None, True, False]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_parameters_of_any_shape_equal_the_model(
    family, layers, heads, kv_divisor, head_width, hidden, context, vocabulary, tied
):
    shape = GPTShape(
        family=family, layers=layers, width=24, heads=heads, hidden=hidden, head_width=head_width,
        kv_heads=heads // kv_divisor if heads % kv_divisor == 0 else heads, context=context, vocabulary=vocabulary,
        tied=tied,
    )  # fmt: skip
    with torch.device("meta"):
        model = Decoder(shape)
    assert sum(p.numel() for p in model.parameters()) == shape.parameters
    by_part = shape.parameters_by_part()
    assert sum(p.numel() for n, p in model.named_parameters() if ".mlp." in n) == by_part["mlp"]
    assert sum(p.numel() for n, p in model.named_parameters() if ".attention." in n) == by_part["attention"]


@pytest.mark.parametrize(("family", "window"), [("gpt2", 24), ("llama", 24), ("qwen2", 10), ("qwen3", 16)])
def test_flops_equal_what_torch_counts(family, window, monkeypatch):
    """FlopCounterMode counts the matrix products as they run, attention's full square included; oneDNN's it does not
    know."""
    monkeypatch.setattr(functional, "FEW_ROWS", 10**9)
    from torch.utils.flop_counter import FlopCounterMode

    model = small(family)
    shape, batch = model.shape, tokens(2, window)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward, torch.no_grad():
            model(batch)
        with FlopCounterMode(display=False) as both:
            model(batch).sum().backward()
    assert forward.get_total_flops() == shape.forward_flops_per_token(window) * 2 * window
    assert both.get_total_flops() == shape.flops_per_token(window) * 2 * window


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_later_token_changes_no_earlier_logits(family):
    model, batch = small(family), tokens(1, CONTEXT)
    with torch.no_grad():
        before = model(batch)
        for position in (1, 11, CONTEXT - 1):
            changed = batch.clone()
            changed[0, position] = (changed[0, position] + 1) % VOCABULARY
            after = model(changed)
            assert torch.equal(before[:, :position], after[:, :position])
            assert not torch.allclose(before[:, position:], after[:, position:])


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_documents_in_one_window_equal_separate_passes(family):
    """With rotary positions only distances count, so a document's place in the window does not show."""
    model, lengths = small(family), [5, 1, 11, 7]
    texts = [tokens(1, length, seed=length) for length in lengths]
    documents = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))[None]
    with torch.no_grad():
        together = model.head(model.hidden(torch.cat(texts, 1), documents=documents))
        apart = torch.cat([model(text) for text in texts], 1)
    torch.testing.assert_close(together, apart, atol=1e-5, rtol=0)


def test_documents_never_see_each_other_with_learned_positions():
    model, batch = small("gpt2"), tokens(1, 12)
    documents = torch.tensor([[0] * 5 + [1] * 7])
    changed = batch.clone()
    changed[0, :5] = (changed[0, :5] + 1) % VOCABULARY
    with torch.no_grad():
        first = model.hidden(batch, documents=documents)
        second = model.hidden(changed, documents=documents)
        alone = model.hidden(batch[:, :5])
    assert torch.equal(first[:, 5:], second[:, 5:])
    torch.testing.assert_close(first[:, :5], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("cuts", [[1] * CONTEXT, [10, 1, 1, 12], [CONTEXT], [7, 17]])
def test_read_in_pieces_with_a_cache_equals_read_at_once(family, cuts):
    model, batch = small(family), tokens(2, CONTEXT)
    cache = Cache(model.shape, batch=2, capacity=CONTEXT)
    with torch.no_grad():
        pieces = torch.cat([model.head(model.hidden(piece, cache=cache)) for piece in batch.split(cuts, 1)], 1)
        torch.testing.assert_close(pieces, model(batch), atol=1e-5, rtol=0)
    assert cache.length == CONTEXT


def test_learned_positions_end_with_the_context_and_rotary_ones_do_not():
    with pytest.raises(ValueError, match="25 tokens do not fit the context of 24"):
        small("gpt2").hidden(tokens(1, CONTEXT + 1))
    model = small("gpt2")
    cache = Cache(model.shape, batch=1, capacity=CONTEXT + 1)
    model.hidden(tokens(1, CONTEXT), cache=cache)
    with pytest.raises(ValueError, match="25 tokens do not fit the context of 24"):
        model.hidden(tokens(1, 1), cache=cache)
    assert small("qwen3")(tokens(1, CONTEXT + 1)).shape == (1, CONTEXT + 1, VOCABULARY)


def test_attention_mask_by_hand():
    cpu = torch.device("cpu")
    assert attention_mask(5, 0, None, cpu) is None
    assert attention_mask(1, 9, None, cpu) is None
    assert attention_mask(2, 3, None, cpu).int().tolist() == [[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]
    documents = torch.tensor([[0, 0, 1]])
    assert attention_mask(3, 0, documents, cpu)[0, 0].int().tolist() == [[1, 0, 0], [1, 1, 0], [0, 0, 1]]


def test_dropout_is_on_in_training_only():
    quiet = small("gpt2")
    noisy = Decoder(quiet.shape, dropout=0.3)
    noisy.load_state_dict(quiet.state_dict())
    batch = tokens(2, 10)
    assert torch.equal(noisy.eval()(batch), quiet(batch))
    noisy.train()
    assert not torch.equal(noisy(batch), noisy(batch))


def test_half_precision_stays_half_precision():
    model = assemble(small("qwen3").shape, dict(small("qwen3").named_parameters()), torch.bfloat16)
    logits = model(tokens(1, 10))
    assert logits.dtype == torch.bfloat16
    assert (logits.float() - small("qwen3")(tokens(1, 10))).abs().max() < 0.1 * logits.float().std()


@pytest.mark.parametrize("length", [1, 7, 32])
def test_attention_in_bfloat16_products_is_that_of_float64(length):
    """On a CPU under autocast: to what 8 bits of scores and probabilities leave, gradients too."""
    drawn = torch.randn(4, 2, 4, length, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = drawn[3].float()
    q, k, v = (x.float().requires_grad_() for x in drawn[:3])
    attention = small("qwen3", kv_heads=4).blocks[0].attention
    with torch.autocast("cpu", torch.bfloat16):
        assert functional._is_faster_in_products(q, k)
        mixed = attention.mix(q, k, v, None)
    assert mixed.dtype == torch.bfloat16
    (mixed.float() * weights).sum().backward()
    exact = [x.detach().double().requires_grad_() for x in (q, k, v)]
    wanted = torch.nn.functional.scaled_dot_product_attention(*exact, is_causal=True)
    (wanted * weights).sum().backward()
    torch.testing.assert_close(mixed.double(), wanted, rtol=0.02, atol=0.04)
    for ours, theirs in zip((q, k, v), exact, strict=True):
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=0.02, atol=0.08)


def test_attention_in_bfloat16_products_never_sees_what_comes_later():
    q, k, v = torch.randn(3, 2, 4, 32, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        before = functional.attention_in_products(q, k, v)
        k[:, :, 20:], v[:, :, 20:] = 5.0, -3.0
        after = functional.attention_in_products(q, k, v)
    assert torch.equal(before[:, :, :20], after[:, :, :20])
    assert not torch.equal(before[:, :, 20:], after[:, :, 20:])


def test_long_contexts_and_float32_stay_with_the_fused_kernel():
    short, long = torch.zeros(1, 4, 64, 8), torch.zeros(1, 4, 65, 8)
    assert not functional._is_faster_in_products(short, short)
    with torch.autocast("cpu", torch.bfloat16):
        assert functional._is_faster_in_products(short, short)
        assert not functional._is_faster_in_products(long, long)
        assert not functional._is_faster_in_products(short, short[:, :2])


def test_recomputing_gives_the_same_gradients():
    weights = small("qwen3")
    kept, again = (Decoder(weights.shape, dropout=0.1) for _ in range(2))
    again.recompute = True
    for model in (kept, again):
        model.load_state_dict(weights.state_dict())
        torch.manual_seed(0)
        model(tokens(2, 10)).square().mean().backward()
    for a, b in zip(kept.parameters(), again.parameters(), strict=True):
        assert torch.equal(a.grad, b.grad)


@pytest.mark.parametrize("rows", [1, 3, 4, 8, 33])
def test_a_product_of_few_rows_with_many_weights_is_that_product(rows):
    layer = decoder.Linear(1024, functional.LARGE // 1024, bias=False)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(layer.weight.shape, generator=generator))
        x = torch.randn(rows, 1024, generator=generator)
        torch.testing.assert_close(layer(x).double(), x.double() @ layer.weight.double().T, rtol=1e-5, atol=1e-4)

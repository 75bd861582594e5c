import msgspec
import pytest

from hornbook.facts.errors import InputError
from hornbook.facts.shape import FAMILIES, PRESETS, GPTShape, preset

# Numbers of parameters as published with the weights, counted there tensor by tensor.
PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama2-7b": 6_738_415_616,
    "llama3-8b": 8_030_261_248,
}


@pytest.mark.parametrize(("name", "parameters"), PUBLISHED.items())
def test_published_numbers_of_parameters(name, parameters):
    assert PRESETS[name].parameters == parameters


@pytest.mark.parametrize("name", [name for name in PRESETS if name[0].isdigit()])
def test_a_preset_is_called_by_its_size(name):
    size = float(name[:-1]) * {"M": 1e6, "B": 1e9}[name[-1]]
    assert 0.5 * size <= PRESETS[name].parameters <= 1.5 * size


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_parameters_of_the_real_model(family, tied, kv_heads):
    import torch

    from hornbook.model.decoder import Decoder

    shape = GPTShape(
        family=family, layers=3, width=48, heads=4, kv_heads=kv_heads, context=20, vocabulary=101, tied=tied
    )  # fmt: skip
    with torch.device("meta"):
        model = Decoder(shape)
    assert sum(p.numel() for p in model.parameters()) == shape.parameters
    multiplying = sum(m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear))
    assert shape.matmul_parameters == multiplying
    assert shape.parameters == sum(shape.parameters_by_part().values())
    assert (shape.parameters_by_part()["head"] == 0) is tied


def test_flops_by_hand():
    shape = GPTShape(family="gpt2", layers=2, width=8, heads=2, context=16, vocabulary=10)
    weights = 2 * (4 * 8 * 8 + 2 * 8 * 32) + 10 * 8  # attention, MLP, head
    scores_and_mixing = 2 * 2 * (2 * 16 * 8)  # a layer: query by keys, and weights by values; 2 FLOPs each
    assert shape.forward_flops_per_token() == 2 * weights + scores_and_mixing
    assert shape.forward_flops_per_token(4) == 2 * weights + scores_and_mixing // 4
    assert shape.flops_per_token() == 3 * shape.forward_flops_per_token()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"family": "gtp2"}, 'unknown model family "gtp2" (did you mean "gpt2"?)'),
        ({"layers": 0}, "model.layers is 0, but must be at least 1"),
        ({"heads": 3}, "model.width 16 is not divisible by model.heads 3"),
        ({"kv_heads": 3}, "model.heads 4 is not divisible by model.kv_heads 3"),
        ({"family": "llama", "width": 12, "kv_heads": 1}, "rotary positions need an even one"),
        ({"vocabulary": 0}, "model.vocabulary is 0"),
    ],
)
def test_numbers_that_do_not_fit(changes, sentence):
    fitting = {"family": "gpt2", "layers": 1, "width": 16, "heads": 4, "context": 8, "vocabulary": 5}
    GPTShape(**fitting)
    with pytest.raises(InputError) as error:
        GPTShape(**{**fitting, **changes})
    assert sentence in str(error.value)


def test_derived_numbers():
    gated = GPTShape(family="llama", layers=1, width=100, heads=2, context=8, vocabulary=5)
    assert (gated.hidden, gated.head_width, gated.kv_heads, gated.tied) == (288, 50, 2, False)
    plain = GPTShape(family="gpt2", layers=1, width=100, heads=2, context=8, vocabulary=5)
    assert (plain.hidden, plain.tied, plain.activation) == (400, True, "gelu_tanh")


@pytest.mark.parametrize("name", PRESETS)
def test_a_shape_survives_json(name):
    shape = preset(name)
    assert msgspec.json.decode(msgspec.json.encode(shape), type=GPTShape) == shape


def test_an_unknown_preset_brings_the_nearest():
    with pytest.raises(InputError, match=r'did you mean "gpt2-xl"\?\): choose from 0.2M, '):
        preset("gpt2-xxl")

"""Weights of Hugging Face folders: transformers writes and reads them too, and is the second implementation."""

import json
import logging
import os
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file

from hornbook.facts.errors import InputError, SystemFailure
from hornbook.facts.shape import GPTShape, RotaryScaling
from hornbook.formats.huggingface import find_huggingface, load_huggingface, read_huggingface, write_huggingface
from hornbook.model.decoder import Decoder
from hornbook.model.generate import generate
from hornbook.model.init import initialise

transformers = pytest.importorskip("transformers", reason="transformers is the second implementation here")

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8], [7, 90, 12, 33, 0, 5, 60, 61, 62, 10, 11, 12]])
SMALL = {"vocab_size": 97, "max_position_embeddings": 32, "hidden_size": 48, "intermediate_size": 80}
SMALL |= {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 16, "rope_theta": 100.0}


def theirs(family: str, **changes) -> torch.nn.Module:
    """A small random model of transformers', float32, biases and norms random too."""
    torch.manual_seed(1)
    if family == "gpt2":
        config = transformers.GPT2Config(
            **{"n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 32, "vocab_size": 97, **changes}
        )
    else:
        kind = {"llama": "LlamaConfig", "mistral": "MistralConfig", "qwen2": "Qwen2Config", "qwen3": "Qwen3Config"}
        extra = {"head_dim": 16} if family == "qwen3" else {}
        config = getattr(transformers, kind[family])(**(SMALL | extra | changes))
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def logits_of_theirs(folder: Path) -> torch.Tensor:
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(TOKENS).logits


CASES = [
    ("gpt2", {}),
    ("gpt2", {"tie_word_embeddings": False, "activation_function": "gelu", "n_inner": 100}),
    ("llama", {}),
    ("llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-5}),
    ("llama", {"rope_parameters": LLAMA3}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 3.0, "rope_theta": 500.0}, "hidden_act": "gelu"}),
    ("mistral", {"sliding_window": None, "head_dim": 8}),
    ("mistral", {"sliding_window": 32}),
    ("qwen2", {}),
    ("qwen2", {"tie_word_embeddings": True}),
    ("qwen3", {}),
    ("qwen3", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
]


@pytest.mark.parametrize(("family", "changes"), CASES)
def test_reads_what_transformers_writes_with_the_same_logits(tmp_path, family, changes):
    model = theirs(family, **changes)
    model.save_pretrained(tmp_path)
    ours = load_huggingface(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS), model(TOKENS).logits, atol=1e-5, rtol=0)
    assert ours.shape.parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("family", "changes"), CASES)
def test_transformers_reads_what_is_written_with_the_same_logits_and_text(tmp_path, caplog, family, changes):
    theirs(family, **changes).save_pretrained(tmp_path / "in")
    ours = load_huggingface(tmp_path / "in")
    write_huggingface(ours, tmp_path / "out")
    with caplog.at_level(logging.WARNING):
        logging.getLogger("transformers").propagate = True
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32).eval()
    # GPT2Config() itself names id 50256 before it reads null: said once a process, by whichever test is first.
    assert [said for said in caplog.messages if "got 50256" not in said] == []
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS), again(TOKENS).logits, atol=1e-5, rtol=0)
    text = again.generate(
        TOKENS[:1], attention_mask=torch.ones_like(TOKENS[:1]), max_new_tokens=15, do_sample=False, pad_token_id=0
    )
    assert list(generate(ours, TOKENS[0].tolist(), max_tokens=15, temperature=0)) == text[0, 12:].tolist()


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [True, False])
def test_written_and_read_again_is_the_same_to_the_last_bit(tmp_path, family, tied):
    torch.manual_seed(0)
    scaling = RotaryScaling("llama3", 4.0, 1.0, 4.0, 16) if family == "qwen3" else None
    shape = GPTShape(
        family=family, layers=2, width=32, heads=4, kv_heads=2 if family != "gpt2" else 4, context=16, vocabulary=50,
        head_width=8, hidden=48, tied=tied, rope_scaling=scaling,
    )  # fmt: skip
    model = initialise(Decoder(shape), 0)
    write_huggingface(model, tmp_path / "out")
    again_shape, weights = read_huggingface(tmp_path / "out")
    assert again_shape == shape
    assert weights.keys() == dict(model.named_parameters()).keys()
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, weights[name]), name
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors",
    }  # fmt: skip
    assert os.listdir(tmp_path) == ["out"]  # nothing is left aside


def test_loaded_weights_are_plain_trainable_and_tied(tmp_path):
    theirs("llama", tie_word_embeddings=True).save_pretrained(tmp_path)
    model = load_huggingface(tmp_path)
    assert model.head.projection.weight is model.embedding.weight
    assert all(p.requires_grad and p.dtype == torch.float32 for p in model.parameters())
    model(TOKENS).sum().backward()
    assert model.embedding.weight.grad is not None


def test_the_file_can_go_after_reading(tmp_path):
    theirs("llama").save_pretrained(tmp_path)
    model = load_huggingface(tmp_path)
    before = model(TOKENS)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"\xff" * file.stat().st_size)
    assert torch.equal(model(TOKENS), before)


def test_sharded_and_half_precision_files(tmp_path):
    model = theirs("qwen3").to(torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ours = load_huggingface(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(ours(TOKENS), logits_of_theirs(tmp_path), atol=1e-5, rtol=0)
    assert load_huggingface(tmp_path, torch.bfloat16).embedding.weight.dtype == torch.bfloat16


def test_an_export_in_half_precision_opens_in_its_precision(tmp_path):
    theirs("llama").save_pretrained(tmp_path / "in")
    write_huggingface(load_huggingface(tmp_path / "in"), tmp_path / "out", dtype=torch.float16)
    opened = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert opened.dtype == torch.float16
    assert load_huggingface(tmp_path / "out").embedding.weight.dtype == torch.float32


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_names_without_prefix_and_old_buffers(tmp_path, family):
    """The hub's `gpt2` was saved so: no `transformer.` before the names, causal masks among the weights."""
    model = theirs(family, tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {name.split(".", 1)[1]: tensor for name, tensor in tensors.items() if name != "lm_head.weight"}
    name = "h.0.attn.bias" if family == "gpt2" else "layers.0.self_attn.rotary_emb.inv_freq"
    tensors[name] = torch.ones(1, 1, 32, 32)
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with torch.no_grad():
        torch.testing.assert_close(load_huggingface(tmp_path)(TOKENS), model(TOKENS).logits, atol=1e-5, rtol=0)


def test_a_tied_head_that_is_stored_too(tmp_path):
    """Equal: tied. Different: untied, as transformers does. Only the head stored: it is the embedding."""
    theirs("llama", tie_word_embeddings=True).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    embedding = tensors["model.embed_tokens.weight"]
    for head, tied in ((embedding.clone(), True), (embedding * 2, False)):
        save_file(tensors | {"lm_head.weight": head}, file, metadata={"format": "pt"})
        model = load_huggingface(tmp_path)
        assert model.shape.tied is tied
        with torch.no_grad():
            torch.testing.assert_close(model(TOKENS), logits_of_theirs(tmp_path), atol=1e-5, rtol=0)
    del tensors["model.embed_tokens.weight"]
    save_file(tensors | {"lm_head.weight": embedding}, file, metadata={"format": "pt"})
    with torch.no_grad():
        torch.testing.assert_close(load_huggingface(tmp_path)(TOKENS), logits_of_theirs(tmp_path), atol=1e-5, rtol=0)


OLD_STYLE = [
    {"rope_theta": 500.0},
    {"rope_theta": 500.0, "rope_scaling": None},
    {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
    {"rope_theta": 100.0, "rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"}},
    {},
]


@pytest.mark.parametrize("rope", OLD_STYLE)
def test_configurations_written_before_transformers_5(tmp_path, rope):
    theirs("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config.pop("rope_parameters")
    config["torch_dtype"] = config.pop("dtype")
    (tmp_path / "config.json").write_text(json.dumps(config | rope))
    with torch.no_grad():
        torch.testing.assert_close(load_huggingface(tmp_path)(TOKENS), logits_of_theirs(tmp_path), atol=1e-5, rtol=0)


REFUSED = [
    ({"model_type": "gemma3_text"}, 'architecture "gemma3_text".*gpt2, llama, mistral, qwen2, qwen3'),
    ({"model_type": None}, "not a model's configuration"),
    ({"auto_map": {"AutoModelForCausalLM": "modeling_x.X"}}, "never runs"),
    ({"quantization_config": {"quant_method": "gptq"}}, "quantized .gptq."),
    ({"hidden_act": "relu2"}, "relu2.*silu"),
    ({"attention_bias": True}, "attention_bias = true"),
    ({"mlp_bias": True}, "mlp_bias = true"),
    ({"hidden_size": "48"}, "hidden_size"),
    ({"hidden_size": -48}, "hidden_size"),
    ({"num_attention_heads": 5}, "5"),
    ({"num_hidden_layers": 10**9}, "lacks many"),
    ({"num_hidden_layers": 3}, "lacks 9 .*layers.2"),
    ({"num_hidden_layers": 1}, "9 tensors that its architecture does not"),
    ({"vocab_size": 96}, r"embed_tokens.weight has the size \(97, 48\).*\(96, 48\)"),
    ({"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, '"yarn".*default, linear or llama3'),
    ({"rope_parameters": {"rope_type": "linear"}}, "missing or impossible"),
    ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "one for all layers"),
    ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor = 0.5"),
    ({"model_type": "mistral", "sliding_window": 8}, "last 8 tokens.*max_position_embeddings to 8"),
    ({"model_type": "qwen3", "layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8}, "last 8"),
    ({"model_type": "qwen3", "use_sliding_window": True, "max_window_layers": 1, "sliding_window": 8}, "last 8"),
]


@pytest.mark.parametrize(
    ("changes", "sentence"), REFUSED, ids=[str(next(iter(changes.items()))) for changes, _ in REFUSED]
)
def test_what_the_decoder_does_not_have_is_refused_with_a_sentence(tmp_path, changes, sentence):
    theirs("llama").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(InputError, match=sentence) as caught:
        read_huggingface(tmp_path)
    assert "\n" not in str(caught.value)


def test_gpt2_variants_are_refused(tmp_path):
    theirs("gpt2", scale_attn_by_inverse_layer_idx=True).save_pretrained(tmp_path)
    with pytest.raises(InputError, match="scale_attn_by_inverse_layer_idx = true"):
        read_huggingface(tmp_path)


def test_windows_that_do_not_matter_are_read(tmp_path):
    """Qwen2 files carry a window that is switched off; a window as long as the context changes nothing."""
    model = theirs("qwen2", sliding_window=8, use_sliding_window=False)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key in ("layer_types", "sliding_window"):
        config.pop(key, None)
    (tmp_path / "config.json").write_text(json.dumps(config | {"sliding_window": 8, "max_window_layers": 1}))
    with torch.no_grad():
        torch.testing.assert_close(load_huggingface(tmp_path)(TOKENS), model(TOKENS).logits, atol=1e-5, rtol=0)


class Armed:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickles_are_refused_and_never_opened(tmp_path, name):
    theirs("llama").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(Armed(tmp_path / "ran"), tmp_path / name)
    (tmp_path / "modeling_llama.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(InputError, match=f"{name} is a pickle.*save_pretrained"):
            read_huggingface(path)
    assert not (tmp_path / "ran").exists()


def test_damaged_files_are_refused(tmp_path):
    theirs("llama").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = file.read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], whole[:5], b"", whole + b"x", b"\xff" * 64):
        file.write_bytes(damaged)
        with pytest.raises(InputError, match=r"model.safetensors is damaged or cut off"):
            read_huggingface(tmp_path)
    file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n")
    with pytest.raises(InputError, match="git lfs pull"):
        read_huggingface(tmp_path)


def test_odd_tensors_are_refused(tmp_path):
    theirs("llama").save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    whole = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    odd = [
        ({name: whole[name].t().contiguous()}, r"up_proj.weight has the size \(48, 80\)"),
        ({name: whole[name] * float("nan")}, "up_proj.weight holds numbers that are NaN"),
        ({name: whole[name].to(torch.int8)}, "up_proj.weight is stored as I8"),
        ({"score.weight": torch.ones(2, 48)}, "score.weight"),
    ]
    for changes, sentence in odd:
        save_file(whole | changes, file, metadata={"format": "pt"})
        with pytest.raises(InputError, match=sentence):
            read_huggingface(tmp_path)


def test_an_index_cannot_leave_its_folder(tmp_path):
    theirs("llama").save_pretrained(tmp_path / "model", max_shard_size="60KB")
    index = tmp_path / "model" / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    first = next(iter(content["weight_map"]))
    outside = tmp_path / "outside.safetensors"
    save_file({first: torch.ones(1)}, outside)
    for name in ("../outside.safetensors", str(outside), "absent.safetensors", "config.json"):
        index.write_text(json.dumps(content | {"weight_map": content["weight_map"] | {first: name}}))
        with pytest.raises(InputError, match="not a safetensors file in this folder"):
            read_huggingface(tmp_path / "model")
    index.write_text("[1")
    with pytest.raises(InputError, match="not an index"):
        read_huggingface(tmp_path / "model")


def test_folders_without_a_model(tmp_path):
    with pytest.raises(InputError, match=r"config.json cannot be read"):
        read_huggingface(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="not a model's configuration"):
        read_huggingface(tmp_path)
    (tmp_path / "config.json").write_bytes(b'{"model_type": "\xff"}')
    with pytest.raises(InputError, match="not a model's configuration"):
        read_huggingface(tmp_path)
    theirs("gpt2").config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match="has no weights"):
        read_huggingface(tmp_path)
    with pytest.raises(InputError, match="not a model folder"):
        read_huggingface(tmp_path / "config.json")


def test_an_export_never_replaces_what_is_there(tmp_path):
    model = Decoder(GPTShape(family="gpt2", layers=1, width=8, heads=2, context=8, vocabulary=11))
    torch.nn.init.normal_(model.embedding.weight)
    (tmp_path / "out").mkdir()
    write_huggingface(model, tmp_path / "out", card="# A model\n")  # an empty folder is as good as none
    assert (tmp_path / "out" / "README.md").read_text() == "# A model\n"
    (tmp_path / "ordinary").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "ordinary").stat().st_mode  # not the scratch folder's
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="exists already"):
        write_huggingface(model, tmp_path / "out")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before


def test_an_export_that_fails_leaves_nothing(tmp_path):
    model = Decoder(GPTShape(family="gpt2", layers=1, width=8, heads=2, context=8, vocabulary=11))
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemFailure, match="could not be written"):
        write_huggingface(model, tmp_path / "file" / "out")
    assert os.listdir(tmp_path) == ["file"]


def test_shapes_that_transformers_refuses_are_not_exported(tmp_path):
    shape = GPTShape(family="llama", layers=1, width=10, heads=4, head_width=4, context=8, vocabulary=11)
    with pytest.raises(InputError, match="not divisible"):
        write_huggingface(Decoder(shape), tmp_path / "out")
    write_huggingface(Decoder(msgspec.structs.replace(shape, family="qwen3")), tmp_path / "out")


def test_hub_ids(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub", reason="the hub needs the package huggingface_hub")
    assert find_huggingface(tmp_path) == tmp_path
    for name in ("no-such-folder", "a/b/c", "../x", "/x/y"):
        with pytest.raises(InputError, match="there is no model folder"):
            find_huggingface(name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(SystemFailure, match="no folder nobody/no-such-model") as caught:
        find_huggingface("nobody/no-such-model")
    assert "\n" not in str(caught.value)

"""`hornbook export`: other programs open what is written, and it is the same model."""

import json
import os
import re
import stat
from importlib.util import find_spec

import numpy as np
import pytest
import torch

import hornbook
from hornbook.facts.errors import InputError
from hornbook.model.generate import generate
from hornbook.text.chats import chat_text


@pytest.fixture(scope="module")
def exported(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "tiny"
    hornbook.export(str(tiny_run.run), to="huggingface", out=folder)
    return folder


def test_transformers_opens_it_and_continues_alike(tiny_run, exported):
    transformers = pytest.importorskip("transformers", reason="transformers is the second implementation here")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported)
    ours = hornbook.open_model(tiny_run.run)
    text = "Return the “argument” parser."
    ids = tokenizer(text)["input_ids"]
    assert ids == ours.tokenizer.encode(text).tolist()
    assert tokenizer.decode(ids) == text
    prompt = torch.tensor([[ours.tokenizer.end_of_text, *ids[:10]]])
    with torch.no_grad():
        assert torch.allclose(theirs(prompt).logits, ours.model(prompt), atol=1e-5)
    written = theirs.generate(prompt, do_sample=False, max_new_tokens=20, pad_token_id=0)[0, prompt.shape[1] :]
    assert written.tolist() == list(generate(ours.model, prompt[0].tolist(), max_tokens=20, temperature=0.0))


def test_the_card_has_the_runs_numbers_and_conventions(tiny_run, exported):
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert f"{tiny_run.summary['validation_loss_nats_per_token']:.4f} nats per token" in card
    assert "stride 16 tokens" in card
    assert "loss of a unigram model" in card
    assert str(tiny_run.folder) not in card
    assert json.loads((exported / "generation_config.json").read_text())["eos_token_id"] == 256


def test_a_checkpoint_that_was_not_evaluated_claims_nothing(tiny_run, tmp_path):
    hornbook.export(str(tiny_run.run), to="huggingface", out=tmp_path / "first", step=0)
    card = (tmp_path / "first" / "README.md").read_text(encoding="utf-8")
    assert "were not evaluated" in card
    assert "| training | 0 steps |" in card


def test_gguf_has_the_same_loss(command_line, tiny_run):
    pytest.importorskip("gguf", reason="the gguf package is an extra")
    done = command_line("export", tiny_run.run, "--to", "gguf", "--dtype", "f32", "--out", "tiny", "--json").json
    assert set(done["num_bytes"]) == {"tiny.gguf", "README.md"}
    text = str(tiny_run.folder / "text.txt")
    ours = hornbook.evaluate(str(tiny_run.run), text)
    theirs = hornbook.evaluate(str(command_line.folder / "tiny" / "tiny.gguf"), text)
    assert np.isclose(theirs.nats, ours.nats, rtol=1e-6)
    assert theirs.num_bytes == ours.num_bytes


def test_ollama_gets_a_modelfile_beside_the_weights(command_line, tiny_run):
    pytest.importorskip("gguf", reason="the gguf package is an extra")
    done = command_line("export", tiny_run.run, "--to", "ollama", "--out", "tiny", "--json").json
    assert set(done["num_bytes"]) == {"tiny.gguf", "README.md", "Modelfile"}
    folder = command_line.folder / "tiny"
    source, template, *parameters = (folder / "Modelfile").read_text(encoding="utf-8").splitlines()
    assert (folder / source.removeprefix("FROM ")).samefile(folder / "tiny.gguf")
    assert template == 'TEMPLATE "{{ .Prompt }}"'
    assert parameters == ["PARAMETER num_ctx 32", 'PARAMETER stop "<|endoftext|>"']
    assert hornbook.open_model(folder / "tiny.gguf").model.shape.context == 32
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "ollama create tiny -f tiny/Modelfile" in card
    assert "After `hornbook export RUN --to huggingface" in card


def test_the_card_says_of_each_program_whether_it_was_tried(exported):
    card = (exported / "README.md").read_text(encoding="utf-8")
    tried = re.findall(r"^With (.+) \((.+)\):$", card, re.MULTILINE)
    assert [program for program, _ in tried] == ["transformers", "vLLM", "llama.cpp", "ollama"]
    assert {program for program, how in tried if how != "not tried"} == {"transformers"}  # what the test above runs


def test_nothing_is_overwritten_and_nothing_half_written(command_line, tiny_run, exported):
    for to in ("huggingface", "gguf", "ollama"):
        finished = command_line("export", tiny_run.run, "--to", to, "--out", exported)
        assert (finished.code, finished.stdout) == (2, "")
        assert "exists already" in finished.stderr
    with pytest.raises(InputError, match='did you mean "huggingface"'):
        hornbook.export(str(tiny_run.run), to="hugingface", out=command_line.folder / "x")
    with pytest.raises(InputError, match="gguf can be written as f16, f32, q8_0, not float32"):
        hornbook.export(str(tiny_run.run), to="gguf", dtype="float32", out=command_line.folder / "x")
    assert not list(command_line.folder.iterdir())


def test_a_folder_with_one_gguf_file_is_that_model(command_line, tiny_run):
    """And where it has two, the error names them; the folder itself is never called as its file is."""
    pytest.importorskip("gguf", reason="the gguf package is an extra")
    refused = command_line("export", tiny_run.run, "--to", "gguf", "--out", "chat.gguf")
    assert refused.code == 2
    assert "give chat, not chat.gguf" in refused.stderr
    assert not list(command_line.folder.iterdir())
    assert command_line("export", tiny_run.run, "--to", "gguf", "--dtype", "f32", "--out", "chat").code == 0
    (command_line.folder / "chat").rename(command_line.folder / "chat.gguf")
    for command in (("generate", "chat.gguf", "def"), ("inspect", "chat.gguf", "def"), ("evaluate", "chat.gguf", "t")):
        (command_line.folder / "t").write_text("def add(a, b):", encoding="utf-8")
        done = command_line(*command)
        assert done.code == 0, done.stderr
    (command_line.folder / "chat.gguf" / "other.gguf").write_bytes(b"GGUF")
    refused = command_line("generate", "chat.gguf", "def")
    assert (refused.code, refused.stdout) == (2, "")
    assert "name one of them, such as chat.gguf/chat.gguf, chat.gguf/other.gguf" in refused.stderr


def test_every_file_that_is_written_follows_the_umask(command_line, text_file):
    def private():
        os.umask(0o027)

    length = ("--steps", "6", "--layers", "1", "--width", "32", "--context", "32", "--batch", "4", "--out", "run")
    assert command_line("train", text_file, *length, before=private).code == 0
    for to in ("huggingface", *(["gguf", "ollama"] if find_spec("gguf") else [])):
        assert command_line("export", "run", "--to", to, "--out", to, before=private).code == 0
    made = [path for path in command_line.folder.rglob("*") if path != text_file]
    modes = {str(path): stat.S_IMODE(path.stat().st_mode) for path in made}
    wrong = {path: oct(mode) for path, mode in modes.items() if mode != (0o750 if os.path.isdir(path) else 0o640)}
    assert not wrong
    assert any(path.endswith("model.safetensors") for path in modes)


CHAT = [{"role": "user", "content": "What is it?"}, {"role": "assistant", "content": "A horn book."}]


def test_a_model_of_chats_is_exported_with_their_form(command_line):
    """The template writes what the training read; a prompt ends where the answer's first token begins."""
    jinja2 = pytest.importorskip("jinja2")
    rows = "".join(json.dumps({"messages": [CHAT[0], {**CHAT[1], "content": f"Book {n}."}]}) + "\n" for n in range(60))
    (command_line.folder / "chats.jsonl").write_text(rows, encoding="utf-8")
    length = ("--steps", "4", "--layers", "1", "--width", "32", "--context", "32", "--batch", "4", "--out", "run")
    assert command_line("train", "chats.jsonl", *length).code == 0
    for to in ("huggingface", *(["ollama"] if find_spec("gguf") else [])):
        assert command_line("export", "run", "--to", to, "--out", to).code == 0
        assert "`assistant: ...`" in (command_line.folder / to / "README.md").read_text(encoding="utf-8")
    config = json.loads((command_line.folder / "huggingface" / "tokenizer_config.json").read_text())
    as_transformers = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(config["chat_template"])
    assert as_transformers.render(messages=CHAT, bos_token="") == chat_text(CHAT, "row 1")
    prompt = as_transformers.render(messages=CHAT[:1], bos_token="", add_generation_prompt=True)
    assert chat_text(CHAT, "row 1").startswith(prompt + " ")
    if find_spec("gguf"):
        modelfile = (command_line.folder / "ollama" / "Modelfile").read_text(encoding="utf-8")
        assert 'TEMPLATE """{{ range .Messages }}{{ .Role }}: {{ .Content }}\n\n{{ end }}assistant:"""' in modelfile
        assert 'PARAMETER stop "user:"' in modelfile


def test_other_text_gets_no_chat_template(exported):
    assert "chat_template" not in json.loads((exported / "tokenizer_config.json").read_text())

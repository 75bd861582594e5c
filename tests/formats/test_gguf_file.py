"""The tokenizer's way into GGUF metadata and back, and what has no place there."""

import pytest

from hornbook.facts.errors import InputError
from hornbook.formats.gguf_file import CONTROL, NAMES, NORMAL, UNUSED, tokenizer_json, tokenizer_metadata
from hornbook.text.make_tokenizer import characters, gpt2, raw_bytes, train_bpe
from hornbook.text.tokenizer import tokenizer_of
from hornbook.text.tokenizer_json import checked

TEXT = (
    "Call me Ishmael. Some years ago—never mind how long precisely—having 1234 dollars,\n\n  I'd sail: ñ 日本 🙂.\n" * 3
)


def ids_of(metadata: dict, text: str) -> list[int]:
    """By the tokenizers library itself, from the JSON that the metadata gives."""
    import json

    from tokenizers import Tokenizer

    content, _ = tokenizer_json(metadata, "m.gguf")
    return Tokenizer.from_str(json.dumps(content)).encode(text, add_special_tokens=False).ids


def metadata_of(**changes) -> dict:
    """A tokenizer of 256 bytes and one merge, as llama.cpp's converter writes it."""
    metadata = tokenizer_metadata(train_bpe([TEXT], 258), 258)
    metadata |= {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return {key: value for key, value in metadata.items() if value is not None}


@pytest.mark.parametrize("make", [lambda: train_bpe([TEXT], 300), raw_bytes, gpt2], ids=["bpe", "bytes", "gpt2"])
def test_the_same_ids_come_out(make):
    try:
        tokenizer = make()
    except InputError as error:
        if make is not gpt2:
            raise
        pytest.skip(f"GPT-2's tokenizer files are an extra: {error}")
    metadata = tokenizer_metadata(tokenizer, tokenizer.vocabulary + 7)
    assert ids_of(metadata, TEXT) == tokenizer.encode(TEXT).tolist()
    content, config = tokenizer_json(metadata, "m.gguf")
    again = tokenizer_of(checked(content, "m.gguf"), config)
    assert again.vocabulary == tokenizer.vocabulary  # the seven unused rows are not tokens
    assert (again.kind, again.fingerprint) == (tokenizer.kind, tokenizer.fingerprint)
    assert config["bos_token"] == config["eos_token"] == "<|endoftext|>"
    assert [token["id"] for token in content["added_tokens"]] == [tokenizer.end_of_text]
    types = metadata["tokenizer.ggml.token_type"]
    assert types[-7:] == [UNUSED] * 7
    assert types[tokenizer.end_of_text] == CONTROL
    assert types.count(NORMAL) == tokenizer.vocabulary - 1


@pytest.mark.parametrize(
    ("split", "digits"),
    [("gpt-2", ["1234"]), ("smollm", list("1234")), ("qwen2", list("1234")), ("llama-bpe", ["123", "4"])],
)
def test_the_named_splits_split(split, digits):
    """With every run of digits as a token, what becomes one token shows where the text is split."""
    from itertools import pairwise

    content, _ = tokenizer_json(metadata_of(), "m.gguf")
    vocab = list(content["model"]["vocab"])[:256]
    runs = ["12", "123", "1234"]
    tokens = [*vocab, *runs, "<|endoftext|>"]
    merges = [f"{left} {right[len(left) :]}" for left, right in pairwise(["1", *runs])]
    metadata = metadata_of(tokens=tokens, merges=merges, token_type=[NORMAL] * 259 + [CONTROL], pre=split)
    assert [tokens[number] for number in ids_of(metadata, "a1234")] == ["a", *digits]
    assert split in NAMES.values()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "llama"}, 'of the kind "llama", and only byte-level BPE'),
        ({"model": None}, "of the kind null"),
        ({"pre": "tekken"}, 'by the rule "tekken"; known ones are gpt-2, smollm'),
        ({"pre": None}, "by the rule null"),
        ({"tokens": None}, "tokens or merges are missing"),
        ({"tokens": ["a", 1]}, "tokens or merges are missing"),
        ({"merges": ["ab"]}, "tokens or merges are missing"),
        ({"tokens": ["a"] * 258}, "do not match"),
        ({"token_type": [1]}, "do not match"),
        ({"bos_token_id": 10**6}, "names 1000000 as its bos token"),
        ({"add_space_prefix": True}, "add_space_prefix = true"),
        ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces = true"),
        ({"precompiled_charsmap": [1]}, "precompiled_charsmap"),
        ({"normalizer.lowercase": True}, "normalizer.lowercase"),
    ],
)
def test_other_tokenizers_are_refused_with_a_sentence(changes, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        tokenizer_json(metadata_of(**changes), "m.gguf")
    assert "\n" not in str(caught.value)


def test_bytes_have_the_one_merge_that_llama_cpp_asks_for():
    """0xFF is in no UTF-8, so the merge of two never applies. Checked once against llama.cpp: 35 of 35 strings agree,
    in all four architectures, and without a merge it does not open the file."""
    metadata = tokenizer_metadata(raw_bytes(), 257)
    assert metadata["tokenizer.ggml.merges"] == ["ÿ ÿ"]
    assert ids_of(metadata, TEXT) == list(TEXT.encode())


def test_what_has_no_place_in_gguf_is_refused():
    with pytest.raises(InputError, match="no place for a tokenizer of the kind characters"):
        tokenizer_metadata(characters([TEXT]), 1000)
    with pytest.raises(InputError, match="has 257 tokens, but the model only 256"):
        tokenizer_metadata(raw_bytes(), 256)


def test_a_gpt2_file_without_a_named_split_has_gpt2s():
    metadata = metadata_of(pre=None) | {"general.architecture": "gpt2"}
    assert ids_of(metadata, TEXT) == ids_of(metadata_of(), TEXT)

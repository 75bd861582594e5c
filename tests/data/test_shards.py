import hashlib
import itertools
import json
import random
import shutil
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hornbook.data import shards
from hornbook.data.prepare import prepare
from hornbook.data.shard_writer import manifest_bytes
from hornbook.data.shards import MANIFEST, TokenStream, open_prepared, read_manifest
from hornbook.facts.errors import InputError
from hornbook.text.documents import documents

HEADER_BYTES = 64


def a_text(seed, num_words):
    words = ["the", "horn", "book", "was", "a", "board,", "größe", "\n", "日本", "of", "letters."]
    return " ".join(random.Random(seed).choices(words, k=num_words))


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A prepared folder with several shards on each side; nothing may be changed in it."""
    folder = tmp_path_factory.mktemp("whole")
    texts = folder / "texts"
    texts.mkdir()
    for i in range(6):
        (texts / f"{i}.txt").write_text(a_text(i, 200), encoding="utf-8")
    prepare(documents([str(texts)]), tokenizer="bytes", split="tail:0.3", out=folder / "prepared", shard_bytes=1024)
    return folder / "prepared"


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def refused(folder, *words, verify=True):
    with pytest.raises(InputError) as caught:
        open_prepared(folder, verify=verify)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


def sealed(folder, **changes):
    """Change the manifest and give it the right checksum again, as another writer of the format would."""
    manifest = json.loads((folder / MANIFEST).read_bytes()) | changes
    (folder / MANIFEST).write_bytes(manifest_bytes(manifest))


def resealed(folder, name):
    """Make the manifest agree with a file that a test has changed."""
    files = read_manifest(folder)["files"]
    sealed(folder, files=files | {name: shards.file_entry(folder / name)})


def test_the_format_is_as_documented(whole):
    """Read every byte by hand, without the reader."""
    opened = open_prepared(whole)
    stream = []
    for path in sorted(whole.glob("train-*.bin")):
        content = path.read_bytes()
        magic, version, item_bytes, count, vocabulary, fingerprint = struct.unpack_from("<8sIIQQ32s", content)
        assert (magic, version, item_bytes, vocabulary) == (b"hornbook", 1, 2, opened.tokenizer.vocabulary)
        assert fingerprint.hex() == opened.tokenizer.fingerprint
        assert len(content) == HEADER_BYTES + 2 * count <= 1024
        stream += struct.unpack_from(f"<{count}H", content, HEADER_BYTES)
        assert hashlib.sha256(content).hexdigest() == opened.manifest["files"][path.name]["sha256"]
    assert len(list(whole.glob("train-*.bin"))) > 3
    separator = opened.tokenizer.end_of_text
    texts = [bytes(ids).decode() for k, ids in itertools.groupby(stream, lambda i: i == separator) if not k]
    assert texts == [a_text(i, 200) for i in range(4)]
    assert opened.train.names == [f"{i}.txt" for i in range(4)]
    rows = np.load(whole / "train.documents.npy")
    assert rows[:, 1:].tolist() == [[len(t.encode()), len(t.encode()), len(t), len(t.split())] for t in texts]
    assert [stream[start - 1] for start in rows[:, 0]] == [separator] * 4


def test_documents_come_back(whole):
    opened = open_prepared(whole)
    for i in range(4):
        assert opened.tokenizer.decode_bytes(opened.train.document_tokens(i)) == a_text(i, 200).encode()
    for i in range(2):
        assert opened.tokenizer.decode_bytes(opened.validation.document_tokens(i)) == a_text(4 + i, 200).encode()


@given(
    sizes=st.lists(st.integers(1, 20), min_size=1, max_size=5),
    starts=st.lists(st.integers(0, 200), min_size=1, max_size=6),
    length=st.integers(1, 70),
)
def test_take_is_a_walk_on_a_circle_whatever_the_shards(sizes, starts, length):
    stream = np.random.default_rng(0).integers(0, 60_000, sum(sizes)).astype(np.uint16)
    part = TokenStream(np.split(stream, np.cumsum(sizes)[:-1]), np.zeros((0, 5), np.int64), [])
    walk = itertools.cycle(stream.tolist())
    around = list(itertools.islice(walk, 300))
    taken = part.take(np.array(starts), length)
    assert taken.dtype == np.int64
    assert taken.tolist() == [around[s : s + length] for s in starts]


def test_the_id_type_follows_the_vocabulary():
    assert shards.id_type(65_536) == np.dtype("<u2")
    assert shards.id_type(65_537) == np.dtype("<u4")


def test_any_flipped_bit_is_found_and_named(copy):
    chance = random.Random(0)
    for path in sorted(copy.iterdir()):
        content = path.read_bytes()
        for _ in range(12):
            flipped = bytearray(content)
            flipped[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
            path.write_bytes(flipped)
            refused(copy, path.name)
        path.write_bytes(content)
    open_prepared(copy)


def test_any_truncation_is_found_and_named_even_without_verifying(copy):
    chance = random.Random(1)
    for path in sorted(copy.iterdir()):
        content = path.read_bytes()
        for length in (0, len(content) - 2, *chance.choices(range(len(content) - 1), k=3)):
            path.write_bytes(content[:length])
            refused(copy, path.name, "prepare the text again", verify=False)
        path.write_bytes(content)


def test_any_missing_file_is_named(copy):
    for path in sorted(copy.iterdir()):
        content = path.read_bytes()
        path.unlink()
        refused(copy, path.name, verify=False)
        path.write_bytes(content)


@pytest.mark.parametrize(
    ("offset", "value", "words"),
    [
        (0, b"n", "is not a shard"),
        (8, b"\x02", "shard version 2"),
        (12, b"\x04", "not as long as its header says"),
        (16, b"\x01", "not as long as its header says"),
        (24, b"\x07", "another tokenizer"),
        (32, b"\x00\x00\x00", "another tokenizer"),
        (HEADER_BYTES, b"\xff\xff", "the id 65535, but the vocabulary has 257 ids"),
    ],
)
def test_a_shard_of_another_kind_is_refused_with_the_reason(copy, offset, value, words):
    path = copy / "train-00001.bin"
    content = bytearray(path.read_bytes())
    content[offset : offset + len(value)] = value
    path.write_bytes(content)
    resealed(copy, path.name)
    refused(copy, path.name, words)


def test_another_tokenizer_beside_the_shards_is_refused(copy):
    from hornbook.text.make_tokenizer import characters

    characters(["abc"]).save(copy)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        resealed(copy, name)
    refused(copy, "tokenizer.json", "is not the tokenizer", "prepare the text again")


def test_an_index_that_does_not_fit_is_refused(copy):
    np.save(copy / "train.documents.npy", np.zeros((2, 5), np.int64))
    resealed(copy, "train.documents.npy")
    refused(copy, "train.documents.npy", "damaged")


def test_a_missing_shard_in_the_manifest_is_refused(copy):
    parts = read_manifest(copy)["parts"]
    parts["train"]["shards"].pop()
    sealed(copy, parts=parts)
    refused(copy, "train", "as many ids")


def test_a_newer_version_asks_for_an_update(copy):
    sealed(copy, version=2)
    refused(copy, MANIFEST, "format version 2", "update hornbook")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b"[" * 100_000, b'{"format": 3}'])
def test_what_is_no_manifest_is_refused(copy, content):
    (copy / MANIFEST).write_bytes(content)
    refused(copy, MANIFEST, "prepare the text again")


def test_a_folder_that_is_not_prepared_says_how_to_make_one(tmp_path):
    refused(tmp_path, str(tmp_path), "hornbook prepare")
    refused(tmp_path / "nothing", "hornbook prepare")


def test_names_in_the_manifest_cannot_leave_the_folder(copy):
    files = read_manifest(copy)["files"]
    sealed(copy, files=files | {"../../etc/passwd": {"num_bytes": 1, "sha256": ""}})
    refused(copy, str(copy / "passwd"), "missing")


def test_an_empty_side_says_so():
    with pytest.raises(InputError, match="empty"):
        TokenStream([], np.zeros((0, 5), np.int64), []).take(np.array([0]), 4)

import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.data.loader import Batches
from hornbook.data.prepare import prepare
from hornbook.data.shards import open_prepared
from hornbook.facts.errors import InputError, SystemFailure
from hornbook.text import checkup, leaks
from hornbook.text.documents import Document, documents
from hornbook.text.split import split

WORDS = ["the", "horn", "book", "was", "a", "board,", "größe", "\n", "日本", "\u2003", "of", "letters."]
WORDS += ["".join(random.Random(i).choices("abcdefgh", k=6)) for i in range(30)]


def a_text(seed, num_words=300):
    return " ".join(random.Random(seed).choices(WORDS, k=num_words))


@pytest.fixture
def texts(tmp_path):
    """A folder of ten texts; the last is the validation side of tail:0.1."""
    folder = tmp_path / "texts"
    folder.mkdir()
    for i in range(10):
        (folder / f"{i}.txt").write_text(a_text(i), encoding="utf-8")
    return folder


def prepared(texts, out, **settings):
    return prepare(documents([str(texts)]), out=out, **{"tokenizer": "bytes", "split": "tail:0.1", **settings})


def contents(folder):
    """What the folder holds and whether it was written anew: name -> (bytes, inode, time of change)."""
    return {p.name: (p.read_bytes(), p.stat().st_ino, p.stat().st_mtime_ns) for p in Path(folder).iterdir()}


def neighbours(out):
    """What else lies beside the prepared folder: nothing, when all was tidied up."""
    return sorted(p.name for p in out.parent.iterdir() if p.name != out.name and not p.name.startswith("texts"))


def one_document(name, text):
    return Document(name, lambda: iter([text]))


def in_a_child(work):
    """Run `work` in a forked process; its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(99)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("tokenizer", ["bytes", "characters", "bpe:320"])
@pytest.mark.parametrize("rule", ["tail:0.1", "blocks:0.2", "hash:0.5", "none"])
def test_parts_hold_exactly_the_encoding_of_their_segments(texts, tmp_path, tokenizer, rule):
    opened = prepared(texts, tmp_path / "out", tokenizer=tokenizer, split=rule, shard_bytes=4096)
    lengths = [len(opened.tokenizer.token_bytes(i)) for i in range(opened.tokenizer.vocabulary)]
    sides = split(documents([str(texts)]), rule)
    for part, segments in zip((opened.train, opened.validation), sides, strict=True):
        assert part.names == [segment.name for segment in segments]
        for i, segment in enumerate(segments):
            ids = part.document_tokens(i)
            assert ids.tolist() == np.concatenate([opened.tokenizer.encode(p) for p in segment.pieces()]).tolist()
            text = segment.text()
            assert part.documents[i, 1:].tolist() == [len(ids), len(text.encode()), len(text), len(text.split())]
            assert sum(lengths[token] for token in ids) == len(text.encode())
        assert part.num_tokens == part.documents[:, 1].sum() + len(segments)
        name = "train" if part is opened.train else "validation"
        counts = opened.manifest["parts"][name]
        assert counts["num_tokens"] == part.num_tokens
        assert counts["num_documents"] == len(segments)
        columns = ["num_text_tokens", "num_bytes", "num_characters", "num_words"]
        assert [counts[c] for c in columns] == part.documents[:, 1:].sum(axis=0).tolist()
    both = sum(int(part.documents[:, 3].sum()) for part in (opened.train, opened.validation))
    whole = sum(len(document.text()) for document in documents([str(texts)]))
    after_the_last = 256 + 32  # a gap at the end of a document is not counted
    assert 0 <= whole - both - opened.manifest["gap_characters"] <= after_the_last * opened.manifest["source_documents"]
    assert (opened.manifest["gap_characters"] > 0) == rule.startswith("blocks")


@settings(max_examples=25, deadline=None)
@given(
    texts=st.lists(st.text(st.sampled_from("ab \n\u2003é日"), min_size=1, max_size=3_000), min_size=2, max_size=4),
    cut=st.integers(1, 500),
    rule=st.sampled_from(["blocks:0.3", "tail:0.4"]),
)
def test_any_text_in_any_pieces(tmp_path_factory, texts, cut, rule):
    """Documents that come in pieces of any size, cut into many segments, are read in one go and lose nothing."""
    given_documents = [
        Document(f"d{i}", lambda t=text: (t[k : k + cut] for k in range(0, len(t), cut)))
        for i, text in enumerate(texts)
    ]
    out = tmp_path_factory.mktemp("any") / "out"
    try:
        sides = split(given_documents, rule)
    except InputError:  # too short for this rule
        return
    opened = prepare(given_documents, tokenizer="bytes", split=rule, out=out)
    for part, segments in zip((opened.train, opened.validation), sides, strict=True):
        for i, segment in enumerate(segments):
            text = segment.text()
            assert opened.tokenizer.decode_bytes(part.document_tokens(i)) == text.encode()
            assert part.documents[i, 2:].tolist() == [len(text.encode()), len(text), len(text.split())]


def test_words_are_counted_across_pieces(tmp_path):
    """Pieces of a run without whitespace are cut inside a word; that word counts once."""
    text = "x" * 200_000 + " y " + "z" * 70_000 + "  " + "word " * 30_000
    opened = prepare([one_document("long", text)], tokenizer="bytes", split="none", out=tmp_path / "out")
    assert opened.train.documents[0, 1:].tolist() == [len(text), len(text), len(text), 3 + 30_000]


def test_a_foreign_tokenizer_that_puts_a_space_before_a_document_and_has_no_end_of_text(tmp_path):
    """The space comes before each document but not before each of its pieces, and no id separates the documents."""
    from tokenizers import Tokenizer, models, normalizers

    vocab = [("\u2581", -3.0), *((letter, -4.0) for letter in "abcdex"), ("\u2581ab", -2.0)]
    foreign = Tokenizer(models.Unigram(vocab, unk_id=0))
    foreign.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    (tmp_path / "foreign").mkdir()
    foreign.save(str(tmp_path / "foreign" / "tokenizer.json"))
    chance = random.Random(0)
    texts = [" ".join("".join(chance.choices("abcde", k=4)) for _ in range(n)) for n in (30_000, 5, 30_000)]
    given_documents = [one_document(f"d{i}", text) for i, text in enumerate(texts)]
    opened = prepare(given_documents, tokenizer=str(tmp_path / "foreign"), split="none", out=tmp_path / "out")
    assert opened.tokenizer.end_of_text is None
    for i, text in enumerate(texts):
        ids = opened.train.document_tokens(i)
        pieces = split(given_documents, "none")[0][i].pieces()
        np.testing.assert_array_equal(ids, np.concatenate(list(opened.tokenizer.encode_document(pieces))))
        assert opened.tokenizer.decode(ids) == text
    assert opened.train.num_tokens == opened.train.documents[:, 1].sum()
    starts = opened.train.documents[:, 0]
    assert opened.train.document_ids(starts, 1)[:, 0].tolist() == [0, 1, 2]
    assert opened.train.document_ids(starts[1:] - 1, 1)[:, 0].tolist() == [0, 1]


@pytest.mark.parametrize("rule", ["tail:0.1", "blocks:0.1", "hash:0.5"])
def test_characters_are_those_of_the_whole_text_whatever_the_split(rule, tmp_path):
    """One stands at the very end, one in the middle, each once: the ids are the same for every split."""
    body = "plain words and so on. " * 400
    texts = [one_document(f"d{i}", body + extra + body + last) for i, (extra, last) in enumerate(("éz", "xß", "qq"))]
    made = prepare(texts, tokenizer="characters", split=rule, out=tmp_path / "out")
    known = sorted(set(body) | set("ézxßq"))
    assert made.tokenizer.decode(range(made.tokenizer.vocabulary - 1)) == "".join(known)
    assert any("characters from the whole text" in note for note in made.manifest["report"]["notes"])


def test_an_unchanged_text_is_reused_without_writing(texts, tmp_path):
    out = tmp_path / "out"
    first = prepared(texts, out)
    before = contents(out)
    calls = []
    second = prepared(texts, out, progress=lambda *call: calls.append(call))
    assert contents(out) == before
    assert second.key == first.key
    assert len(set(calls)) == 1  # (total, total)
    for path in texts.iterdir():
        os.utime(path, (1, 1))  # touched, but the same text
    prepared(texts, out)
    assert contents(out) == before


def test_any_change_prepares_anew(texts, tmp_path):
    out = tmp_path / "out"
    keys = [prepared(texts, out).key]
    keys.append(prepared(texts, out, tokenizer="characters").key)
    keys.append(prepared(texts, out, split="tail:0.2").key)
    keys.append(prepared(texts, out, shard_bytes=512).key)
    (texts / "3.txt").write_text("other " * 100, encoding="utf-8")
    keys.append(prepared(texts, out).key)
    (texts / "3.txt").rename(texts / "3a.txt")
    keys.append(prepared(texts, out).key)
    assert open_prepared(out).key == keys[-1]
    assert "3a.txt" in open_prepared(out).train.names
    assert len(set(keys)) == len(keys)
    assert neighbours(out) == []


def test_another_tokenizer_folder_prepares_anew_and_the_same_one_does_not(texts, tmp_path):
    for vocabulary in (300, 310):
        prepared(texts, tmp_path / f"t{vocabulary}", tokenizer=f"bpe:{vocabulary}")
    shutil.copytree(tmp_path / "t300", tmp_path / "copy")
    out = tmp_path / "out"
    key = prepared(texts, out, tokenizer=str(tmp_path / "t300")).key
    before = contents(out)
    assert prepared(texts, out, tokenizer=str(tmp_path / "copy")).key == key
    assert contents(out) == before
    assert prepared(texts, out, tokenizer=str(tmp_path / "t310")).key != key


def test_a_damaged_folder_is_made_anew(texts, tmp_path):
    out = tmp_path / "out"
    prepared(texts, out)
    path = out / "train-00000.bin"
    content = bytearray(path.read_bytes())
    path.write_bytes(content[:-1] + b"\x01")
    prepared(texts, out)
    assert path.read_bytes() == content
    open_prepared(out)


@pytest.mark.parametrize("tokenizer", ["bpe:320", "characters"])
def test_the_tokenizer_sees_the_training_side_only(texts, tmp_path, tokenizer):
    first = prepared(texts, tmp_path / "a", tokenizer=tokenizer, split="tail:0.05").tokenizer.fingerprint
    (texts / "9.txt").write_text("letters of the board " * 200, encoding="utf-8")
    assert prepared(texts, tmp_path / "b", tokenizer=tokenizer, split="tail:0.05").tokenizer.fingerprint == first
    (texts / "0.txt").write_text("letters of the board! " * 90, encoding="utf-8")
    assert prepared(texts, tmp_path / "c", tokenizer=tokenizer, split="tail:0.05").tokenizer.fingerprint != first


def test_threads_do_not_change_a_byte(tmp_path):
    given_documents = [one_document(f"d{i}", a_text(i, 25_000 if i % 3 else 5)) for i in range(6)]
    made = [
        prepare(given_documents, tokenizer="bpe:300", split="tail:0.1", out=tmp_path / f"out{n}", threads=n)
        for n in (1, 5)
    ]
    one, many = ({name: c[0] for name, c in contents(p.folder).items() if name != "prepared.json"} for p in made)
    assert one == many


def test_progress_counts_bytes_up_to_the_whole(texts, tmp_path):
    calls = []
    opened = prepared(texts, tmp_path / "out", progress=lambda *call: calls.append(call))
    total = sum(opened.manifest["parts"][part]["num_bytes"] for part in ("train", "validation"))
    assert calls == sorted(calls)
    assert {t for _, t in calls} == {total}
    assert calls[-1] == (total, total)
    assert len(calls) >= 10


def test_memory_does_not_grow_with_the_text(tmp_path, monkeypatch):
    monkeypatch.setattr(leaks, "_INDEX_GRAMS", 2**12)  # what the checkup keeps at most
    monkeypatch.setattr(leaks, "_MOST_PLACES", 2**12)
    monkeypatch.setattr(checkup, "_SAMPLE_GRAMS", 2**12)
    piece, other = ("hornbook " * 8_000)[: 2**16], ("teacher " * 9_000)[: 2**16]

    def peak(num_pieces):
        document = Document("long", lambda: (piece if i < 0.9 * num_pieces else other for i in range(num_pieces)))
        tracemalloc.start()
        prepare([document], tokenizer="bytes", split="tail:0.1", out=tmp_path / f"out{num_pieces}", threads=2)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(160) < 1.2 * peak(40) + 4e6  # of 7.9 MB more text


def test_equal_texts_are_reported(tmp_path):
    given_documents = [one_document(name, "same text" if name in "adh" else a_text(name)) for name in "abcdefgh"]
    opened = prepare(given_documents, tokenizer="bytes", split="tail:0.1", out=tmp_path / "out")
    assert opened.validation.names == ["g", "h"]
    assert opened.manifest["report"]["checkup"]["duplicate_documents"] == 1
    assert opened.manifest["report"]["checkup"]["validation_documents_also_in_train"] == 1


def test_replaced_bytes_are_counted_once(texts, tmp_path):
    """Though each file has a part on both sides."""
    (texts / "0.txt").write_bytes(b"bad \xff\xfe\xfd bytes " + a_text(0).encode())
    given_documents = documents([str(texts)], errors="replace")
    opened = prepare(given_documents, tokenizer="bytes", split="blocks:0.1", out=tmp_path / "out")
    assert opened.manifest["report"]["replaced_bytes"] == 3
    assert opened.manifest["report"]["notes"] == ["3 bytes are not UTF-8 and were replaced"]


def test_no_validation_side_is_allowed_when_asked_for(texts, tmp_path):
    opened = prepared(texts, tmp_path / "out", split="none")
    assert opened.validation.num_tokens == 0
    assert open_prepared(tmp_path / "out").validation.names == []
    with pytest.raises(InputError, match="0 tokens"):
        Batches(opened.validation, context=4, batch=1, seed=0)


def test_an_empty_side_is_refused(tmp_path):
    given_documents = [one_document("train/a", "some text"), one_document("valid/b", "")]
    with pytest.raises(InputError, match="empty"):
        prepare(given_documents, tokenizer="bytes", split="folder:valid", out=tmp_path / "out")
    with pytest.raises(InputError, match="empty"):
        prepare([one_document("b", "")], tokenizer="bytes", split="none", out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_text_that_changes_meanwhile_is_refused(texts, tmp_path):
    out = tmp_path / "out"
    before = prepared(texts, out).key
    reads = []

    def growing():
        reads.append(0)
        return iter(["once " * (50 + len(reads))])

    given_documents = [*documents([str(texts)]), Document("growing.txt", growing)]
    with pytest.raises(InputError, match=r"growing\.txt changed while"):
        prepare(given_documents, tokenizer="bytes", split="none", out=out)
    assert open_prepared(out).key == before
    assert neighbours(out) == []


def test_the_check_up_beside_ends_when_the_rest_fails(texts, tmp_path):
    ends = []

    def pieces():
        if threading.current_thread().name.startswith("check"):
            for _ in range(100_000):
                time.sleep(0.01)
                yield "once upon a time "
            ends.append("read whole")
        else:
            yield f"once {time.monotonic_ns()}"

    given_documents = [*documents([str(texts)]), Document("changing.txt", pieces)]
    with pytest.raises(InputError, match=r"changing\.txt changed while"):
        prepare(given_documents, tokenizer="bytes", split="none", out=tmp_path / "out")
    assert ends == []
    assert neighbours(tmp_path / "out") == []


def test_folders_of_somebody_else_are_not_replaced(texts, tmp_path):
    with pytest.raises(InputError, match=r"texts holds other files \(0.txt\)"):
        prepared(texts, texts)
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        prepared(texts, tmp_path / "file")
    (tmp_path / "out").mkdir()
    prepared(texts, tmp_path / "out")  # an empty folder is fine
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"notes\.txt"):
        prepared(texts, tmp_path / "out", tokenizer="characters")
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        prepared(texts, tmp_path / "model")


PREPARE = """
import sys
from hornbook.data.prepare import prepare
from hornbook.text.documents import documents
print(prepare(documents([sys.argv[1]]), tokenizer=sys.argv[3], split="tail:0.1", out=sys.argv[2]).key)
"""


def test_several_at_once_on_one_folder_all_get_their_result(texts, tmp_path):
    """The same text: one makes it, the others wait and open it. Another tokenizer: the last one stays."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    for turn in range(5):
        out = tmp_path / f"out{turn}"
        started = [
            subprocess.Popen(
                [sys.executable, "-c", PREPARE, str(texts), str(out), tokenizer], env=environment, text=True,
                stdout=subprocess.PIPE,
            )
            for tokenizer in (["bytes"] * 3 if turn % 2 else ["bytes", "characters", "bytes"])
        ]  # fmt: skip
        keys = [process.communicate()[0].strip() for process in started]
        assert [process.returncode for process in started] == [0, 0, 0]
        assert open_prepared(out).key in keys
        assert keys[0] == keys[2]
        assert not (out / "lock").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(f"out{turn}" for turn in range(5)), "texts"]


def test_folders_of_somebody_else_beside_it_are_left_alone(texts, tmp_path):
    foreign = {".mine.old": "essay.txt", ".yours.partial": "essay.txt", ".ours.old": "tokenizer.json"}
    for name, file in foreign.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("years of work")
        out = tmp_path / name[1:].partition(".")[0]
        for _ in range(2):
            with pytest.raises(InputError, match=f"{re.escape(name)} holds other things .{re.escape(file)}"):
                prepared(texts, out)
        assert (tmp_path / name / file).read_text() == "years of work"
        assert not out.exists()


def test_nothing_is_written_or_deleted_through_a_link(texts, tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    for name in ("prepared.json", "train-00000.bin", "lock", "letter"):
        (precious / name).write_text("dear")
    (tmp_path / ".a.partial").mkdir()
    (tmp_path / ".a.partial" / "lock").symlink_to(precious / "letter")
    (tmp_path / ".b.partial").symlink_to(precious)
    (tmp_path / ".c.old").symlink_to(precious)
    for name in "abc":
        with pytest.raises(InputError, match=r"link|holds other things"):
            prepared(texts, tmp_path / name)
    out = prepared(texts, tmp_path / "d").folder
    (out / "tokenizer.json").unlink()
    (out / "tokenizer.json").symlink_to(precious / "letter")
    prepared(texts, out)
    assert open_prepared(out).key == prepared(texts, out).key
    assert {path.name: path.read_text() for path in precious.iterdir()} == dict.fromkeys(
        ("prepared.json", "train-00000.bin", "lock", "letter"), "dear"
    )


def test_killed_at_any_moment_leaves_the_old_or_the_new(texts, tmp_path):
    """SIGKILL before each file operation in turn (the interpreter's audit events), until one run gets through."""
    for path in list(texts.iterdir())[3:]:
        path.unlink()
    out, new = tmp_path / "out", {"split": "none"}
    old_key, new_key = prepared(texts, tmp_path / "texts.old").key, prepared(texts, tmp_path / "texts.new", **new).key
    found = []
    for moment in range(1, 500):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "texts.old", out)

        def die(moment=moment):
            seen = 0

            def count(event, args):
                nonlocal seen
                if event in ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir") and "out" in str(args[0]):
                    seen += 1
                    if seen == moment:
                        os.kill(os.getpid(), signal.SIGKILL)

            sys.addaudithook(count)
            prepared(texts, out, **new)

        status = in_a_child(die)
        found.append(open_prepared(out).key)
        assert found[-1] in (old_key, new_key)
        assert prepared(texts, out, **new).key == new_key  # no manual step
        assert neighbours(out) == []
        if status == 0:
            break
        assert status == -signal.SIGKILL
    assert status == 0
    assert found == sorted(found, key=lambda key: key == new_key)  # the old one up to a moment, then the new one
    assert found.count(old_key) >= 10
    assert found.count(new_key) >= 2


def test_killed_while_encoding_leaves_the_old(texts, tmp_path):
    out = tmp_path / "out"
    key = prepared(texts, out).key
    status = in_a_child(
        lambda: prepared(texts, out, tokenizer="characters", progress=lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    )
    assert status == -signal.SIGKILL
    assert open_prepared(out).key == key


@pytest.mark.parametrize("limit", [0, 1, 64, 1_000, 10_000, 20_000])
def test_a_full_disk_is_a_sentence_and_leaves_the_old(texts, tmp_path, limit):
    """RLIMIT_FSIZE makes each write beyond it fail with EFBIG, as a full disk fails with ENOSPC."""
    out = tmp_path / "out"
    key = prepared(texts, out).key

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        try:
            prepared(texts, out, split="tail:0.2")
        except SystemFailure as error:
            os._exit(7 if "is full" in str(error) and "\n" not in str(error) else 8)

    assert in_a_child(fill) == 7
    assert open_prepared(out).key == key
    assert neighbours(out) == []


def test_a_really_full_disk(texts, tmp_path):
    """A file system of 64 KiB in memory, where the kernel lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    program = f"""
import os
from hornbook.data.prepare import prepare
from hornbook.facts.errors import SystemFailure
from hornbook.text.documents import documents
texts = documents([{str(texts)!r}])
try:
    prepare(texts, tokenizer="bytes", split="none", out={str(disk / "out")!r})
except SystemFailure as error:
    print(error, os.listdir({str(disk)!r}))
"""
    mount = f'mount -t tmpfs -o size=64k none {disk} && exec "$0" -c "$1"'
    for user in (["unshare", "-m"], ["unshare", "-Urm"]):
        command = [*user, "sh", "-c", mount, sys.executable, program]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        if shutil.which("unshare"):
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            if "full" in done.stdout or "Traceback" in done.stderr:
                assert "is full" in done.stdout, done.stderr
                assert done.stdout.strip().endswith("[]")
                return
    pytest.skip("no file system can be mounted here")


def test_a_folder_that_cannot_be_written_is_a_sentence(texts):
    with pytest.raises(SystemFailure, match="could not be written"):
        prepared(texts, "/proc/out")

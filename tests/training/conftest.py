import pytest

from hornbook.data.prepare import prepare
from hornbook.text.documents import documents


@pytest.fixture(scope="session")
def prepared(tmp_path_factory, english):
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "text.txt").write_text(english[:3000], encoding="utf-8")
    return prepare(documents([str(folder / "text.txt")]), tokenizer="bytes", split="tail:0.1", out=folder / "out")

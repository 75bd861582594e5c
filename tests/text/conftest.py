"""Texts that tokenizers have to get right, and the development data where it is present."""

import os
from pathlib import Path

import pytest


def _data_folder() -> Path:
    return Path(os.environ.get("HORNBOOK_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


@pytest.fixture(scope="session")
def verdict() -> str:
    return _read(_data_folder() / "the-verdict.txt")


@pytest.fixture(scope="session")
def shakespeare() -> str:
    return _read(_data_folder() / "tinyshakespeare.txt")


@pytest.fixture(scope="session")
def novel() -> str:
    return _read(_data_folder() / "books" / "alice-in-wonderland.txt")


def _read(file: Path) -> str:
    if not file.is_file():
        pytest.skip(f"the development data is absent ({file.name}); set HORNBOOK_DATA")
    return file.read_bytes().decode()


@pytest.fixture(scope="session")
def python_source() -> str:
    """Python source of the standard library, about 300 kB."""
    folder = Path(os.__file__).parent
    return "".join((folder / name).read_text(encoding="utf-8") for name in ("argparse.py", "typing.py", "this.py"))


@pytest.fixture(scope="session")
def hard_texts(python_source: str) -> dict[str, str]:
    """Short texts of many scripts and shapes, each below the length of a piece."""
    return {
        "empty": "",
        "chinese": "红楼梦：满纸荒唐言，一把辛酸泪！\n都云作者痴，谁解其中味？\u3000\u3000他说：“１２３。”" * 20,
        "japanese and korean": "吾輩は猫である。名前はまだ無い。ｶﾀｶﾅ 한국어 문장입니다, 각각." * 20,
        "arabic and hebrew": "كان يا ما كان، في قديم الزمان؛ ١٢٣٤ هَلْ تَعْلَم؟ \u200fשָׁלוֹם עולם\u200f" * 20,
        "emoji": "👩‍👩‍👧‍👦 🇫🇷🇩🇪 👍🏽 ❤️\ufe0f 🧑🏿‍🚀!!! 😀😀😀 x😀y" * 20,
        "combining": "e\u0301 ñ n\u0303 ﬁ ﬀ ſt ǅ Å Å \u1e9b\u0323 각 \u1112\u1161\u11ab Ⅷ ½ ² ①" * 20,
        "hindi and thai": "नमस्ते दुनिया क्षत्रिय १२३ สวัสดีชาวโลก ภาษาไทย" * 20,
        "python": python_source[:50_000],
        "special names": "<|endoftext|> <|endoftext|><|im_start|>user<s></s>[INST]<tool_call>{}</tool_call><|end",
        "contractions": "I'll I'LL we've 'tis y'all'd've 'S 'ſ can''t 're'm x's1's's",
        "digits": "1 12 123 1234567890 3.14 1,000 a1b22c333 ١٢٣ ½3 x 1  2   3\n4\r\n5 \t6",
        "blanks": "a  b   c\n\n\nd\r\n\r\n e\t\t f\x0b\x0cg\x85h\xa0i\u2028j\u2029 \u3000k \u200b l\x1c\x1d m \r \n ",
        "only blanks": " \n \t\r\n   \n\n",
        "controls": "".join(map(chr, range(0x20))) + "\x7f\x80\x9f\u00ad\ufeff\ufffd\uffff\U0010ffff",
        "new letters": "\u1c8a\ua7cb\U00031350\U0002ebf0\U00011f02\U0001e030 \U00016d40 \U0001fae9",
        "run of a letter": "a" * 40_000,
        "run of blanks": "x" + " " * 40_000 + "y",
        "run of line ends": "\n" * 30_000 + "\r\n" * 10_000,
        "run of signs": "=" * 20_000 + "!?" * 9_000 + "\n" * 3,
        "run of digits": "7" * 40_000,
        "run of ideographs": "字" * 20_000,
        "ragged runs": "".join(c * n for n in range(1, 60) for c in "ab -\n1"),
        "every 97th character": "".join(chr(c) for c in range(0x20, 0x110000, 97) if not 0xD800 <= c < 0xE000),
    }

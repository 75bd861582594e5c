"""PDF files as text, page by page, by pypdf."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from hornbook.facts.errors import InputError
from hornbook.facts.io import shown
from hornbook.text.files import sentences

LARGEST_PAGE = 1 << 23  # bytes of a page's instructions, which are worked through in Python


def pdf_pages(path: str) -> Iterator[str]:
    """The text of each page, "" where it has none. Raises InputError without pypdf, and for an encrypted or a damaged
    file."""
    try:
        import pypdf
    except ImportError:
        raise InputError(f'{shown(path)} needs pypdf; run pip install -e ".[documents]" in the checkout') from None
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it reports each oddity that it reads over
    try:
        with sentences(path), open(path, "rb") as file:
            reader = pypdf.PdfReader(file)
            if reader.is_encrypted:
                _unlock(reader, path)
            for number, page in enumerate(reader.pages, 1):
                contents = page.get_contents()
                if contents is not None and len(contents.get_data()) > LARGEST_PAGE:
                    raise InputError(
                        f"{shown(path)} has a page of more than {LARGEST_PAGE >> 20} MiB (page {number}), which is no "
                        "text; leave that page out, or give the text as .txt"
                    )
                yield page.extract_text()
    except (InputError, MemoryError):
        raise
    except Exception as error:  # damage shows as any error of the library, or of Python in its code
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{shown(path)} is damaged or not a PDF file ({reason}); fetch it again") from None


def _unlock(reader: Any, path: str) -> None:
    """Open it without a password, as many files allow that only forbid printing."""
    failure = InputError(f"{shown(path)} is encrypted; save it without a password, or give its text as .txt")
    try:
        opened = reader.decrypt("")
    except Exception:  # an encryption that is unknown, or needs another package
        raise failure from None
    if not opened:
        raise failure

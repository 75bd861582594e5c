"""Chats as text: each turn is `role: content`, and a blank line stands between two turns.

Both common forms are read: `messages` with role and content (content may be a list of parts), `conversations` with from
and value, whose "human" and "gpt" are user and assistant. What is no text is named: [image_url left out].
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hornbook.facts.errors import InputError

FIELDS = ("messages", "conversations", "conversation")  # of a row that lacks the field asked for
_KEYS = (("role", "content"), ("from", "value"))
_ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant"}
_OTHERS = ("tool_calls", "function_call", "audio")  # what a turn may have beside its content, or in its place


def chat_field(row: Mapping[str, Any], field: str) -> str:
    """The field of a row with its text: the one asked for, else that of a chat where there is one."""
    return field if field in row else next((name for name in FIELDS if is_chat(row.get(name))), field)


def is_chat(value: object) -> bool:
    """Whether a value is a list of objects, as the turns of a chat are."""
    return isinstance(value, list) and all(isinstance(turn, dict) for turn in value)


def chat_text(turns: list[dict[str, Any]], where: str) -> str:
    """The turns as text; those that say nothing are left out. Raises InputError for what is no turn; `where` names it.

    >>> print(chat_text([{"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image_url"}]},
    ...                  {"from": "gpt", "value": "A horn book."}], "row 1"), end="")
    user: What is it? [image_url left out]
    <BLANKLINE>
    assistant: A horn book.
    """
    lines = []
    for number, turn in enumerate(turns, 1):
        role, content = next(((turn[role], turn.get(key)) for role, key in _KEYS if role in turn), (None, 0))
        others = [f"[{name} left out]" for name in _OTHERS if turn.get(name)]
        parts = content if isinstance(content, list) else [content]
        if not isinstance(role, str) or not all(part is None or isinstance(part, str | dict) for part in parts):
            raise InputError(
                f"{where}: turn {number} of the chat must have role and content, or from and value, as strings"
            )
        if text := " ".join(filter(None, [*map(_part, parts), *others])):
            lines.append(f"{_ROLES.get(role, role)}: {text}\n")
    return "\n".join(lines)


def _part(part: str | dict[str, Any] | None) -> str:
    if not isinstance(part, dict):
        return part or ""
    text = part.get("text")
    return text if isinstance(text, str) else f"[{part.get('type') or 'a part'} left out]"

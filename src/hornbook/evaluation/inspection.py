"""One text token by token: the six steps from logits to perplexity, how sure the model was, what else it considered.

The nats come from the same shapes and the same chunks as those of `evaluate`, so their sum is its sum to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from hornbook.engine.threads import in_parallel, workers_for
from hornbook.evaluation.corpus import (
    Batch,
    Conventions,
    EncodedDocument,
    batches,
    conventions,
    document_jobs,
    encode_documents,
    evaluating,
    head_vocabulary,
    hidden_states,
    lost_share,
)
from hornbook.facts.errors import InputError
from hornbook.likelihood import head_logits, perplexity
from hornbook.likelihood import token_nats as nats_of_logits
from hornbook.model.decoder import Decoder
from hornbook.model.generate import generate
from hornbook.text.tokenizer import Tokenizer

T = TypeVar("T")

_UNSCORED = dict.fromkeys(
    ("logit", "probability", "log_probability", "nats", "rank", "entropy_nats", "surplus_nats", "alternatives")
)


@dataclass(frozen=True)
class Inspection:
    """`tokens` has one mapping per token of the text, `end` one for the end after it (None where not predicted).

    Keys: text, id, logit, probability, log_probability, nats, rank (1: the most probable; the middle of the places
    that equal logits share), entropy_nats (the surprise
    the model expected), surplus_nats (nats - entropy_nats), alternatives (the most probable tokens: text, id,
    probability); the numbers are None where the token was not scored.
    """

    tokens: list[dict[str, Any]]
    end: dict[str, Any] | None
    num_bytes: int
    greedy: dict[str, Any] | None = None
    gradients: dict[str, Any] | None = None
    lost_share: float = 0.0

    @property
    def scored(self) -> list[dict[str, Any]]:
        return [token for token in self.tokens if token["nats"] is not None]

    @property
    def nats(self) -> float:
        return math.fsum(token["nats"] for token in self.scored)

    @property
    def loss_nats_per_token(self) -> float:
        return self.nats / len(self.scored)

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON, with the names of `--json`."""
        loss = self.loss_nats_per_token
        return {
            "tokens": self.tokens,
            "end": self.end,
            "nats": self.nats,
            "num_tokens": len(self.scored),
            "num_bytes": self.num_bytes,
            "mean_log_probability": -loss,
            "loss_nats_per_token": loss,
            "perplexity": perplexity(loss),
            "bits_per_byte": self.nats / (math.log(2) * self.num_bytes),
            "mean_entropy_nats": math.fsum(token["entropy_nats"] for token in self.scored) / len(self.scored),
            "greedy": self.greedy,
            "gradients": self.gradients,
        } | ({"lost_share": self.lost_share} if self.lost_share else {})


def over_logits(
    model: Decoder, documents: Sequence[EncodedDocument], how: Conventions, device: torch.device | str,
    reduce: Callable[[Tensor, Tensor, Tensor], T],
) -> Iterator[tuple[np.ndarray, T]]:  # fmt: skip
    """Yield (targets' indices (N,), reduce(targets, nats, logits)) in parts: (N,), (N,) float64, (N, V) float64. An
    index counts the targets of its own document.

    The logits of a chunk are those from which the nats were made; each worker holds at most likelihood.LOGITS_BYTES of
    them. `reduce` runs beside others of its kind and keeps no view of the logits, which the next overwrite.
    """
    device = torch.device(device)

    def look(batch: Batch) -> list[tuple[slice, T]]:
        hidden, targets = hidden_states(model, batch, device)
        return [
            (at, reduce(targets[at], nats_of_logits(logits, targets[at]), logits))
            for at, logits in head_logits(model.head, hidden, head_vocabulary(model))
        ]

    jobs = [job for document in documents for job in document_jobs(document, how)[1]]
    for batch, parts in in_parallel(look, batches(model, jobs, device), workers_for(model, device)):
        indices = np.concatenate([np.arange(job.first, job.first + len(job.targets)) for job in batch.jobs])
        yield from ((indices[at], reduced) for at, reduced in parts)


def inspect_text(
    model: Decoder, tokenizer: Tokenizer, text: str, *, how: Conventions | None = None, top_k: int = 5,
    greedy_prompt: int | None = None, with_gradients: bool = False, device: torch.device | str = "cpu",
) -> Inspection:  # fmt: skip
    """Look at every token of `text`. `greedy_prompt`: how many of its tokens the greedy continuation is given (default:
    half). Raises InputError when there is no token to score.
    """
    how = conventions(model, tokenizer) if how is None else how
    (document,) = encode_documents([("text", text)], tokenizer)
    skipped = int(how.beginning is None)
    if len(document.tokens) <= skipped:
        raise InputError("there is no token to score in this text; give a longer one.")
    with evaluating(model):
        items: list[dict[str, Any]] = [{}] * (len(document.tokens) - skipped + (how.end is not None))

        def look(targets: Tensor, nats: Tensor, logits: Tensor) -> list[dict[str, Any]]:
            return _items(tokenizer, targets, nats, logits, top_k)

        for indices, some in over_logits(model, [document], how, device, look):
            for index, item in zip(indices.tolist(), some, strict=True):
                items[index] = item
        end = items.pop() if how.end is not None else None
        first = [{**_name(tokenizer, int(i)), **_UNSCORED} for i in document.tokens[:skipped]]
        before = _spell(tokenizer, [*first, *items])
        greedy = _greedy(model, tokenizer, document, how, greedy_prompt, [*first, *items], before)
        slopes = gradients(model, document, how, device=device) if with_gradients else None
    return Inspection([*first, *items], end, document.num_bytes, greedy, slopes, lost_share([document]))


def _name(tokenizer: Tokenizer, token: int) -> dict[str, Any]:
    return {"text": tokenizer.token_text(token), "id": token}


def spelled(before: bytes, data: bytes) -> tuple[str, bytes]:
    """What a token's bytes add to a text that `before` has begun a character of: the characters that are whole with
    them, and <0x..> for each of its bytes that is not in one; and the bytes of a character that now is begun.

    >>> spelled(b"", "é".encode()[:1]), spelled("é".encode()[:1], "é".encode()[1:] + b"a")
    (('<0xC3>', b'\\xc3'), ('éa', b''))
    """
    whole, text, at = before + data, "", 0
    while at < len(whole):
        try:
            return text + whole[at:].decode(), b""
        except UnicodeDecodeError as error:
            text += whole[at : at + error.start].decode()
            begin, stop = at + error.start, at + error.end
            text += "".join(f"<0x{byte:02X}>" for byte in whole[max(begin, len(before)) : stop])
            if error.reason == "unexpected end of data":
                return text, whole[begin:]
            at = stop
    return text, b""


def _text(tokenizer: Tokenizer, before: bytes, token: int) -> str:
    data = tokenizer.token_bytes(token)
    return spelled(before, data)[0] if data else tokenizer.token_text(token)


def _spell(tokenizer: Tokenizer, tokens: Sequence[dict[str, Any]]) -> list[bytes]:
    """Where tokens hold parts of characters, write the text of each, and of what could have come instead, as it goes on
    with the tokens before it. Returns the bytes of a begun character before each token and at the end."""
    begun = [b""]
    for token in tokens:
        for each in [token, *(token["alternatives"] or [])]:
            each["text"] = _text(tokenizer, begun[-1], each["id"])
        begun.append(spelled(begun[-1], tokenizer.token_bytes(token["id"]))[1])
    return begun


def middle_ranks(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Place of each target among the logits (N, V), the highest being 1, and how many share it; (N,) both.

    Equal logits share the mean of their places: a model that knows nothing gives (V + 1) / 2, not 1.

    >>> middle_ranks(torch.tensor([[3.0, 1.0, 1.0]]), torch.tensor([2]))
    (tensor([2.5000], dtype=torch.float64), tensor([2]))
    """
    own = logits.gather(-1, targets[:, None])
    tied = (logits == own).sum(-1)
    return (logits > own).sum(-1) + (tied.double() + 1) / 2, tied


def _items(tokenizer: Tokenizer, targets: Tensor, nats: Tensor, logits: Tensor, top_k: int) -> list[dict[str, Any]]:
    log_probabilities = logits.log_softmax(-1)
    probabilities = log_probabilities.exp()
    # -inf (an id that is masked out) has probability 0 and adds nothing to the entropy.
    entropies = -(probabilities * log_probabilities.clamp_min(-1e4)).sum(-1)
    own = logits.gather(-1, targets[:, None])
    ranks, _ = middle_ranks(logits, targets)
    best = probabilities.topk(min(top_k, logits.shape[-1]), -1)
    columns = (targets, own[:, 0], nats, ranks, entropies, best.indices, best.values)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        {
            **_name(tokenizer, token),
            "logit": logit,
            "probability": math.exp(-surprise),
            "log_probability": -surprise,
            "nats": surprise,
            "rank": rank,
            "entropy_nats": entropy,
            "surplus_nats": surprise - entropy,
            "alternatives": [
                {**_name(tokenizer, i), "probability": p} for i, p in zip(best_ids, best_values, strict=True)
            ],
        }
        for token, logit, surprise, rank, entropy, best_ids, best_values in rows
    ]


def _greedy(
    model: Decoder, tokenizer: Tokenizer, document: EncodedDocument, how: Conventions, prompt: int | None,
    tokens: list[dict[str, Any]], begun: Sequence[bytes],
) -> dict[str, Any] | None:  # fmt: skip
    """The most probable continuation of the text's beginning, against the text itself. None where nothing is left."""
    ids = document.tokens.tolist()
    prompt = len(ids) // 2 if prompt is None else prompt
    given = [*([] if how.beginning is None else [how.beginning]), *ids[:prompt]]
    targets = ids[prompt:]
    if not given or not targets or len(given) > model.shape.context:
        return None
    written = list(generate(model, given, max_tokens=len(targets), temperature=0.0))
    equal = [a == b for a, b in zip(written, targets, strict=True)]
    departs = equal.index(False) if False in equal else None
    return {
        "prompt_tokens": prompt,
        "ids": written,
        "text": tokenizer.decode(written, inside=prompt > 0),
        "departs_at_token": None if departs is None else prompt + departs,
        "num_tokens": len(targets),
        "num_tokens_before_departure": len(targets) if departs is None else departs,
        "num_tokens_equal": sum(equal),
        "instead_of": None if departs is None else tokens[prompt + departs]["text"],
        "wrote": None if departs is None else _text(tokenizer, begun[prompt + departs], written[departs]),
    }


@torch.enable_grad()
def gradients(
    model: Decoder, document: EncodedDocument, how: Conventions, *, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """How the mean loss of the document would change: by logit, and by part of the model. The model is left as it was.

    `tokens`: for each scored target d loss / d its own logit, (p - 1) / N, and the norm of d loss / d all logits of its
    position, |p - onehot| / N. `parts`: the norm of the gradient and of the weights of the embedding, each block and
    the head. The end after the document is not part of the loss.
    """
    nats, jobs = document_jobs(document, how)
    num_tokens = len(nats) - (how.end is not None)
    kept = [(p, p.grad) for p in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = None
    tokens = []
    try:
        for job in jobs:
            inputs, targets = (torch.from_numpy(x).to(device) for x in (job.inputs, job.targets))
            logits = model.head(model.hidden(inputs[None])[0, -len(targets) :])
            logits.retain_grad()
            surprises = nats_of_logits(logits, targets)
            inside = len(targets) - (how.end is not None and job is jobs[-1])
            (surprises[:inside].sum() / num_tokens).backward()  # type: ignore[no-untyped-call]
            slope = logits.grad
            assert slope is not None
            slope = slope[:inside]
            own = slope.gather(-1, targets[:inside, None])[:, 0]
            tokens += [
                {"own_logit_gradient": a, "logit_gradient_norm": b}
                for a, b in zip(own.tolist(), slope.norm(dim=-1).tolist(), strict=True)
            ]
        parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                parts.setdefault(part_of(name), []).append((parameter.grad, parameter.detach()))
        table: list[dict[str, Any]] = [
            {"part": part, "gradient_norm": _norm(g for g, _ in pairs), "weight_norm": _norm(w for _, w in pairs)}
            for part, pairs in parts.items()
        ]
        return {"tokens": tokens, "parts": table, "gradient_norm": math.hypot(*(row["gradient_norm"] for row in table))}
    finally:
        for parameter, grad in kept:
            parameter.grad = grad


def part_of(name: str) -> str:
    """The part of the model a parameter belongs to.

    >>> part_of("blocks.3.mlp.down.weight"), part_of("embedding.weight")
    ('blocks.3', 'embedding')
    """
    words = name.split(".")
    return ".".join(words[:2]) if words[0] == "blocks" else words[0]


def _norm(tensors: Iterator[Tensor]) -> float:
    return math.sqrt(math.fsum(t.double().square().sum().item() for t in tensors))


def weights(model: Decoder) -> dict[str, Any]:
    """What the model is made of: each weight's shape, size, norm, mean, spread and histogram; parameters by part."""
    named = list(model.named_parameters())
    tied = "head.projection.weight" not in dict(named)
    rows, parts = [], dict[str, int]()
    for name, parameter in named:
        values = parameter.detach().float().flatten().cpu()
        low, high = values.min().item(), values.max().item()
        histogram = torch.histc(values, bins=20, min=low, max=high) if high > low else torch.tensor([len(values)])
        parts[part_of(name)] = parts.get(part_of(name), 0) + parameter.numel()
        rows.append(
            {
                "name": name,
                "shape": list(parameter.shape),
                "num_parameters": parameter.numel(),
                "norm": _norm(iter([values])),
                "mean": values.mean().item(),
                "standard_deviation": values.std(correction=0).item(),
                "minimum": low,
                "maximum": high,
                "histogram": [int(count) for count in histogram.tolist()],
                "trainable": parameter.requires_grad,
                "tied_to": ["head.projection.weight"] if tied and name == "embedding.weight" else [],
            }
        )
    total = sum(parts.values())
    return {"num_parameters": total, "num_parameters_by_part": parts, "tied": tied, "weights": rows}

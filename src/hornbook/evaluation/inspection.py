"""One text token by token: the six steps from logits to perplexity, how sure the model was, what else it considered.

The nats come from the same shapes and the same chunks as those of `evaluate`, so their sum is its sum to the last bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hornbook.evaluation.corpus import (
    Conventions,
    EncodedDocument,
    conventions,
    document_requests,
    encode_documents,
    lost_share,
)
from hornbook.evaluation.score import device_of, evaluating, nats_alone, score_tokens
from hornbook.facts.errors import InputError
from hornbook.likelihood import Surprise, token_nats
from hornbook.model.decoder import Decoder
from hornbook.model.generate import generate
from hornbook.text.tokenizer import Tokenizer

_UNSCORED = dict.fromkeys(
    ("logit", "probability", "log_probability", "nats", "rank", "entropy_nats", "surplus_nats", "alternatives")
)


@dataclass(frozen=True)
class InspectedText:
    """`tokens` has one mapping per token of the text, `end` one for the end after it (None where not predicted).

    Keys: text, id, logit, probability, log_probability, nats, rank (1: the most probable; the middle of the places
    that equal logits share), entropy_nats (the surprise the model expected), surplus_nats (nats - entropy_nats),
    alternatives (the most probable tokens: text, id, probability); the numbers are None where the token was not scored.
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
    def surprise(self) -> Surprise:
        scored = self.scored
        return Surprise(math.fsum(token["nats"] for token in scored), len(scored), self.num_bytes)

    def to_dict(self) -> dict[str, Any]:
        """As values of JSON, with the names of `--json`."""
        total = self.surprise
        return {
            "tokens": self.tokens, "end": self.end, **asdict(total), "mean_log_probability": -total.loss,
            "loss_nats_per_token": total.loss, "perplexity": total.perplexity, "bits_per_byte": total.bits_per_byte,
            "mean_entropy_nats": math.fsum(token["entropy_nats"] for token in self.scored) / total.num_tokens,
            "greedy": self.greedy, "gradients": self.gradients,
        } | ({"lost_share": self.lost_share} if self.lost_share else {})  # fmt: skip


def inspect_text(
    model: Decoder, tokenizer: Tokenizer, text: str, *, how: Conventions | None = None, top_k: int = 5,
    greedy_prompt: int | None = None, with_gradients: bool = False,
) -> InspectedText:  # fmt: skip
    """Inspect every token of `text`. `greedy_prompt`: how many of its tokens the greedy continuation is given (default:
    half). Raises InputError when there is no token to score.
    """
    how = conventions(model, tokenizer) if how is None else how
    (document,) = encode_documents([("text", text)], tokenizer)
    skipped = int(how.beginning is None)
    if len(document.tokens) <= skipped:
        raise InputError("there is no token to score in this text; give a longer one.")

    def measure(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        best = logits.log_softmax(-1).exp().topk(min(top_k, logits.shape[-1]), -1)
        return target_record(logits, targets) | {"best_ids": best.indices, "best_probabilities": best.values}

    records = np.concatenate(score_tokens(model, document_requests(document, how), measure))
    ids = document.tokens[skipped:].tolist() + ([] if how.end is None else [how.end])
    tokens = [{**_name(tokenizer, int(i)), **_UNSCORED} for i in document.tokens[:skipped]]
    tokens += [_item(tokenizer, token, record) for token, record in zip(ids, records, strict=True)]
    end = tokens.pop() if how.end is not None else None
    begun = _spell(tokenizer, tokens)
    with evaluating(model):
        greedy = _greedy(model, tokenizer, document, how, greedy_prompt, tokens, begun)
        slopes = gradients(model, document, how) if with_gradients else None
    return InspectedText(tokens, end, document.num_bytes, greedy, slopes, lost_share([document]))


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
        for candidate in [token, *(token["alternatives"] or [])]:
            candidate["text"] = _text(tokenizer, begun[-1], candidate["id"])
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


def target_record(logits_NV: Tensor, targets_N: Tensor) -> dict[str, Tensor]:
    """Of each target: its nats, logit, rank and how many tokens share it; and the entropy of its position."""
    log_p = logits_NV.log_softmax(-1)
    rank, tied = middle_ranks(logits_NV, targets_N)
    return nats_alone(logits_NV, targets_N) | {
        "logit": logits_NV.gather(-1, targets_N[:, None])[:, 0], "rank": rank, "tied": tied,
        # -inf (an id that is masked out) has probability 0 and adds nothing to the entropy.
        "entropy_nats": -(log_p.exp() * log_p.clamp_min(-1e4)).sum(-1),
    }  # fmt: skip


def _item(tokenizer: Tokenizer, token: int, record: np.void) -> dict[str, Any]:
    nats, entropy = float(record["nats"]), float(record["entropy_nats"])
    best = zip(record["best_ids"].tolist(), record["best_probabilities"].tolist(), strict=True)
    return {
        **_name(tokenizer, token), "logit": float(record["logit"]),
        "probability": math.exp(-nats), "log_probability": -nats, "nats": nats, "rank": float(record["rank"]),
        "entropy_nats": entropy, "surplus_nats": nats - entropy,
        "alternatives": [{**_name(tokenizer, i), "probability": p} for i, p in best],
    }  # fmt: skip


def softmax_row(token: dict[str, Any], vocabulary: int) -> dict[str, Any]:
    """The softmax that gave a token of an `InspectedText` its probability: `rows` are its alternatives and itself, the
    most probable first, each {text, id, logit, exp_logit, probability}; `others` all the rest together, `sum` it all.

    exp_logit is None where no float holds it. From the logarithm of the sum, the token's logit less its log p.

    >>> ab = [{"text": "a", "id": 0, "probability": 0.5}, {"text": "b", "id": 1, "probability": 0.25}]
    >>> row = softmax_row({**ab[1], "logit": 0.0, "log_probability": math.log(0.25), "alternatives": ab}, 4)
    >>> [round(a["exp_logit"], 9) for a in (*row["rows"], row["others"], row["sum"])]
    [2.0, 1.0, 1.0, 4.0]
    """
    log_sum, own = token["logit"] - token["log_probability"], token["id"]

    def exp_logit(share: float) -> float | None:
        return share * math.exp(log_sum) if log_sum < 700 else None

    listed = token["alternatives"] + [token] * all(own != other["id"] for other in token["alternatives"])
    rows = [
        {
            "text": other["text"], "id": other["id"], "probability": (p := other["probability"]),
            "logit": token["logit"] if other["id"] == own else math.log(p) + log_sum if p else None,
            "exp_logit": exp_logit(p), "is_target": other["id"] == own,
        }
        for other in listed
    ]  # fmt: skip
    rest = max(0.0, 1.0 - math.fsum(row["probability"] for row in rows))
    others = {"num_tokens": vocabulary - len(rows), "exp_logit": exp_logit(rest), "probability": rest}
    return {"rows": rows, "others": others, "sum": {"exp_logit": exp_logit(1.0), "probability": 1.0}}


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
    num_before = equal.index(False) if False in equal else len(equal)
    at = prompt + num_before if False in equal else None
    return {
        "prompt_tokens": prompt, "ids": written, "text": tokenizer.decode(written, inside=prompt > 0),
        "departs_at_token": at, "num_tokens": len(targets), "num_tokens_before_departure": num_before,
        "num_tokens_equal": sum(equal), "instead_of": None if at is None else tokens[at]["text"],
        "wrote": None if at is None else _text(tokenizer, begun[at], written[num_before]),
    }  # fmt: skip


@torch.enable_grad()
def gradients(model: Decoder, document: EncodedDocument, how: Conventions) -> dict[str, Any]:
    """How the mean loss of the document would change: by logit, and by part of the model. The model is left as it was.

    `tokens`: for each scored target d loss / d its own logit, (p - 1) / N, and the norm of d loss / d all logits of its
    position, |p - onehot| / N. `parts`: the norm of the gradient and of the weights of the embedding, each block and
    the head. The end after the document is not part of the loss.
    """
    requests = document_requests(document, how)
    num_tokens = sum(request.num_scored for request in requests) - (how.end is not None)
    weights = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    tokens = []
    for request in requests:
        ids = torch.as_tensor(request.ids, device=device_of(model))
        targets = ids[-request.num_scored :]
        logits = model.head(model.hidden(ids[None, :-1])[0, -len(targets) :])
        inside = len(targets) - (how.end is not None and request is requests[-1])
        loss = token_nats(logits, targets)[:inside].sum() / num_tokens
        slope, *by_weight = torch.autograd.grad(loss, [logits, *weights.values()])
        for total, gradient in zip(sums.values(), by_weight, strict=True):
            total += gradient
        own = slope[:inside].gather(-1, targets[:inside, None])[:, 0].tolist()
        norms = slope[:inside].norm(dim=-1).tolist()
        tokens += [{"own_logit_gradient": a, "logit_gradient_norm": b} for a, b in zip(own, norms, strict=True)]
    parts: dict[str, list[str]] = {}
    for name in weights:
        parts.setdefault(part_of(name), []).append(name)
    table: list[dict[str, Any]] = [
        {"part": part, "gradient_norm": _norm(sums[name] for name in names),
         "weight_norm": _norm(weights[name].detach() for name in names)}
        for part, names in parts.items()
    ]  # fmt: skip
    return {"tokens": tokens, "parts": table, "gradient_norm": math.hypot(*(row["gradient_norm"] for row in table))}


def part_of(name: str) -> str:
    """The part of the model a parameter belongs to.

    >>> part_of("blocks.3.mlp.down.weight"), part_of("embedding.weight")
    ('blocks.3', 'embedding')
    """
    words = name.split(".")
    return ".".join(words[:2]) if words[0] == "blocks" else words[0]


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.sqrt(math.fsum(t.cpu().double().square().sum().item() for t in tensors))


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
        rows.append({
            "name": name, "shape": list(parameter.shape), "num_parameters": parameter.numel(),
            "norm": _norm([values]), "mean": values.mean().item(),
            "standard_deviation": values.std(correction=0).item(), "minimum": low, "maximum": high,
            "histogram": [int(count) for count in histogram.tolist()], "trainable": parameter.requires_grad,
            "tied_to": ["head.projection.weight"] if tied and name == "embedding.weight" else [],
        })  # fmt: skip
    total = sum(parts.values())
    return {"num_parameters": total, "num_parameters_by_part": parts, "tied": tied, "weights": rows}

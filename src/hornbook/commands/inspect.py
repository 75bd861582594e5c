"""`hornbook.inspect`: a text through a model, token by token; or, without a text, the model's weights."""

from __future__ import annotations

import copy
import html
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hornbook.commands.generate import prompt_ids
from hornbook.engine import checkpoint as checkpoints
from hornbook.engine.device import device
from hornbook.evaluation.corpus import conventions, conventions_in_words
from hornbook.evaluation.inspection import inspect_text, part_of, weights
from hornbook.facts.errors import InputError
from hornbook.reporting.heatmap import inspection_page
from hornbook.setup.build import make_optimizers
from hornbook.setup.model import LoadedModel, open_model, settings_of
from hornbook.training.decisions import decisions_of, lr_schedule
from hornbook.training.step import train_step


@dataclass(frozen=True)
class Look:
    """What was seen with one model, or with two side by side: `views` hold values of JSON, one mapping a model.

    A notebook shows it as a heat map.
    """

    views: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """As `--json` prints it: the first view, the second under `against`."""
        if len(self.views) == 1:
            return self.views[0]
        a, b = self.views
        change = b["bits_per_byte"] - a["bits_per_byte"] if "tokens" in a and a["num_bytes"] == b["num_bytes"] else None
        return {**a, "against": b, "difference_bits_per_byte": change}

    def to_html(self) -> str:
        """One self-contained page."""
        return inspection_page(self.views)

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that its style stays in there."""
        source = html.escape(self.to_html())
        return f'<iframe srcdoc="{source}" sandbox style="width: 100%; height: 40rem; border: 0"></iframe>'


def inspect(
    model: str | LoadedModel, text: str | None = None, *, against: str | LoadedModel | None = None,
    step: int | None = None,
    against_step: int | None = None, gradients: bool = False, top_k: int = 5, prompt_tokens: int | None = None,
) -> Look:  # fmt: skip
    """Look at `text` with `model`, and with `against` beside it; without a text, at their weights.

    `step` and `against_step` choose checkpoints of runs; `against_step` alone is another checkpoint of the same run.
    `gradients` adds how the loss depends on each part. `top_k` alternatives are listed for each token.
    `prompt_tokens` of the text are given to the model for its greedy continuation (default: half). Raises InputError.
    """
    if top_k < 0 or (prompt_tokens is not None and prompt_tokens < 0):
        raise InputError("--top-k and --prompt-tokens must not be negative.")
    if text is None and gradients:
        raise InputError("gradients are those of the loss of a text: give one.")
    chosen = [(model, step)]
    if against is not None or against_step is not None:
        chosen.append((model if against is None else against, against_step))
    views = []
    for each, at in chosen:
        opened = open_model(each, step=at) if isinstance(each, str) else each
        name = {"model": opened.name, "step": opened.step, "vocabulary": opened.model.shape.vocabulary}
        view = weights(opened.model) if text is None else look(opened, text, gradients, top_k, prompt_tokens)
        views.append(name | {"num_parameters": opened.model.shape.parameters} | view)
    return Look(tuple(views))


def look(opened: LoadedModel, text: str, gradients: bool, top_k: int, prompt_tokens: int | None) -> dict[str, Any]:
    """One text through one model, as values of JSON."""
    how = conventions(opened.model, opened.tokenizer)
    seen = inspect_text(
        opened.model, opened.tokenizer, text, how=how, top_k=top_k, greedy_prompt=prompt_tokens,
        with_gradients=gradients,
    )  # fmt: skip
    if seen.gradients is not None:
        for token, slope in zip(seen.scored, seen.gradients["tokens"], strict=True):
            token["own_logit_gradient"] = slope["own_logit_gradient"]
        if opened.run is not None and (opened.run.checkpoint_folder(opened.step or 0) / "manifest.json").is_file():
            for row, norm in zip(seen.gradients["parts"], _update_norms(opened, text), strict=True):
                row["update_norm"] = norm
    return seen.to_dict() | {"conventions": conventions_in_words(how, opened.model, 1)}


def _update_norms(opened: LoadedModel, text: str) -> list[float]:
    """How far one step of the run's own optimizer, at its state and rate, on this text alone would move each part."""
    assert opened.run is not None
    assert opened.step is not None
    settings = settings_of(opened.run)
    decided = [decision for decision in decisions_of(opened.run.rows()) if decision.step <= opened.step]
    model = copy.deepcopy(opened.model).train()
    optimizers = make_optimizers(settings, model)
    checkpoints.load_into(opened.run.checkpoint_folder(opened.step), model=model, optimizers=optimizers)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    schedule = lr_schedule(settings, decided[-1] if decided else None)
    train_step(
        model, optimizers, _windows(prompt_ids(opened, text), model.shape.context),
        lr_scale=schedule(min(opened.step, (settings.train.steps or 1) - 1)),
        clip_norm=settings.optimizer.clip_norm,
    )  # fmt: skip
    moved: dict[str, list[Tensor]] = {}
    for (name, parameter), old in zip(model.named_parameters(), before, strict=True):
        moved.setdefault(part_of(name), []).append((parameter.detach() - old).flatten())
    return [float(torch.linalg.vector_norm(torch.cat(each))) for each in moved.values()]


def _windows(ids: list[int], context: int) -> list[tuple[Tensor, Tensor, None]]:
    """The ids as disjoint windows, one a microbatch: each id but the first is a target once."""
    inputs = torch.split(torch.tensor(ids[:-1], device=device()), context)
    targets = torch.split(torch.tensor(ids[1:], device=device()), context)
    return [(x[None], y[None], None) for x, y in zip(inputs, targets, strict=True)]

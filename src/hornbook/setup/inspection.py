"""A text seen through a model: what `hornbook inspect` shows of each token."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from hornbook.engine import loading
from hornbook.engine.device import device
from hornbook.evaluation.corpus import conventions, conventions_in_words
from hornbook.evaluation.inspection import inspect_text, part_of
from hornbook.setup.build import make_optimizers
from hornbook.setup.model import LoadedModel, prompt_ids, settings_of
from hornbook.training.decisions import decisions_of, lr_schedule
from hornbook.training.step import train_step


def inspection_view(
    opened: LoadedModel, text: str, gradients: bool, top_k: int, prompt_tokens: int | None
) -> dict[str, Any]:
    """One text through one model, as values of JSON."""
    how = conventions(opened.model, opened.tokenizer)
    inspected = inspect_text(
        opened.model, opened.tokenizer, text, how=how, top_k=top_k, greedy_prompt=prompt_tokens,
        with_gradients=gradients,
    )  # fmt: skip
    if inspected.gradients is not None:
        for token, slope in zip(inspected.scored, inspected.gradients["tokens"], strict=True):
            token["own_logit_gradient"] = slope["own_logit_gradient"]
        if opened.run is not None and (opened.run.checkpoint_folder(opened.step or 0) / "manifest.json").is_file():
            for row, norm in zip(inspected.gradients["parts"], _update_norms(opened, text), strict=True):
                row["update_norm"] = norm
    return inspected.to_dict() | {"conventions": conventions_in_words(how, opened.model, 1)}


def _update_norms(opened: LoadedModel, text: str) -> list[float]:
    """How far one step of the run's own optimizer, at its state and rate, on this text alone would move each part."""
    assert opened.run is not None
    assert opened.step is not None
    settings = settings_of(opened.run)
    decided = [decision for decision in decisions_of(opened.run.rows()) if decision.step <= opened.step]
    model = copy.deepcopy(opened.model).train()
    optimizers = make_optimizers(settings, model)
    loading.load_into(opened.run.checkpoint_folder(opened.step), model=model, optimizers=optimizers)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    schedule = lr_schedule(settings, decided)
    train_step(
        model, optimizers, _windows(prompt_ids(opened, text), model.shape.context),
        lr_scale=schedule(min(opened.step, (settings.train.steps or 1) - 1)),
        clip_norm=settings.optimizer.clip_norm,
    )  # fmt: skip
    moved: dict[str, list[Tensor]] = {}
    for (name, parameter), old in zip(model.named_parameters(), before, strict=True):
        moved.setdefault(part_of(name), []).append((parameter.detach() - old).flatten())
    return [float(torch.linalg.vector_norm(torch.cat(moves))) for moves in moved.values()]


def _windows(ids: list[int], context: int) -> list[tuple[Tensor, Tensor, None]]:
    """The ids as disjoint windows, one a microbatch: each id but the first is a target once."""
    inputs = torch.split(torch.tensor(ids[:-1], device=device()), context)
    targets = torch.split(torch.tensor(ids[1:], device=device()), context)
    return [(x[None], y[None], None) for x, y in zip(inputs, targets, strict=True)]

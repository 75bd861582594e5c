"""`hornbook.inspect`: a text through a model, token by token; or, without a text, the model's weights."""

from __future__ import annotations

import argparse
import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hornbook.commands.options import MODEL, add_settings, check_inputs, is_reading, piped, text_settings, value
from hornbook.facts.errors import InputError
from hornbook.facts.printing import print_json

if TYPE_CHECKING:
    from hornbook.setup.model import LoadedModel


def flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL)
    parser.add_argument("text", nargs="?", metavar="TEXT", help="the text itself, - for stdin; none: list the weights")
    parser.add_argument("--file", metavar="FILE", help="read the text from this file")
    parser.add_argument("--against", metavar="MODEL", help="a second model to compare with")
    parser.add_argument("--step", type=value(int), metavar="N", help="the run's checkpoint at this step")
    parser.add_argument("--against-step", type=value(int), metavar="N", help="step of --against; alone: of this run")
    parser.add_argument("--gradients", action="store_true", help="gradient of the loss for each part of the model")
    parser.add_argument("--top-k", type=value(int), metavar="N", help="alternatives to list (default: 5)")
    parser.add_argument("--token", type=value(int), metavar="N", help="show the softmax of token N (the first is 1)")
    parser.add_argument("--prompt-tokens", type=value(int), metavar="N", help="prompt of the greedy continuation")
    parser.add_argument("--html", metavar="FILE", help="write a heat map as one HTML file")
    add_settings(parser, is_reading)


def command(arguments: argparse.Namespace) -> None:
    from hornbook.setup.documents import named_documents

    text = piped(arguments.text)
    if arguments.file is not None:
        if text is not None:
            raise InputError("give the text itself or --file, not both.")
        documents = named_documents([arguments.file], text_settings(arguments))
        if len(documents) > 1:
            raise InputError(f"{arguments.file} has {len(documents):,} documents: give a file with one.")
        text = documents[0].text()
    check_inputs(arguments.model, *([] if arguments.against is None else [arguments.against]))
    inspection = inspect(
        arguments.model, text, against=arguments.against, step=arguments.step, against_step=arguments.against_step,
        gradients=arguments.gradients, top_k=5 if arguments.top_k is None else arguments.top_k,
        prompt_tokens=arguments.prompt_tokens, token=arguments.token,
    )  # fmt: skip
    if arguments.json:
        print_json(inspection.to_dict())
    else:
        from hornbook.reporting.heatline import print_inspection

        print_inspection(inspection.views, lists_alternatives=arguments.top_k is not None)
    if arguments.html is not None:
        from hornbook.facts.io import write_aside

        write_aside(Path(arguments.html), inspection.to_html(beside=Path(arguments.html)))


@dataclass(frozen=True)
class Inspection:
    """A text through one model, or through two side by side: `views` hold values of JSON, one mapping a model.

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

    def to_html(self, beside: Path | None = None) -> str:
        """One self-contained page; as the file `beside` in the reports of a run, it links to the run's other pages."""
        from hornbook.records.run import Run, is_run
        from hornbook.reporting.heatmap import inspection_page

        if beside is None or beside.parent.name != "reports" or not is_run(beside.parent.parent):
            return inspection_page(self.views)
        from hornbook.reporting.report import links_of

        return inspection_page(self.views, links_of(Run(beside.parent.parent)))

    def _repr_html_(self) -> str:
        """The page in a frame of its own, so that its style stays in there."""
        source = html.escape(self.to_html())
        return f'<iframe srcdoc="{source}" sandbox style="width: 100%; height: 40rem; border: 0"></iframe>'


def inspect(
    model: str | LoadedModel, text: str | None = None, *, against: str | LoadedModel | None = None,
    step: int | None = None, against_step: int | None = None, gradients: bool = False, top_k: int = 5,
    prompt_tokens: int | None = None, token: int | None = None,
) -> Inspection:  # fmt: skip
    """Inspect `text` token by token with `model`, and with `against` beside it; without a text, their weights.

    `step` and `against_step` choose checkpoints of runs; `against_step` alone is another checkpoint of the same run.
    `gradients` adds the gradient of the loss for each part. `top_k` alternatives are listed for each token.
    `prompt_tokens` of the text are given to the model for its greedy continuation (default: half). `token`, from 1,
    is the one whose softmax is shown as a row: `softmax` of a view. Raises InputError.
    """
    from hornbook.evaluation.inspection import softmax_row, weights
    from hornbook.setup.inspection import inspection_view
    from hornbook.setup.model import open_model

    if top_k < 0 or (prompt_tokens is not None and prompt_tokens < 0):
        raise InputError("--top-k and --prompt-tokens must not be negative.")
    if text is None and token is not None:
        raise InputError("--token is one of a text: give one.")
    if text is None and gradients:
        raise InputError("gradients need a text to compute a loss on: give one.")
    chosen = [(model, step)]
    if against is not None or against_step is not None:
        chosen.append((model if against is None else against, against_step))
    views = []
    for named, at in chosen:
        opened = open_model(named, step=at) if isinstance(named, str) else named
        name = {"model": opened.name, "step": opened.step, "vocabulary": opened.model.shape.vocabulary}
        view = weights(opened.model) if text is None else inspection_view(opened, text, gradients, top_k, prompt_tokens)
        if token is not None:
            if not (1 <= token <= len(view["tokens"]) and view["tokens"][token - 1]["nats"] is not None):
                first = 1 + (view["tokens"][0]["nats"] is None)
                raise InputError(
                    f"--token is {token}, but the tokens that are scored are {first} to {len(view['tokens'])}."
                )
            row = softmax_row(view["tokens"][token - 1], opened.model.shape.vocabulary)
            view["softmax"] = {"token": token} | row
        views.append(name | {"num_parameters": opened.model.shape.parameters} | view)
    return Inspection(tuple(views))

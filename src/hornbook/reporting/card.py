"""The model card: README.md of an exported model, with its numbers and how they were measured."""

from __future__ import annotations

from collections.abc import Mapping

from hornbook.facts.metrics import printed
from hornbook.facts.text_warnings import leak_warning, lost_warning
from hornbook.facts.units import counted
from hornbook.records.result import Report

_TRIED = "tried by Hornbook's tests"
_NOT_TRIED = "not tried"
_USE = {  # the format that a program reads, how it is used, and whether our tests have done just that
    "transformers": ("huggingface", _TRIED, """\
```python
from transformers import AutoModelForCausalLM, {opener}

model, tokenizer = AutoModelForCausalLM.from_pretrained("{name}"), {opener}.from_pretrained("{name}")
```
{warning}"""),
    "vLLM": ("huggingface", _NOT_TRIED, """\
```
vllm serve {name}
```
"""),
    "llama.cpp": ("gguf", _NOT_TRIED, """\
```
llama-cli --model {name}/{name}.gguf --prompt "..."
```
"""),
    "ollama": ("ollama", _NOT_TRIED, """\
```
ollama create {name} -f {name}/Modelfile
ollama run {name} "..."
```
"""),
}  # fmt: skip


_NOT_AUTO = """
Not `AutoTokenizer`: for this architecture transformers 5 puts another way of splitting text in the place of this
tokenizer's, gives other ids, and the numbers above do not hold for them.
"""


def model_card(
    facts: Mapping[str, str], report: Report | None, *, to: str, dtype: str, name: str, opener: str = "AutoTokenizer"
) -> str:
    """Markdown with the front matter that model hubs read. `report`: the evaluation of just these weights, if any;
    `opener`: the class of transformers that opens the tokenizer as it is."""
    lines = ["---", *(["library_name: transformers"] if to == "huggingface" else []), "pipeline_tag: text-generation"]
    lines += ["tags:", "- hornbook", "---", "", f"# {name}", "", "A language model, exported by Hornbook.", ""]
    lines += ["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in (*facts.items(), ("stored as", dtype)))]
    lines += ["", "## Numbers", "", *_numbers(report), "", "## Use", ""]
    warning = _NOT_AUTO if opener != "AutoTokenizer" else ""
    for program, (reads, tried, how) in _USE.items():
        is_other = reads != to and (reads, to) != ("gguf", "ollama")
        first = f"After `hornbook export RUN --to {reads} --out {name}`:\n\n" if is_other else ""
        use = how.format(name=name, opener=opener, warning=warning).rstrip()
        lines += [f"With {program} ({tried}):", "", first + use, ""]
    return "\n".join(lines)


def _numbers(report: Report | None) -> list[str]:
    if report is None:
        return ["These weights were not evaluated before export; `hornbook evaluate` does that."]
    numbers = report.to_dict()
    warning = leak_warning(report.extra)
    text = "text it was not trained on" if warning is None else "its validation text"
    table = [f"| on {text} | | 95 % interval |", "|---|---|---|"]
    for known, value, interval in printed(numbers):
        row = f"| {known.label} | {value} {known.unit_in_words}".rstrip()
        table.append(f"{row} | {interval.removeprefix('95 % ')} |")
    for key, baseline in report.extra.get("baselines", {}).items():
        loss = baseline["loss_nats_per_token"]
        table.append(f"| loss of a {key} model, for comparison | {loss:.4f} nats per token | |")
    documents = counted(len(report.documents), "document")
    scored = f"Scored: {report.num_tokens:,} tokens, {report.num_bytes:,} bytes, {documents}."
    scored += "".join(f" Warning: {text}." for text in (warning, lost_warning(report.extra)) if text is not None)
    how = "Convention: " + "; ".join(f"{key} {text}" for key, text in report.conventions.items()) + "."
    return [*table, "", scored, how, *([f"Intervals: {report.interval_method}."] if report.interval_method else [])]

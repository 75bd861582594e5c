"""`hornbook inspect`: the six steps, two checkpoints side by side, gradients, weights, one page of HTML."""

import math

import pytest
import torch

import hornbook
from hornbook.facts.errors import InputError

TEXT = "Return the argument parser.\n\n    Ø is kept — as it is."


@pytest.fixture(scope="module")
def opened(tiny_run):
    return hornbook.open_model(tiny_run.run)


def test_the_sum_is_the_loss_that_evaluate_prints(command_line, tiny_run):
    (command_line.folder / "text.txt").write_bytes(TEXT.encode())
    seen = command_line("inspect", tiny_run.run, TEXT, "--json").json
    scored = command_line("evaluate", tiny_run.run, "text.txt", "--json").json
    for key in ("nats", "loss_nats_per_token", "perplexity", "bits_per_byte", "num_tokens", "num_bytes"):
        assert seen[key] == scored[key], key
    assert math.fsum(token["nats"] for token in seen["tokens"]) == scored["nats"]
    assert bytes(token["id"] for token in seen["tokens"]) == TEXT.encode()
    assert command_line("inspect", tiny_run.run, "--file", "text.txt", "--json").json == seen
    (command_line.folder / "text.csv").write_bytes(b"id,body\n1,caf\xe9\n")
    of_a_row = ("--file", "text.csv", "--field", "body", "--errors", "replace", "--json")
    assert [t["text"] for t in command_line("inspect", tiny_run.run, *of_a_row).json["tokens"][:3]] == ["c", "a", "f"]


def test_each_token_shows_the_six_steps_and_what_else_was_likely(opened):
    seen = hornbook.inspect(opened, TEXT, top_k=4).to_dict()
    for token in seen["tokens"]:
        assert token["log_probability"] == -token["nats"]
        assert token["probability"] == pytest.approx(math.exp(-token["nats"]))
        assert token["surplus_nats"] == pytest.approx(token["nats"] - token["entropy_nats"])
        best = [other["probability"] for other in token["alternatives"]]
        assert len(best) == 4
        assert best == sorted(best, reverse=True)
        assert (token["rank"] == 1) == (token["alternatives"][0]["probability"] == pytest.approx(token["probability"]))
    assert seen["perplexity"] == pytest.approx(math.exp(-seen["mean_log_probability"]))
    assert seen["greedy"]["prompt_tokens"] == len(seen["tokens"]) // 2
    assert seen["conventions"]["window"] == "32 tokens"


def test_two_checkpoints_of_a_run_side_by_side(command_line, tiny_run):
    finished = command_line("inspect", tiny_run.run, TEXT, "--against-step", "0", "--json", "--html", "both.html")
    seen = finished.json
    assert (seen["step"], seen["against"]["step"]) == (24, 0)
    assert [token["id"] for token in seen["tokens"]] == [token["id"] for token in seen["against"]["tokens"]]
    change = seen["against"]["bits_per_byte"] - seen["bits_per_byte"]
    assert seen["difference_bits_per_byte"] == change > 0
    page = (command_line.folder / "both.html").read_text(encoding="utf-8")
    assert f"run at step 24 against {tiny_run.run} at step 0" in page
    assert "http" not in page.replace("http-equiv", "")


def test_gradients_and_the_update_that_the_runs_optimizer_would_make(opened, tiny_run):
    before = [parameter.clone() for parameter in opened.model.parameters()]
    seen = hornbook.inspect(opened, TEXT, gradients=True).to_dict()
    for token in seen["tokens"]:  # d loss / d logit of the target is (p - 1) / N
        assert token["own_logit_gradient"] == pytest.approx((token["probability"] - 1) / seen["num_tokens"], abs=1e-6)
    parts = seen["gradients"]["parts"]
    assert [row["part"] for row in parts] == ["embedding", "blocks.0", "head"]
    assert all(row["gradient_norm"] > 0 and row["update_norm"] > 0 for row in parts)
    assert all(torch.equal(a, b) for a, b in zip(before, opened.model.parameters(), strict=True))
    first = hornbook.inspect(str(tiny_run.run), TEXT, step=0, gradients=True).to_dict()["gradients"]["parts"]
    assert [row["update_norm"] for row in first] != [row["update_norm"] for row in parts]


def test_without_a_text_the_weights(command_line, tiny_run, opened):
    seen = command_line("inspect", tiny_run.run, "--json").json
    assert seen["num_parameters"] == sum(seen["num_parameters_by_part"].values()) == tiny_run.summary["num_parameters"]
    named = dict(opened.model.named_parameters())
    for row in seen["weights"]:
        assert row["shape"] == list(named[row["name"]].shape)
        assert row["norm"] == pytest.approx(float(named[row["name"]].detach().norm()), rel=1e-5)
        assert sum(row["histogram"]) == row["num_parameters"]
    printed = command_line("inspect", tiny_run.run).stdout
    assert f"{seen['num_parameters']:,} parameters" in printed
    assert "blocks.0.attention.query" in printed


def test_the_terminal_shows_every_step_without_colour(command_line, tiny_run):
    seen = command_line("inspect", tiny_run.run, TEXT, "--json").json
    printed = command_line("inspect", tiny_run.run, TEXT).stdout
    assert "\x1b" not in printed
    assert f"{seen['loss_nats_per_token']:.4f} nats per token" in printed
    assert all(sign in printed for sign in "①②③④⑤⑥")
    assert printed.count("↵") == 2


def test_a_notebook_shows_the_page_in_a_frame(opened):
    shown = hornbook.inspect(opened, "a </iframe><script>alert(1)</script>")._repr_html_()
    assert shown.startswith("<iframe srcdoc=")
    assert shown.count("<") == 2
    assert "sandbox" in shown


def test_what_cannot_be_looked_at(opened, command_line, tiny_run):
    with pytest.raises(InputError, match="no token to score"):
        hornbook.inspect(opened, "")
    with pytest.raises(InputError, match="gradients need a text to compute a loss on"):
        hornbook.inspect(opened, gradients=True)
    finished = command_line("inspect", tiny_run.run, TEXT, "--against-step", "7")
    assert (finished.code, finished.stdout) == (2, "")
    assert "has no checkpoint at step 7: it keeps 0, " in finished.stderr


def test_one_softmax_as_a_row(tiny_run, command_line):
    """Its shares are those of e^logit, the target is among them, and the inputs above are the targets one later."""
    seen = command_line("inspect", tiny_run.run, TEXT, "--token", "3", "--top-k", "4", "--json").json
    token, row = seen["tokens"][2], seen["softmax"]
    entries = [*row["rows"], row["others"]]
    assert row["token"] == 3
    assert [entry["text"] for entry in row["rows"] if entry["is_target"]] == [token["text"]]
    assert sum(entry["probability"] for entry in entries) == pytest.approx(1)
    assert sum(entry["exp_logit"] for entry in entries) == pytest.approx(row["sum"]["exp_logit"])
    assert row["others"]["num_tokens"] + len(row["rows"]) == seen["vocabulary"]
    for entry in row["rows"]:
        assert entry["exp_logit"] == pytest.approx(math.exp(entry["logit"]), rel=1e-5)
        assert entry["probability"] == pytest.approx(entry["exp_logit"] / row["sum"]["exp_logit"], rel=1e-5)
    printed = command_line("inspect", tiny_run.run, TEXT, "--token", "3", "--top-k", "4").stdout
    first, second = (line.split()[1:] for line in printed.splitlines() if line.startswith(("input ", "target ")))
    assert first[1:] == second[:-1]
    assert "← target" in printed
    assert "most probable" in printed
    for number, word in (("0", "1 to"), ("999", "1 to")):
        finished = command_line("inspect", tiny_run.run, TEXT, "--token", number)
        assert (finished.code, word in finished.stderr) == (2, True)
    assert command_line("inspect", tiny_run.run, "--token", "3").code == 2

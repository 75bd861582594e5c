"""What `train` says while it goes on and when it ends, of runs that are not as they should be."""

from pathlib import Path

SMALL = (
    "--tokenizer", "bytes", "--split", "tail:0.1", "--threads", "1", "--model.layers", "1", "--model.width", "32",
    "--model.context", "32", "--train.batch", "4", "--watch.sample_tokens", "8", "--out", "run",
)  # fmt: skip


def test_a_run_that_diverged_ends_with_a_summary_and_a_page(command_line, text_file):
    finished = command_line("train", "text.txt", *SMALL, "--steps", "4", "--optimizer.learning_rate", "1000")
    assert finished.code == 0, finished.stderr
    assert "held out for validation: 10% of the text, its end (--split tail:0.1)" in finished.stderr
    assert "Training made the model worse" in finished.stdout
    page = Path(command_line.folder, "run", "reports", "report.html").read_text(encoding="utf-8")
    for text in (finished.stdout, page):
        assert "more than 1e17" in text
        assert "inf to inf" not in text


def test_a_run_far_past_its_best_says_whose_weights_are_used(command_line, text_file):
    text_file.write_text(text_file.read_text(encoding="utf-8")[:3000], encoding="utf-8")
    wider = (*SMALL, "--model.width", "64", "--train.batch", "8", "--steps", "240")
    finished = command_line("train", "text.txt", *wider)
    assert finished.code == 0, finished.stderr
    assert "with the weights of step 240. Those with the lowest probe loss, of step" in finished.stdout
    first = next(line for line in finished.stderr.splitlines() if line.startswith("step "))
    assert first.startswith("step 0/240 · epoch 0.00 · train loss 5.549 · validation loss 5.549")


def test_prepare_says_from_where_validation_text_was_taken(command_line, text_file):
    finished = command_line("prepare", "text.txt", "--tokenizer", "bytes")
    assert (
        "held out for validation: 10% of the text, 16 pieces from inside it; gaps around them lose 2."
        in finished.stdout
    )

"""How surprised a model is by each token of a sentence: python examples/surprise.py MODEL "A sentence." """

import sys

import torch

from hornbook import open_model
from hornbook.likelihood import six_steps

if len(sys.argv) != 3:
    sys.exit('call it with a model and a sentence: python examples/surprise.py runs/NAME "A sentence."')
opened = open_model(sys.argv[1])  # a run, a checkpoint, a Hugging Face folder or a .gguf file
tokenizer = opened.tokenizer
tokens = tokenizer.encode(sys.argv[2]).tolist()
tokens = tokens if tokenizer.end_of_text is None else [tokenizer.end_of_text, *tokens]
if not 2 <= len(tokens) <= opened.model.shape.context + 1:
    sys.exit(f"give a sentence of 2 to {opened.model.shape.context} tokens; this one has {len(tokens)}.")

with torch.no_grad():
    logits = opened.model(torch.tensor([tokens[:-1]]))[0]
targets = torch.tensor(tokens[1:])
steps = six_steps(logits, targets)

print(f"{'token':>16} {'1. logit':>10} {'2.-3. probability':>18} {'4. its logarithm':>17} {'rank':>6}")
for row, token in enumerate(targets.tolist()):
    logit = steps["logits"][row, token]
    rank = int((steps["logits"][row] > logit).sum()) + 1
    probability, logarithm = steps["target_probabilities"][row], steps["log_probabilities"][row]
    print(f"{tokenizer.decode([token])!r:>16} {logit:10.3f} {probability:18.6f} {logarithm:17.3f} {rank:6,}")
print(f"5. mean log-probability     {steps['mean_log_probability']:.4f}")
print(f"6. its negative, the loss   {steps['cross_entropy']:.4f} nats per token")
print(f"   exp(loss), perplexity    {steps['cross_entropy'].exp():,.1f} of {opened.model.shape.vocabulary:,} tokens")

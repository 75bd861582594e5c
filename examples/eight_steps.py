"""The eight steps of training a language model, in seconds: python examples/eight_steps.py [TEXT]"""

import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics  # some English that comes with Python

import torch

from hornbook import Decoder, GPTShape, Surprise
from hornbook.data.loader import Batches
from hornbook.data.prepare import prepare
from hornbook.likelihood import sum_nats
from hornbook.model.generate import generate
from hornbook.model.init import initialise
from hornbook.optim.adamw import AdamW
from hornbook.text.documents import documents

with tempfile.TemporaryDirectory() as folder:
    text = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "python.txt"
    if len(sys.argv) == 1:
        text.write_text("\n".join(topics.values())[:100_000])
    data = prepare(documents([str(text)]), tokenizer="bytes", split="tail:0.1", out=Path(folder) / "prepared")
    shape = GPTShape(
        family="qwen3", layers=2, width=64, heads=2, context=64, vocabulary=data.tokenizer.vocabulary, rope_base=1000.0
    )
    model = initialise(Decoder(shape), seed=0)
    weights = dict(model.named_parameters())
    optimizer = AdamW(weights, learning_rate=6e-3, beta1=0.9, beta2=0.99, epsilon=1e-8, weight_decay=0.0)
    batches = Batches(data.train, context=64, batch=16, seed=0)
    held_out = data.validation.take(torch.arange(0, data.validation.num_tokens - 65, 64).numpy(), 65)
    inputs, targets = (torch.from_numpy(side.copy()) for side in (held_out[:, :-1], held_out[:, 1:]))

    step = 0
    for epoch in range(2):  # 1. each epoch
        while batches.epoch(step) < epoch + 1:  # 2. each batch
            x, y = (torch.from_numpy(array) for array in batches.batch(step))
            for weight in weights.values():  # 3. reset the gradients
                weight.grad = None
            nats = sum_nats(model.head, model.hidden(x).flatten(0, 1), y.flatten(), shape.vocabulary)
            loss = nats / (y >= 0).sum()  # 4. the loss: mean nats per token
            loss.backward()  # 5. gradients by backpropagation
            optimizer.step(lr_scale=1.0)  # 6. update the weights
            step += 1
            if step % 20 == 0:  # 7. print the losses
                with torch.no_grad():
                    nats = sum_nats(model.head, model.hidden(inputs).flatten(0, 1), targets.flatten(), shape.vocabulary)
                unseen = Surprise(float(nats), targets.numel(), targets.numel())  # here a token is a byte
                print(f"step {step}: train loss {loss:.3f}, validation {unseen.loss:.3f}", end=", ")
                print(f"perplexity {unseen.perplexity:.1f}, {unseen.bits_per_byte:.2f} bits per byte")
        written = generate(model, data.tokenizer.encode("The ").tolist(), max_tokens=80, temperature=0.8, seed=0)
        print("The " + data.tokenizer.decode(list(written)))  # 8. sample text

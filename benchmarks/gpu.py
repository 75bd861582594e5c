"""One accelerator: training in bfloat16, compiled, at 124M and 1.3B parameters; tokens a second and MFU.

    python benchmarks/gpu.py hornbook|transformers 124M|1.3B

Written for a machine with CUDA and not yet run on one: none was there. MFU is model FLOPs (3 x forward, the full
square of attention) over the peak given with --peak, in TFLOP/s of dense bfloat16 (989 on an H100 or H200).
"""

import argparse
import json
import time

import torch

SIZES = {"124M": (12, 768, 12, 1024, 32), "1.3B": (24, 2048, 16, 2048, 4)}  # layers, width, heads, context, batch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("side", choices=["hornbook", "transformers"])
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--peak", type=float, default=989.0)
    parser.add_argument("--steps", type=int, default=50)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(2, "this benchmark needs an accelerator.\n")
    layers, width, heads, context, batch = SIZES[arguments.size]
    tokens = torch.randint(50257, (batch, context + 1), device="cuda")
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
    autocast = torch.autocast("cuda", torch.bfloat16)
    if arguments.side == "hornbook":
        from hornbook.facts.shape import GPTShape
        from hornbook.model.decoder import Decoder, initialise
        from hornbook.optim import AdamW, groups
        from hornbook.training.step import train_step

        shape = GPTShape(family="gpt2", layers=layers, width=width, heads=heads, context=context, vocabulary=50257)
        model = initialise(Decoder(shape), 0).cuda()
        for block in model.blocks:
            block.compile()
        optimizers = [
            AdamW(some, learning_rate=1e-4, beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.1)
            for some in groups(model)
        ]

        def step() -> None:
            train_step(model, optimizers, [(inputs, targets, None)], multiplier=1.0, clip_norm=1.0, autocast=autocast)
    else:
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            n_layer=layers, n_embd=width, n_head=heads, n_positions=context, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
        )
        theirs = GPT2LMHeadModel(config).cuda()
        compiled = torch.compile(theirs)
        optimizer = torch.optim.AdamW(theirs.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=True)

        def step() -> None:
            optimizer.zero_grad(set_to_none=True)
            with autocast:
                logits = compiled(inputs, use_cache=False).logits
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
            loss.backward()
            torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
            optimizer.step()

    for _ in range(10):
        step()
    torch.cuda.synchronize()
    begin = time.perf_counter()
    for _ in range(arguments.steps):
        step()
    torch.cuda.synchronize()
    each = (time.perf_counter() - begin) / arguments.steps
    flops = 6 * (layers * 12 * width**2 + 50257 * width) + 12 * layers * width * context
    rate = batch * context / each
    print(
        json.dumps(
            {
                "tokens_per_second": rate,
                "mfu": rate * flops / (arguments.peak * 1e12),
                "peak_gigabytes": torch.cuda.max_memory_allocated() / 1e9,
            }
        )
    )


if __name__ == "__main__":
    main()

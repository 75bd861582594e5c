"""Sizes that both the work and its plan know: planning imports no torch, and counts the memory that these bound."""

LOGITS_BYTES = 64 * 2**20  # of one chunk of logits on a CPU, or on an accelerator without a compiler
COMPILED_LOGITS_BYTES = 2**30  # of one on an accelerator: enough rows for products at full speed
COUNTED_TOKENS = 2**22  # of a longer training text, n-gram baselines count evenly spread stretches

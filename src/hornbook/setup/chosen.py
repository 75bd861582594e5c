"""Which validation tokens chose a run's weights: what they are reported on lies outside, so that nothing is flattered.

The lowest of many looks at the same windows is lower than the model deserves. So a run that uses its best weights is
scored on the validation text outside the probe; where the probe is most of it, the report says so instead.
"""

from __future__ import annotations

import numpy as np

from hornbook.data.shards import NUM_TOKENS, Prepared
from hornbook.evaluation.corpus import Places
from hornbook.evaluation.probe import Probe
from hornbook.facts.settings import Settings

ENOUGH = 0.4  # of the validation text must remain


def chosen_on(settings: Settings, prepared: Prepared) -> list[Places] | None:
    """The places of each validation document that chose the weights; None where the last weights are used, there is
    no validation text, or too little would remain."""
    part, context, tokens = prepared.validation, settings.model.context, settings.watch.probe_tokens
    assert context is not None
    assert tokens is not None
    if not settings.checkpoint.best or part.num_tokens < 2:
        return None
    unknown = np.zeros(prepared.tokenizer.vocabulary, np.int32)  # no bytes are asked for
    places = Probe(part, context=context, num_tokens=tokens, byte_lengths=unknown).ranges(part)
    chosen = sum(stop - start for document in places for start, stop in document)
    return list(places) if chosen <= (1 - ENOUGH) * part.documents[:, NUM_TOKENS].sum() else None

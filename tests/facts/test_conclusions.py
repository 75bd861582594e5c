"""Every sentence that concludes something stands in the table, and nothing else does."""

from __future__ import annotations

import re
from pathlib import Path

from hornbook.commands import train_report as finish
from hornbook.facts.conclusions import conclusions
from hornbook.planning.health import CHECKS
from hornbook.reporting import words


def test_every_sentence_of_a_run_and_every_health_check_has_its_row() -> None:
    source = "".join(Path(module.__file__ or "").read_text(encoding="utf-8") for module in (words, finish))
    said = set(re.findall(r'Finding\(\s*"(\w+)"', source))
    assert len(said) > 15
    live = {*CHECKS, "left its forecast", "memorizing", "run_turned", "forecast"}
    assert said | live <= set(conclusions())
    assert {row.id for row in conclusions().values() if row.case == "sentences"} <= said | live


def test_a_rate_is_a_small_share_and_a_rule_a_sentence() -> None:
    for row in conclusions().values():
        assert row.says
        assert row.rule.endswith("."), row.id
        for rate in (row.false_at_most, row.missing_at_most):
            assert rate is None or 0 <= rate <= 0.2, row.id

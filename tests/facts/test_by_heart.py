import pytest

from hornbook.facts.by_heart import by_heart, readings

LOW = {"train_loss": 0.3, "new_loss": 3.0}


def test_the_gap_counts_only_for_a_text_read_again_and_of_one_kind():
    assert by_heart(**LOW, readings=20.0).grounds == ("gap",)
    assert by_heart(**LOW, readings=None).holds
    assert not by_heart(**LOW, readings=1.0).holds
    assert by_heart(**LOW, readings=readings(1.0, 0.9)).holds  # once over a text that stands there ten times
    assert not by_heart(**LOW, readings=20.0, texts_differ=True).holds
    assert by_heart(**LOW, readings=20.0, texts_differ=False).holds
    assert not by_heart(train_loss=1.6, new_loss=3.0, readings=20.0).holds
    assert not by_heart(train_loss=0.0, new_loss=0.0, readings=20.0).holds


def test_an_interval_goes_before_the_estimate():
    assert not by_heart(**LOW, readings=20.0, share_low=0.4).holds
    assert by_heart(train_loss=2.9, new_loss=3.0, readings=20.0, share_low=0.6).holds


@pytest.mark.parametrize("measure", ["extraction", "copying"])
def test_extraction_and_copying_need_no_gap(measure):
    once = {"train_loss": 3.0, "new_loss": 3.0, "readings": 0.5, "texts_differ": True}
    assert by_heart(**once, **{f"{measure}_low": 0.02}).grounds == (measure,)
    assert not by_heart(**once, **{f"{measure}_low": 0.01}).holds


def test_what_was_not_measured_is_named():
    asked = by_heart(**LOW, readings=20.0)
    assert asked.lacks == ("extraction", "copying", "kind", "interval")
    assert asked.lacking.endswith("whether the two texts are of the same kind and how much of the gap could be chance")
    known = {"share_low": 0.5, "texts_differ": False, "extraction_low": 0.0}
    assert by_heart(**LOW, readings=2.0, **known).lacking == "whether its samples copy the training text"
    assert by_heart(**LOW, readings=2.0, **known, copying_low=0.0).lacking == ""

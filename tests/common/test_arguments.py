"""Checks of arguments name the value and say what is wanted."""

import numpy as np
import pytest

from helpers.common.arguments import require, require_choice, whole_number


def test_what_fits_passes():
    require(True, "name", 1, "give 1")
    require_choice("colour", "red", ("red", "blue"))
    assert [whole_number("n", value) for value in (3, 3.0, np.int64(3))] == [3, 3, 3]
    assert whole_number("seed", 0, least=0) == 0


@pytest.mark.parametrize("value", [0, -1, 1.5, "x", None, True, False, float("nan"), float("inf")])
def test_what_counts_nothing_is_refused(value):
    with pytest.raises(ValueError, match=f"^n is {value!r}; give a whole number of 1 or more$"):
        whole_number("n", value)


def test_a_choice_that_does_not_exist_is_told_with_those_that_do():
    with pytest.raises(ValueError) as caught:
        require_choice("colour", "rad", ("red", "blue"))
    told = "colour 'rad' is unknown; choose one of red, blue"
    assert str(caught.value) == told
    with pytest.raises(ValueError, match="choose one of red, blue$"):
        require_choice("colour", 7, ("red", "blue"))

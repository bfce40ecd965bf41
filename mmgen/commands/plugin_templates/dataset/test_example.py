"""`example` keeps the contract of a dataset, and its own promises."""

import pytest
from mmgen_example import COLOURS, Example

from mmgen.testing import conformance

test_conforms = conformance("dataset", Example)


def test_pictures_show_the_colour_of_their_captions():
    data = Example()
    for i in range(0, len(data), 9):
        sample = data[i]
        colour = sample["caption"].split()[0]
        assert [round(float(c), 3) for c in sample["image"].amin((1, 2))] == list(COLOURS[colour])


def test_a_size_that_is_too_small_is_refused():
    with pytest.raises(ValueError, match="at least 16"):
        Example(image_size=8)

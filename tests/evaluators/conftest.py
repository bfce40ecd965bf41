import pytest
import torch


@pytest.fixture
def sample():
    """A sample by its picture and caption; the id is the caption where none is given."""

    def make(image=None, caption="", id="", **attributes):
        image = torch.zeros(3, 8, 8) if image is None else image
        return {"image": image, "caption": caption, "id": id or caption, "attributes": attributes}

    return make


@pytest.fixture
def number():
    """One finding of several, by its name."""

    def find(findings, name):
        (found,) = [n for n in findings.numbers if n.name == name]
        return found

    return find

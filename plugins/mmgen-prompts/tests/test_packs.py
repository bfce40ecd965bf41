"""The packs hold what was published: their sizes, their order, their spelling."""

import re
from collections import Counter
from importlib.metadata import distribution
from pathlib import Path

import pytest

from mmgen.data.prompts import prompt_names, read_prompts

# Classes and templates of each dataset, from the table of the published lists.
PUBLISHED = {
    "birdsnap": (500, 1), "cifar10": (10, 18), "cifar100": (100, 18), "clevr_counts": (8, 1), "caltech101": (102, 34),
    "country211": (211, 5), "dtd": (47, 8), "eurosat": (10, 3), "fgvc_aircraft": (100, 2), "fer2013": (7, 6),
    "flowers102": (102, 1), "food101": (101, 1), "gtsrb": (43, 3), "hateful_memes": (2, 1), "kitti": (4, 1),
    "kinetics700": (700, 28), "mnist": (10, 1), "oxford_pets": (37, 1), "voc2007": (20, 1), "patch_camelyon": (2, 1),
    "resisc45": (45, 18), "sst2": (2, 1), "stl10": (10, 2), "sun397": (397, 2), "stanford_cars": (196, 8),
    "ucf101": (101, 48), "imagenet": (1000, 80), "imagenet_7": (1000, 7),
}  # fmt: skip
README = Path(__file__).parents[1] / "README.md"


def test_every_dataset_of_the_table_has_a_pack():
    assert len(PUBLISHED) == 26 + 2
    assert set(PUBLISHED) <= set(prompt_names())


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_pack_has_the_published_size(name):
    pack = read_prompts(name)
    assert (len(pack.labels), len(pack.templates)) == PUBLISHED[name]
    assert len(set(pack.templates)) == len(pack.templates)
    names = [alternative for names in pack.labels.values() for alternative in names]
    assert all(alternative == alternative.strip() for alternative in names)
    twice = {alternative for alternative, count in Counter(names).items() if count > 1}
    assert twice == ({"missile", "sunglasses"} if name.startswith("imagenet") else set())
    assert "openai/CLIP" in pack.source
    assert "MIT" in pack.source


def test_the_readme_has_the_same_table():
    rows = re.findall(r"^\| `(\w+)` \| ([\d,]+) \| (\d+) \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name: (int(classes.replace(",", "")), int(templates)) for name, classes, templates in rows} == PUBLISHED


@pytest.mark.parametrize(
    ("name", "first", "last", "template"),
    [
        ("birdsnap", "Acadian Flycatcher", "Zone tailed Hawk", "a photo of a {}, a type of bird."),
        ("cifar100", "apple", "worm", "a photo of the big {}."),
        ("clevr_counts", "10", "9", "a photo of {} objects."),
        ("eurosat", "forest", "highway or road", "a centered satellite photo of the {}."),
        ("gtsrb", "red and white circle 20 kph speed limit",
         "white circle with gray strike bar indicating no passing for trucks has ended",
         'a close up photo of a "{}" traffic sign.'),
        ("kinetics700", "abseiling", "zumba", "a demonstration of a person practicing {}."),
        ("kitti", "a photo i took of a car on my left or right side.", "a photo i took with no car.", "{}"),
        ("mnist", "0", "9", 'a photo of the number: "{}".'),
        ("patch_camelyon", "lymph node", "lymph node containing metastatic tumor tissue", "this is a photo of {}"),
        ("resisc45", "airplane", "wetland", "aerial view of the {}."),
        ("stanford_cars", "AM General Hummer SUV 2000", "smart fortwo Convertible 2012", "a photo of my old {}."),
        ("ucf101", "Apply Eye Makeup", "Yo Yo", "a demonstration of the person practicing {}."),
        ("imagenet", "tench", "toilet paper", "a tattoo of the {}."),
        ("imagenet_7", "tench", "toilet paper", "a photo of the small {}."),
    ],
)  # fmt: skip
def test_order_and_spelling_are_the_published(name, first, last, template):
    pack = read_prompts(name)
    assert next(iter(pack.labels)) == first
    assert list(pack.labels)[-1] == last
    assert pack.templates[-1] == template


def test_a_class_may_have_several_names():
    labels = read_prompts("fer2013").labels
    assert labels["surprised"] == ("surprised", "shocked", "spooked")
    assert [len(names) for names in labels.values()] == [1, 1, 1, 2, 2, 3, 2]


def test_a_name_that_two_classes_have_is_shown_with_the_number_of_the_later():
    labels = list(read_prompts("imagenet").labels.items())
    assert labels[744] == ("missile (class 744)", ("missile",))
    assert ("missile", ("missile",)) in labels[:744]


def test_the_licence_of_the_lists_is_carried():
    assert "Copyright (c) 2021 OpenAI" in (README.parent / "LICENSE").read_text()
    assert distribution("mmgen-prompts").metadata["License-Expression"] == "MIT"

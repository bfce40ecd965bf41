import pytest
import torch

from mmgen.evaluators.families import guesses
from mmgen.evaluators.gallery import Gallery
from mmgen.evaluators.nearest_picture import NearestPicture
from mmgen.protocols import Evidence, Setting

TONES = ["light", "medium-light", "medium", "medium-dark", "dark"]


def flat(*levels):
    """A picture of one grey each."""
    return torch.tensor(levels)[:, None, None, None].expand(-1, 3, 8, 8).clone()


def judge(evaluator, setting, samples, drawings):
    evaluator.begin(setting)
    for i in range(len(samples)):  # in chunks of one
        evaluator.update(Evidence(samples[i : i + 1], samples[i]["image"][None], drawings=drawings[i : i + 1]))
    return evaluator.compute()


# --- the gallery ---


def test_distances_are_mean_squared_errors():
    torch.manual_seed(0)
    images, asked = torch.rand(1500, 3, 4, 4), torch.rand(7, 3, 4, 4)
    expected = (asked[:, None] - images[None]).square().flatten(2).mean(2)
    assert torch.allclose(Gallery(images, list(map(str, range(1500)))).distances(asked).float(), expected, atol=1e-6)


def test_pictures_with_equal_pixels_are_one():
    gallery = Gallery(flat(0.0, 0.5, 0.0, 1.0), ["a", "b", "c", "d"])
    assert len(gallery) == 3
    assert gallery.ids == ["a", "b", "d"]
    assert gallery.places(["a", "c", "d"]).tolist() == [0, 0, 2]
    assert gallery.ranks(flat(0.1), gallery.places(["c"])).tolist() == [1]


def test_ranks_and_ties():
    gallery = Gallery(flat(0.0, 0.5, 1.0), ["a", "b", "c"])
    asked = flat(0.1, 0.1, 0.1, 0.25, 0.25)
    truth = gallery.places(["a", "b", "c", "a", "b"])
    assert gallery.ranks(asked, truth).tolist() == [1, 2, 3, 2, 2], "a draw of two counts against each"
    assert gallery.nearest(asked).tolist()[:3] == [0, 0, 0]
    assert gallery.ranks(flat(torch.nan), truth[:1]).tolist() == [3]


# --- the evaluator ---


@pytest.fixture
def world(sample):
    """Two people in five greys, "dark" the darkest, and one thing. Ann's "medium" and Bob's "light" are held out."""
    greys = [0.9, 0.7, 0.52, 0.3, 0.1]
    marks = torch.zeros(11, 3, 8, 8)
    marks[5:10, 0, :4] = 0.08  # Bob is a little redder
    images = torch.cat([flat(*greys), flat(*greys), flat(0.0)]) + marks
    attributes = [{"name": who, "tone": tone} for who in ("Ann", "Bob") for tone in TONES] + [{"name": "bus"}]
    ids = [f"{a['name']}-{a.get('tone', '')}" for a in attributes]
    setting = Setting(
        "pairs",
        all_images=images,
        all_ids=ids,
        all_attributes=attributes,
        train_positions=[i for i in range(11) if i not in (2, 5)],
        classes={"tone": TONES},
    )
    samples = [sample(images[i], caption=ids[i], id=ids[i], **attributes[i]) for i in (2, 5)]
    return setting, samples


def test_the_best_drawing_is_judged(world, number):
    """The first drawings: Ann's right, Bob's nearest to Ann's light one. The second ones: both right."""
    setting, samples = world
    drawings = torch.stack([samples[0]["image"], samples[1]["image"]])[:, None].repeat(1, 2, 1, 1, 1)
    drawings[1, 0] = setting.all_images[0] + 0.01
    findings = judge(NearestPicture(drawings=2), setting, samples, drawings)
    share, rank = number(findings, "nearest_picture/share"), number(findings, "nearest_picture/mean_rank")
    assert (share.value, share.n, share.chance) == (0.5, 2, pytest.approx(1 / 11))
    assert rank.value == 1.5
    assert number(findings, "nearest_picture/share_unranked").value == 0.75
    (rows,) = findings.tables.values()
    assert rows == [
        {"caption": "Bob-light", "rank of the right picture": 2, "nearest": "Ann-light"},
        {"caption": "Ann-medium", "rank of the right picture": 1, "nearest": "Ann-medium"},
    ]
    (picture,) = findings.pictures.values()
    assert torch.equal(picture[:, 2:10, 2:10], drawings[1, 0]), "drawn"
    assert torch.equal(picture[:, 12:20, 2:10], samples[1]["image"]), "right"
    assert torch.equal(picture[:, 22:30, 2:10], setting.all_images[0]), "nearest"


def test_baselines(world, number):
    """Greys of Ann's trained four: mean 0.5, nearest to her 0.52; medium-light and medium-dark make 0.5 too. Bob's
    light is 0.9: the mean of 0.7, 0.52, 0.3, 0.1 is 0.405; the line through 0.7 and 0.52 goes on to 0.88."""
    setting, samples = world
    evaluator = NearestPicture(drawings=1, centres=9)
    findings = judge(evaluator, setting, samples, torch.stack([s["image"] for s in samples])[:, None])
    values = {n.name: n.value for n in findings.numbers}
    assert values["nearest_picture/copied"] == 0
    assert values["nearest_picture/mean"] == 0.5
    assert values["nearest_picture/interpolated"] == 1
    assert "nearest_picture/share_unranked" not in values
    for name in ("copied", "mean", "interpolated", "kmeans"):
        found = number(findings, f"nearest_picture/{name}")
        assert found.n == 2
        assert found.note.startswith("baseline: ")


@pytest.mark.parametrize(("trained", "expected"), [(range(11), 1.0), ([10], 0.0)], ids=["all", "the black one"])
def test_k_means_says_what_it_was_fitted_on(world, number, trained, expected):
    setting, samples = world
    setting.train_positions = list(trained)
    findings = judge(NearestPicture(drawings=1), setting, samples, torch.stack([s["image"] for s in samples])[:, None])
    assert number(findings, "nearest_picture/kmeans").value == expected


@pytest.mark.parametrize(
    ("trained", "wanted", "expected"),
    [
        # tone to grey; what is copied, the mean, the line's picture (None: no two pictures to draw it through)
        ({"light": 0.9, "medium": 0.6, "dark": 0.1}, "medium-light", (0.9, 1.6 / 3, 0.75)),
        ({"light": 0.9, "medium-dark": 0.3}, "medium", (0.3, 0.6, 0.5)),  # two thirds of the way
        ({"medium-light": 0.7, "medium": 0.6, "dark": 0.1}, "light", (0.7, 1.4 / 3, 0.8)),
        ({"light": 0.9, "medium-light": 0.8, "medium": 0.3}, "dark", (0.3, 2.0 / 3, 0.0)),  # -0.7 is black
        (
            {"light": 0.9, "medium-light": 0.8, "dark": 0.2},
            "medium",
            (0.8, 1.9 / 3, 0.6),
        ),  # both sides, not the nearest two
        ({"medium": 0.4}, "dark", (0.4, 0.4, None)),
        ({}, "dark", (None, None, None)),
    ],
)
def test_guesses_from_the_family(sample, trained, wanted, expected):
    others = [("Bob", tone, 0.25) for tone in TONES]
    rows = [("Ann", tone, grey) for tone, grey in trained.items()] + others + [("Ann", wanted, 0.99)]
    setting = Setting(
        "pairs",
        all_images=flat(*[grey for _, _, grey in rows]),
        all_ids=[str(i) for i in range(len(rows))],
        all_attributes=[{"name": name, "tone": tone} for name, tone, _ in rows] + [{"name": "Ann"}],
        train_positions=list(range(len(rows) - 1)),
        classes={"tone": TONES},
    )
    bus, ann = sample(id="bus", name="bus"), sample(id="ann", name="Ann", tone=wanted)
    made = guesses(setting, [bus, ann], "name", "tone")
    for name, grey in zip(("copied", "mean", "interpolated"), expected, strict=True):
        pictures = made[name][1]
        assert list(pictures) == ([] if grey is None else [1])
        if grey is not None:
            assert torch.allclose(pictures[1], torch.tensor(grey), atol=1e-6)


def test_without_families_there_is_the_share_alone(world, number):
    setting, samples = world
    drawings = torch.stack([s["image"] for s in samples])[:, None]
    plain = [{**s, "attributes": {}} for s in samples]
    findings = judge(NearestPicture(drawings=1, patch=3), setting, plain, drawings)
    assert [n.name for n in findings.numbers] == ["nearest_picture/share", "nearest_picture/mean_rank"]
    setting.all_attributes = []
    assert number(judge(NearestPicture(drawings=1), setting, samples, drawings), "nearest_picture/share").value == 1


def test_what_it_asks_for():
    needs = NearestPicture(drawings=5, max_pictures=9, split="x").needs
    assert (needs.drawings, needs.max_pictures, needs.split, needs.all_pictures) == (5, 9, "x", True)
    for name in ("drawings", "centres", "patch"):
        with pytest.raises(ValueError, match=f"{name} is 0"):
            NearestPicture(**{name: 0})

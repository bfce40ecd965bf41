import pytest
import torch

from mmgen.evaluators.redraw import Redraw
from mmgen.protocols import Evidence, Setting


@pytest.fixture
def world(sample):
    """Four pictures of 8×8 pixels, an upper and a lower grey each. Two share their upper half, so that it alone does
    not tell them apart."""
    greys = [(0.1, 0.2), (0.1, 0.6), (0.5, 0.3), (0.8, 0.9)]
    images = torch.stack([torch.full((3, 8, 8), upper) for upper, _ in greys])
    for image, (_, lower) in zip(images, greys, strict=True):
        image[:, 4:] = lower
    ids = list("abcd")
    return Setting("pairs", all_images=images, all_ids=ids), [
        sample(images[i], caption=id, id=id) for i, id in enumerate(ids)
    ]


def judge(evaluator, setting, samples, drawn, redrawn, reconstructions):
    evaluator.begin(setting)
    images = torch.stack([sample["image"] for sample in samples])
    for i in range(len(samples)):  # in chunks of one
        part = slice(i, i + 1)
        evaluator.update(
            Evidence(
                samples[part],
                images[part],
                reconstructions=reconstructions[part],
                drawings=drawn[part],
                redrawings=redrawn[part],
            )
        )
    return evaluator.compute()


def test_the_same_pictures_redrawn_and_drawn(world, number):
    """Redrawn a, b, c are right; drawn c, d are. Only the best of two counts."""
    setting, samples = world
    images, wrong = setting.all_images, setting.all_images.roll(1, 0)
    best = {"redrawn": [True, True, True, False], "drawn": [False, False, True, True]}
    made = {
        name: torch.stack(
            [torch.stack([images[i] if right else wrong[i], images[i]]) for i, right in enumerate(rights)]
        )
        for name, rights in best.items()
    }
    findings = judge(Redraw(drawings=2), setting, samples, made["drawn"], made["redrawn"], images)
    share, sample, gain = (number(findings, f"redraw/{name}") for name in ("share", "sample", "gain"))
    assert (share.value, share.n, share.chance, share.unit) == (0.75, 4, 0.25, "%")
    assert (sample.value, sample.n, sample.chance) == (0.5, 4, 0.25)
    assert (gain.value, gain.n, gain.unit) == (25.0, 4, "points")
    assert "2 are right only with the kept part, 1 only without" in gain.note
    assert "50% above kept, the best of 2 drawings" in share.note
    (picture,) = findings.pictures.values()
    rows = [picture[:, 2 + 10 * row : 10 + 10 * row, 2:10] for row in range(4)]
    assert torch.equal(rows[0], images[0])
    assert torch.equal(rows[1][:, :4], images[0][:, :4])
    assert (rows[1][:, 4:] == 1).all()
    assert torch.equal(rows[2], made["redrawn"][0, 0])
    assert torch.equal(rows[3], made["drawn"][0, 0])


def test_what_the_kept_part_reaches_alone_and_the_most_there_is(world, number):
    """With white below, a and b are nearest to b (0.16 below, nothing above), c to d (0.09 and 0.01), d to itself. Then
    the reconstructions of a and b are one another's, which have the same upper half."""
    setting, samples = world
    images = setting.all_images
    drawn = images[:, None]
    plain = judge(Redraw(drawings=1), setting, samples, drawn, drawn, images)
    assert (number(plain, "redraw/kept_alone").value, number(plain, "redraw/tokenizer").value) == (0.5, 1)
    swapped = judge(Redraw(drawings=1), setting, samples, drawn, drawn, images[[1, 0, 2, 3]])
    assert (number(swapped, "redraw/kept_alone").value, number(swapped, "redraw/tokenizer").value) == (0.5, 0.5)


def test_what_it_asks_for():
    needs = Redraw(drawings=5, max_pictures=9, split="x", row=0.25, column=0.5).needs
    assert (needs.drawings, needs.redrawings, needs.redrawn_from) == (5, 5, (0.25, 0.5))
    assert (needs.max_pictures, needs.split, needs.all_pictures, needs.reconstructions) == (9, "x", True, True)
    with pytest.raises(ValueError, match="drawings is 0"):
        Redraw(drawings=0)
    for name in ("row", "column"):
        with pytest.raises(ValueError, match=f"{name} is 1"):
            Redraw(**{name: 1.0})


def test_a_corner_is_kept_at_the_left_and_above(world, number):
    setting, samples = world
    images = setting.all_images
    evaluator = Redraw(drawings=1, row=0.25, column=0.5)
    findings = judge(evaluator, setting, samples, images[:, None], images[:, None], images)
    assert "25% above and 50% at the left kept" in number(findings, "redraw/share").note
    (picture,) = findings.pictures.values()
    kept = picture[:, 12:20, 2:10]
    assert torch.equal(kept[:, :2], images[0][:, :2])
    assert torch.equal(kept[:, 2:, :4], images[0][:, 2:, :4])
    assert (kept[:, 2:, 4:] == 1).all()

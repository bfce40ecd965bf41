import pytest
import torch

from mmgen.data.scenes import Scenes
from mmgen.evaluators.scene_judge import SceneJudge
from mmgen.evaluators.scene_sheets import FRAME, GREEN, RED, failures_of, judged
from mmgen.protocols import Evidence, Setting
from mmgen.scenes.description import Corner, Object, Pair, Thing, Transformation, Word, to_json
from mmgen.scenes.drawing import draw
from mmgen.scenes.layout import draw_layout
from mmgen.scenes.lexicon import thing
from mmgen.scenes.reading import Reading


def picture(scene):
    return draw(scene, draw_layout(scene, lambda n: n // 2), 32)


def judge(evaluator, samples, drawn=None, reconstructions=None, split="some", seed=0, grid=None):
    """`drawn` (B,n,3,32,32), in chunks of one, with codes of this grid."""
    evaluator.begin(Setting(split, seed=seed))
    images = torch.stack([sample["image"] for sample in samples])
    reconstructions = images if reconstructions is None else reconstructions
    for i in range(len(samples)):
        part = slice(i, i + 1)
        evidence = Evidence(samples[part], images[part], reconstructions=reconstructions[part])
        if grid is not None:
            evidence.indices = torch.zeros(1, *grid, dtype=torch.long)
        if drawn is not None:
            evidence.redrawings, evidence.drawings = (
                (drawn[part], None) if evaluator.needs.redrawings else (None, drawn[part])
            )
        evaluator.update(evidence)
    return evaluator.compute()


@pytest.fixture
def objects(sample):
    """Four things, of which blue circles are held out."""
    names = (("circle", "blue"), ("circle", "blue"), ("star", "red"), ("heart", "red"))
    scenes = [Object(Thing(*name)) for name in names]
    return [sample(picture(s), f"a {s.thing.shape}", id=str(i), scene=to_json(s)) for i, s in enumerate(scenes)]


def other(scene):
    return picture(Object(scene))


def test_shares_are_those_of_right_drawings(objects, number):
    """The first of three drawings is right twice, the others once each; one circle is red instead of blue, one star a
    cross and red as it should be."""
    images = [sample["image"] for sample in objects]
    red_circle, red_cross = other(Thing("circle", "red")), other(Thing("cross", "red"))
    drawn = torch.stack(
        [
            torch.stack([images[0], red_circle, red_circle]),
            torch.stack([red_circle, images[1], red_circle]),
            torch.stack([red_cross, red_cross, red_cross]),
            torch.stack([images[3], red_cross, images[3]]),
        ]
    )
    findings = judge(SceneJudge(drawings=3), objects, drawn)
    found = {n.name.partition("/")[2]: (n.value, n.n, n.unit) for n in findings.numbers}
    assert found == {
        "right": (0.5, 4, "%"),
        "right_unranked": (pytest.approx(4 / 12), 4, "%"),
        "gain": (pytest.approx(100 * (6 / 12 - 4 / 12)), 4, "points"),
        "shape": (0.75, 4, "%"),
        "colour": (0.75, 4, "%"),
        "background": (1, 4, "%"),
        "nothing_else": (1, 4, "%"),
        "true": (1, 4, "%"),
        "noisy": (1, 4, "%"),
        "reconstructions": (1, 4, "%"),
    }
    assert number(findings, "scene_judge/gain").note.endswith(f"a perfect ranker's is {100 * (9 / 12 - 4 / 12):.1f}")
    right = number(findings, "scene_judge/right")
    assert "the best of 3 by the encoder, of some" in right.note
    assert "the judge on true pictures 100.0%, noisy ones 100.0%, reconstructions 100.0%" in right.note
    assert findings.depends_on == ("dataset", "tokenizer", "generator", "encoder", "sampler")
    curve = findings.tables["All right, the best of N drawings"]
    assert [row["N"] for row in curve] == [1, 2, 3]
    assert [row["ranked by the encoder %"] for row in curve] == [33.3, 41.7, 50.0]
    assert [row["by a perfect ranker %"] for row in curve] == [33.3, 58.3, 75.0]
    blue, seen = findings.tables["All right, by combination"]
    shares = {"best of 3 %": 50.0, "unranked %": 33.3}
    assert blue == {"combination": thing(Thing("circle", "blue")), **shares, "captions": 2}
    assert (seen["combination"], seen["best of 3 %"], seen["captions"]) == ("object, as trained on", 50.0, 2)
    failures = findings.tables["Not all right, chosen by the seed"]
    assert {(row["caption"], row["read as"], row["what is wrong"]) for row in failures} == {
        ("a circle", "a red circle", "colour"),
        ("a star", "a red cross", "shape"),
    }


def test_failures_stand_in_two_columns_that_a_page_can_show(objects):
    wrong = other(Thing("cross", "green"))
    many = [{**objects[i % 4], "id": f"{i}"} for i in range(24)]
    findings = judge(SceneJudge(drawings=1), many, torch.stack([wrong] * 24)[:, None])
    failures = findings.pictures["Not all right, chosen by the seed"]
    assert max(failures.shape[1:]) <= 2160, "the report embeds no more pixels a side, and halves what is larger"
    alone = failures_of([judged("1", "a cross", wrong, wrong, Reading(None, None, 0.0, (), ()), None, False)])
    assert failures.shape[2] == 2 * alone.shape[2]


def test_the_frames_tell_the_verdicts(objects):
    images = torch.stack([sample["image"] for sample in objects])
    wrong = other(Thing("cross", "green"))
    drawn = torch.stack([images[0], wrong, images[2], wrong])[:, None]
    findings = judge(SceneJudge(drawings=1), objects, drawn)
    sheet = next(iter(findings.pictures.values()))
    corners = [sheet[:, 6 + FRAME // 2, 6 + 134 * i + 64 + FRAME // 2] for i in range(4)]
    greens = sum(torch.allclose(corner, torch.tensor(GREEN)) for corner in corners)
    reds = sum(torch.allclose(corner, torch.tensor(RED)) for corner in corners)
    assert (greens, reds) == (2, 2)
    assert len(findings.pictures) == 2  # the failures too
    assert len(judge(SceneJudge(drawings=1), objects, images[:, None]).pictures) == 1


def test_the_sheet_is_chosen_by_the_seed(objects):
    drawn = torch.stack([other(Thing("cross", "green"))] * 4)[:, None]
    sheets = [
        next(iter(judge(SceneJudge(drawings=1, shown=1), objects, drawn, seed=seed).pictures.values()))
        for seed in (0, 0, *range(1, 8))
    ]
    assert torch.equal(sheets[0], sheets[1])
    assert len({sheet.numpy().tobytes() for sheet in sheets}) > 1


def test_the_judges_own_error_is_measured(objects, number):
    """Two reconstructions are of another colour; without drawings that is all there is."""
    images = torch.stack([sample["image"] for sample in objects])
    spoilt = images.clone()
    spoilt[:2] = images[2]
    findings = judge(SceneJudge(drawings=0, noise=3.0), objects, reconstructions=spoilt)
    assert [n.name for n in findings.numbers] == [f"scene_judge/{c}" for c in ("true", "noisy", "reconstructions")]
    assert number(findings, "scene_judge/reconstructions").value == 0.5
    assert number(findings, "scene_judge/noisy").value < 1
    assert "sigma 3" in number(findings, "scene_judge/noisy").note
    rows = {row["attribute"]: row for row in findings.tables["The judge itself"]}
    assert rows["colour"]["reconstructions %"] == 50.0
    assert rows["all right"]["true pictures %"] == 100.0
    assert findings.depends_on == ("dataset", "tokenizer")


def test_what_the_generator_would_say_after_true_tokens_is_judged_beside(objects, number):
    images = torch.stack([sample["image"] for sample in objects])
    told = images.clone()
    told[0] = images[2]
    evaluator = SceneJudge(drawings=1)
    assert evaluator.needs.teacher_forced
    assert not SceneJudge(drawings=0).needs.teacher_forced
    evaluator.begin(Setting("some"))
    evaluator.update(Evidence(objects, images, reconstructions=images, teacher_forced=told, drawings=images[:, None]))
    findings = evaluator.compute()
    assert number(findings, "scene_judge/teacher_forced").value == 0.75
    assert "the likeliest tokens after true ones 75.0%" in number(findings, "scene_judge/right").note
    (row,) = [r for r in findings.tables["By attribute, and the judge itself"] if r["attribute"] == "shape"]
    assert row["the likeliest tokens after true ones %"] == 75.0


def test_samples_without_a_scene_are_left_out(objects, sample, number):
    emoji = sample(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)), "a cat", name="cat")
    bare = {"image": emoji["image"], "caption": "none", "id": "none"}
    mixed = [emoji, *objects, bare]
    images = torch.stack([each["image"] for each in mixed])
    assert number(judge(SceneJudge(drawings=1), mixed, images[:, None]), "scene_judge/right").n == 4
    findings = judge(SceneJudge(drawings=1), [emoji, bare], images[[0, -1]][:, None])
    assert findings.numbers == []
    assert "no picture of the split has a scene" in findings.stood_aside


def test_what_was_given_is_not_judged(sample, number):
    """Above, and outside of the corner, drawings may show anything."""
    mirrored = Transformation("mirrored", (Thing("star", "red"),))
    image, wrong = picture(mirrored), picture(Transformation("upside down", (Thing("star", "red"),)))
    below, above = wrong.clone(), image.clone()
    below[:, 16:] = image[:, 16:]
    above[:, 16:] = wrong[:, 16:]
    samples = [sample(image, "mirrored", id="a", scene=to_json(mirrored))]
    for drawn, right in ((torch.zeros(3, 16, 32), 1), (wrong[:, :16], 1)):
        whole = torch.cat([drawn, image[:, 16:]], dim=1)
        findings = judge(SceneJudge(drawings=1, redrawn_from=[0.5, 0.0]), samples, whole[None, None])
        assert number(findings, "scene_judge/right").value == right
        assert "50% above given" in number(findings, "scene_judge/right").note
    findings = judge(SceneJudge(drawings=1, redrawn_from=[0.5, 0.0]), samples, above[None, None])
    assert number(findings, "scene_judge/right").value == 0

    corner = Corner(Thing("star", "red"), Thing("heart", "blue"))
    image, wrong = picture(corner), picture(Corner(Thing("cross", "green"), Thing("heart", "blue")))
    samples = [sample(image, "corner", id="a", scene=to_json(corner))]
    for drawn, right in ((wrong, 1), (picture(Corner(Thing("star", "red"), Thing("cross", "blue"))), 0)):
        findings = judge(SceneJudge(drawings=1, redrawn_from=[0.5, 0.5]), samples, drawn[None, None])
        assert number(findings, "scene_judge/right").value == right
        assert number(findings, "scene_judge/shape").n == 1


@pytest.mark.parametrize(("grid", "right"), [(None, 1), ((8, 8), 1), ((4, 4), 0), ((2, 2), 0)])
def test_the_whole_code_that_a_region_begins_in_is_judged(sample, number, grid, right):
    """Redrawn from 0.45 on: from pixel 14 where nothing is known of codes, from 12 of an 8×8 grid, 8 of a 4×4, 0 of a
    2×2. What is wrong here stands above pixel 12."""
    scene = Object(Thing("circle", "red"))
    image = picture(scene)
    wrong = image.clone()
    wrong[:, 8:12] = image.new_tensor([0, 0, 1])[:, None, None]
    samples = [sample(image, "a circle", id="a", scene=to_json(scene))]
    findings = judge(SceneJudge(drawings=1, redrawn_from=[0.45, 0.0]), samples, wrong[None, None], grid=grid)
    assert number(findings, "scene_judge/right").value == right


def test_pictures_whose_redrawings_changed_a_kept_code_are_counted(objects, number):
    images = torch.stack([sample["image"] for sample in objects])
    evaluator = SceneJudge(drawings=2, redrawn_from=[0.5, 0.0])
    evaluator.begin(Setting("some"))
    kept = torch.tensor([[1.0, 1.0], [1.0, 0.97], [1.0, 1.0], [0.0, 1.0]])
    drawn = images[:, None].expand(-1, 2, -1, -1, -1)
    evaluator.update(Evidence(objects, images, reconstructions=images, redrawings=drawn, kept_codes=kept))
    found = number(evaluator.compute(), "scene_judge/kept_codes")
    assert (found.value, found.n) == (0.5, 4)
    right = number(evaluator.compute(), "scene_judge/right_unranked")
    assert (right.value, right.n) == (6 / 8, 4), "what did not keep what it was given is not right"


def test_what_has_to_be_right_can_be_chosen(objects, number):
    drawn = torch.stack([other(Thing("circle", "red"))] * 4)[:, None]
    for attributes, right in ((None, 0), (["shape"], 0.5), (["colour"], 0.5)):
        findings = judge(SceneJudge(drawings=1, attributes=attributes), objects, drawn)
        assert number(findings, "scene_judge/right").value == right


def test_attributes_that_no_scene_of_the_split_has_are_a_reason(objects):
    drawn = torch.stack([sample["image"] for sample in objects])[:, None]
    for attributes in (["relation"], ["shape", "letters"]):
        findings = judge(SceneJudge(drawings=1, attributes=attributes), objects, drawn)
        assert findings.numbers == []
        assert findings.stood_aside == (
            f"no scene of the split has the attribute {attributes[-1]}; they have shape, colour, background"
        )


def test_scenes_with_none_of_the_attributes_are_no_cases(sample, number):
    """Of four words and objects only the words have letters; one of the two is drawn wrong."""
    scenes = [Word("TOP", "red"), Object(Thing("star", "red")), Word("SUN", "blue"), Object(Thing("heart", "red"))]
    samples = [sample(picture(scene), "asked", id=str(i), scene=to_json(scene)) for i, scene in enumerate(scenes)]
    drawn = torch.stack([picture(scene) for scene in (scenes[0], scenes[3], Word("SUM", "blue"), scenes[3])])[:, None]
    findings = judge(SceneJudge(drawings=1, attributes=["letters"]), samples, drawn)
    right = number(findings, "scene_judge/right")
    assert (right.value, right.n) == (0.5, 2)
    assert number(findings, "scene_judge/true").n == 2


def test_what_other_datasets_call_a_scene_is_none(objects, sample, number):
    beach = sample(torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(0)), "a beach", scene="beach")
    images = torch.stack([each["image"] for each in (beach, *objects)])
    assert number(judge(SceneJudge(drawings=1), [beach, *objects], images[:, None]), "scene_judge/right").n == 4


def test_the_gain_of_sixteen_is_told_where_more_are_drawn(objects, number):
    """By the expectation over all sixteens of the twenty: the first is right, its caption's other nineteen are not."""
    images = torch.stack([sample["image"] for sample in objects])
    drawn = images.roll(2, 0)[:, None].repeat(1, 20, 1, 1, 1)
    drawn[:, 0] = images
    drawn[3] = images[3]
    findings = judge(SceneJudge(drawings=20), objects, drawn)
    gain, sixteen = number(findings, "scene_judge/gain"), number(findings, "scene_judge/gain_16")
    assert gain.value == pytest.approx(3 / 4 * 100 * (1 - 1 / 20))
    assert sixteen.value == pytest.approx(3 / 4 * 100 * (16 / 20 - 1 / 20))
    deviation = torch.tensor([75.0, 75.0, 75.0, 0.0]).std().item()
    assert f"one drawing, of a hundred, ± {1.96 * deviation / 2:.1f}; a perfect ranker's is 56.2" in sixteen.note
    few = judge(SceneJudge(drawings=16), objects, drawn[:, :16])
    assert [n.name for n in few.numbers if "gain" in n.name] == ["scene_judge/gain"]


def test_things_of_one_drawing_are_no_independent_cases(sample, number):
    """Of three pairs, and an object, five of seven shapes are right: the interval is that of four drawings."""
    star, heart, cross = Thing("star", "red"), Thing("heart", "blue"), Thing("cross", "red")
    scenes = [*[Pair(star, "above", heart)] * 3, Object(star)]
    samples = [sample(picture(scene), "asked", id=str(i), scene=to_json(scene)) for i, scene in enumerate(scenes)]
    shown = [scenes[0], *[Pair(cross, "above", heart)] * 2, scenes[3]]
    findings = judge(SceneJudge(drawings=1), samples, torch.stack([picture(scene) for scene in shown])[:, None])
    shape, relation = number(findings, "scene_judge/shape"), number(findings, "scene_judge/relation")
    assert (shape.value, shape.n) == (pytest.approx(5 / 7), 4)
    assert "the share of 7 marks, n counts drawings" in shape.note
    assert (relation.value, relation.n) == (1, 3)
    assert "n counts" not in relation.note
    rows = {row["attribute"]: row["n"] for row in findings.tables["By attribute, and the judge itself"]}
    assert (rows["shape"], rows["relation"], rows["all right"]) == (4, 3, 4)


def test_every_kind_of_a_mixed_split(number):
    """As the dataset gives them, all kinds in one split, at 64 pixels."""
    dataset = Scenes(num_samples=1, num_val=21, image_size=64)
    samples = [dataset[i] for i in dataset.splits["val"]]
    images = torch.stack([each["image"] for each in samples])
    findings = judge(SceneJudge(split="val", drawings=2), samples, torch.stack([images, images.flip(0)], dim=1))
    assert number(findings, "scene_judge/right").value == 1
    assert len({row["combination"] for row in findings.tables["All right, by combination"]}) >= 5


def test_what_it_asks_for():
    needs = SceneJudge(split="x", drawings=5, max_pictures=9).needs
    assert (needs.split, needs.drawings, needs.redrawings, needs.max_pictures) == ("x", 5, 0, 9)
    assert (needs.or_val, needs.reconstructions, needs.all_pictures) == (False, True, False)
    needs = SceneJudge(drawings=5, redrawn_from=[0.5, 0.5]).needs
    assert (needs.drawings, needs.redrawings, needs.redrawn_from) == (0, 5, (0.5, 0.5))
    assert SceneJudge(drawings=0, redrawn_from=[0.5, 0.5]).needs.redrawings == 0
    for options, said in (
        ({"drawings": -1}, "drawings=-1"),
        ({"redrawn_from": [0.5]}, "two shares"),
        ({"redrawn_from": [0.5, 1.0]}, "two shares"),
        ({"attributes": []}, "attributes is empty; known are shape"),
        ({"attributes": ["shapes"]}, "attributes has 'shapes'; known are shape"),
    ):
        with pytest.raises(ValueError, match=said):
            SceneJudge(**options)

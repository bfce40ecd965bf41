import dataclasses

import pytest
import torch
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from mmgen.evaluators.zero_shot import ZeroShot, fields, fill
from mmgen.protocols import Evidence, Setting

TONES = ["light", "medium", "dark"]
NAMES = [f"person {i}" for i in range(50)]
TEMPLATE = "{name} with {tone} skin tone"


class Captions:
    """Remembers which captions were encoded; a caption's feature is a row of its own, of 4,000."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.rows: dict[str, int] = {}

    def row(self, caption):
        return self.rows.setdefault(caption, len(self.rows))

    def __call__(self, captions):
        self.seen += captions
        return self.features(captions)

    def features(self, captions):
        features = torch.zeros(len(captions), 4000)
        for i, caption in enumerate(captions):
            features[i, self.row(caption)] = 1
        return features


@pytest.fixture
def captions():
    return Captions()


def setting(captions, classes=None, templates=(TEMPLATE,)):
    return Setting(
        "pairs", classes=classes or {"tone": TONES, "name": NAMES}, templates=templates, encode_captions=captions
    )


def judge(evaluator, where, samples, image_features):
    evaluator.begin(where)
    evaluator.update(Evidence(samples, torch.zeros(len(samples), 3, 8, 8), image_features=image_features))
    return evaluator.compute()


def test_a_perfect_encoder(captions, sample, number):
    samples = [sample(id=str(i), name=NAMES[i], tone=TONES[i % 3]) for i in range(12)]
    truth = captions.features([fill(TEMPLATE, s["attributes"]) for s in samples])
    findings = judge(ZeroShot(), setting(captions), samples, truth)
    tone, name = number(findings, "zero_shot/tone"), number(findings, "zero_shot/name")
    assert (tone.value, tone.n, tone.chance) == (1, 12, pytest.approx(1 / 3))
    assert (name.value, name.n, name.chance) == (1, 12, pytest.approx(1 / 20))
    assert "all 3 classes" in tone.note
    assert "20 random classes of 50" in name.note
    assert findings.tables["Zero-shot: name, mistaken most often"] == []


def test_known_mistakes(captions, sample, number):
    """Of three light ones one is taken for dark, and both dark ones for medium."""
    looks = [("light", "light"), ("light", "light"), ("light", "dark"), ("dark", "medium"), ("dark", "medium")]
    samples = [sample(id=str(i), name=NAMES[i], tone=truth) for i, (truth, _) in enumerate(looks)]
    features = captions.features(
        [fill(TEMPLATE, {"name": NAMES[i], "tone": like}) for i, (_, like) in enumerate(looks)]
    )
    findings = judge(ZeroShot(), setting(captions), samples, features)
    assert number(findings, "zero_shot/tone").value == pytest.approx(2 / 5)
    assert findings.tables["Zero-shot: tone"] == [
        {"class": "light", "pictures": 3, "right, %": 66.7},
        {"class": "medium", "pictures": 0, "right, %": None},
        {"class": "dark", "pictures": 2, "right, %": 0.0},
    ]
    assert findings.tables["Zero-shot: tone, how often taken for which"] == [
        {"class": "light", "light": 2, "medium": 0, "dark": 1},
        {"class": "medium", "light": 0, "medium": 0, "dark": 0},
        {"class": "dark", "light": 0, "medium": 2, "dark": 0},
    ]


def test_mistakes_of_many_classes_are_listed_by_how_often(captions, sample):
    """Person 1 is taken for person 2 twice, person 3 for person 4 once; among all names but for one."""
    evaluator = ZeroShot(choices=49)
    looks = [(1, 2), (1, 2), (3, 4)]
    for seed in range(99):  # a seed under which the names that they look like are among the choices
        evaluator.seed = seed
        samples = [sample(id=str(i), name=NAMES[truth], tone="dark") for i, (truth, _) in enumerate(looks)]
        features = captions.features([fill(TEMPLATE, {"name": NAMES[like], "tone": "dark"}) for _, like in looks])
        findings = judge(evaluator, setting(captions), samples, features)
        if findings.tables["Zero-shot: name, mistaken most often"][0]["times"] == 2:
            break
    commonest = findings.tables["Zero-shot: name, mistaken most often"][0]
    assert commonest == {"class": "person 1", "taken for": "person 2", "times": 2}


def test_only_the_attribute_in_question_varies(captions, sample):
    judge(ZeroShot(choices=4), setting(captions), [sample(id="x", name=NAMES[7], tone="dark")], torch.zeros(1, 4000))
    tones = {f"{NAMES[7]} with {tone} skin tone" for tone in TONES}
    assert tones <= set(captions.seen)
    names = set(captions.seen) - tones
    assert len(names) == 3
    assert all(caption.endswith("with dark skin tone") for caption in names)
    assert len(captions.seen) == len(set(captions.seen)), "each caption is encoded once"


def test_choices_follow_from_the_seed_and_the_sample(captions, sample):
    def asked(id, seed):
        one = Captions()
        judge(ZeroShot(seed=seed), setting(one), [sample(id=id, name=NAMES[7], tone="dark")], torch.zeros(1, 4000))
        return set(one.seen)

    assert asked("x", 0) == asked("x", 0)
    assert asked("\udcff.png", 0) != asked("\udcfe.png", 0), "an id may be the name of any file"
    assert len({frozenset(asked(id, seed)) for id in "xy" for seed in (0, 1)}) == 4


def test_random_features_reach_chance(captions, sample, number):
    """1,000 pictures, chance 1/3 and 1/20: deviations 0.015 and 0.007, four of them allowed."""
    torch.manual_seed(0)
    samples = [sample(id=str(i), name=NAMES[i % 50], tone=TONES[i % 3]) for i in range(1000)]
    findings = judge(ZeroShot(), setting(captions), samples, torch.randn(1000, 4000))
    assert number(findings, "zero_shot/tone").value == pytest.approx(1 / 3, abs=0.06)
    assert number(findings, "zero_shot/name").value == pytest.approx(1 / 20, abs=0.028)


def test_ties_count_against_the_encoder(captions, sample, number):
    findings = judge(ZeroShot(), setting(captions), [sample(id="x", name=NAMES[0], tone="light")], torch.zeros(1, 4000))
    assert number(findings, "zero_shot/tone").value == 0


def test_templates_are_averaged_by_features(captions, sample, number):
    """The picture is like both captions of "b", and a little more like one of "a"."""
    where = setting(captions, {"kind": ["a", "b"]}, ["a {kind}", "one {kind}"])
    looks = captions.features(["a a"]) * 1.1 + captions.features(["a b"]) + captions.features(["one b"])
    samples = [sample(id="x", kind="b")]
    assert number(judge(ZeroShot(), where, samples, looks), "zero_shot/kind").value == 1
    where.templates = ["a {kind}"]
    assert number(judge(ZeroShot(), where, samples, looks), "zero_shot/kind").value == 0


def test_samples_that_no_template_fits_are_left_out(captions, sample, number):
    samples = [sample(id="bus", name="bus stop"), sample(id="p", name=NAMES[0], tone="dark"), sample(id="bare")]
    findings = judge(ZeroShot(), setting(captions), samples, torch.rand(3, 4000))
    assert {n.n for n in findings.numbers} == {1}
    assert number(findings, "zero_shot/tone").n == 1
    nothing = judge(ZeroShot(), setting(captions), samples[:1], torch.rand(1, 4000))
    assert nothing.numbers == []


def test_a_template_can_only_put_in_attributes():
    assert fields("a {x} or {y}") == {"x", "y"}
    assert fill("{{a}} {x}!", {"x": "{y}"}) == "{a} {y}!"
    with pytest.raises(KeyError):
        fill("{x.__class__}", {"x": "b"})


def test_one_choice_is_no_question():
    with pytest.raises(ValueError, match="choices is 1"):
        ZeroShot(choices=1)
    needs = ZeroShot(max_pictures=3).needs
    assert (needs.features, needs.attributes, needs.max_pictures) == (True, True, 3)


def one_attribute(captions, count=40, classes=8, seed=0, spread=1.0, templates=("a {kind}", "one {kind}")):
    """Pictures like the captions of their classes, more or less; their features, and a setting."""
    torch.manual_seed(seed)
    kinds = [f"kind{i}" for i in range(classes)]
    where = setting(captions, {"kind": kinds}, templates)
    truths = [kinds[i * i % classes] for i in range(count)]
    looks = sum(captions.features([fill(t, {"kind": kind}) for kind in truths]) for t in templates)
    return where, truths, looks + spread * torch.randn(count, 4000)


def test_top_1_top_5_per_class_and_confusion_are_those_of_torchmetrics(captions, sample, number):
    where, truths, features = one_attribute(captions)
    samples = [sample(id=str(i), kind=kind) for i, kind in enumerate(truths)]
    findings = judge(ZeroShot(choices=None), where, samples, features)
    kinds = where.classes["kind"]
    texts = torch.stack([captions.features([f"a {k}", f"one {k}"]).mean(0) for k in kinds])
    scores = features @ torch.nn.functional.normalize(texts, dim=-1).T
    labels = torch.tensor([kinds.index(kind) for kind in truths])
    expected = {
        name: multiclass_accuracy(scores, labels, num_classes=8, average=average, top_k=top).item()
        for name, average, top in (("", "micro", 1), ("_top5", "micro", 5))
    }
    assert number(findings, "zero_shot/kind").value == pytest.approx(expected[""])
    assert 0 < expected[""] < expected["_top5"] < 1
    assert number(findings, "zero_shot/kind_top5").value == pytest.approx(expected["_top5"])
    assert number(findings, "zero_shot/kind_top5").chance == pytest.approx(5 / 8)
    own = multiclass_accuracy(scores, labels, num_classes=8, average="none")
    table = findings.tables["Zero-shot: kind"]
    for kind, row, share in zip(kinds, table, own, strict=True):
        assert row["pictures"] == truths.count(kind)
        if kind in truths:
            assert row["right, %"] == pytest.approx(100 * share.item(), abs=0.06)
    mean = sum(own[kinds.index(kind)].item() for kind in set(truths)) / len(set(truths))
    assert number(findings, "zero_shot/kind_mean_per_class").value == pytest.approx(mean)
    matrix = multiclass_confusion_matrix(scores, labels, num_classes=8)
    rows = findings.tables["Zero-shot: kind, how often taken for which"]
    assert [[row[kind] for kind in kinds] for row in rows] == matrix.tolist()


def test_each_caption_alone_stands_beside_the_ensemble(captions, sample, number):
    """The pictures are like the second caption of their class, and the first says nothing about half of them."""
    where = setting(captions, {"kind": ["a", "b"]}, ["first {kind}", "second {kind}"])
    samples = [sample(id=str(i), kind="ab"[i % 2]) for i in range(4)]
    second = captions.features([f"second {s['attributes']['kind']}" for s in samples])
    looks = second + 0.5 * captions.features(["first a"])
    findings = judge(ZeroShot(), where, samples, looks)
    assert number(findings, "zero_shot/kind").value == 1
    assert number(findings, "zero_shot/kind_single").value == 0.5
    assert findings.tables["Zero-shot: kind, by each caption alone"] == [
        {"caption": "first {kind}", "pictures": 4, "right, %": 50.0},
        {"caption": "second {kind}", "pictures": 4, "right, %": 100.0},
    ]


def test_pictures_are_shown_by_chance_and_those_that_were_mistaken(captions, sample):
    """Of 40 pictures 32 are shown, the same however they come in chunks; three are called something else."""
    where = setting(captions, {"kind": ["a", "b"]}, ["a {kind}"])
    samples = [sample(id=str(i), kind="a") for i in range(40)]
    looks = captions.features(["a b" if i in (3, 5, 9) else "a a" for i in range(40)])
    images = torch.linspace(0, 1, 40)[:, None, None, None].expand(40, 3, 8, 8)
    sheets = []
    for chunks in ([slice(0, 40)], [slice(25, 40), slice(0, 25)]):
        evaluator = ZeroShot()
        evaluator.begin(where)
        for chunk in chunks:
            evaluator.update(Evidence(samples[chunk], images[chunk], image_features=looks[chunk]))
        sheets.append(evaluator.compute().pictures)
    titles = ["Zero-shot: kind, 32 pictures chosen by the seed", "Zero-shot: kind, mistaken, chosen by the seed"]
    assert list(sheets[0]) == list(sheets[1]) == titles
    for title in titles:
        assert torch.equal(sheets[0][title], sheets[1][title])
    assert sheets[0][titles[0]].shape[1] > 4 * sheets[0][titles[1]].shape[1]


def test_templates_of_ones_own_stand_in_for_the_datasets(captions, sample):
    evaluator = ZeroShot(choices=3, attributes=["tone"], templates=["a photo of {}", "{tone}, {name}"])
    samples = [sample(id="x", name=NAMES[7], tone="dark")]
    judge(evaluator, setting(captions), samples, torch.zeros(1, 4000))
    assert set(captions.seen) == {f"a photo of {t}" for t in TONES} | {f"{t}, {NAMES[7]}" for t in TONES}
    assert not evaluator.needs.templates


def test_captions_that_all_pictures_share_are_encoded_once(captions, sample):
    where = setting(captions, {"kind": ["a", "b"]}, ["a {kind}"])
    evaluator = ZeroShot(choices=None)
    evaluator.begin(where)
    for i in range(3):
        samples = [sample(id=str(i), kind="a")]
        evaluator.update(Evidence(samples, torch.zeros(1, 3, 8, 8), image_features=torch.zeros(1, 4000)))
    assert captions.seen == ["a a", "a b"]


PACK = ({"tench": ("tench",), "happy fish": ("happy fish", "smiling fish"), "eel": ("eel",)}, ("a {}.", "the {}"))


def named(captions, classes, **options):
    """The captions that a picture of the first class is put among, and what is found."""
    where = dataclasses.replace(setting(captions, {"class": classes}, []), read_prompts=lambda name: PACK)
    features = captions.features(["a tench."])
    found = judge(ZeroShot(prompts="fish", **options), where, [sample_of(classes[0])], features)
    return captions.seen, found


def sample_of(value):
    return {"image": torch.zeros(3, 8, 8), "caption": "", "id": "x", "attributes": {"class": value}}


def test_classes_that_are_drawn_are_encoded_once_for_all_pictures(captions, sample, number):
    """Each picture is put among 20 of 50 of its own; the captions are those of all classes, and no more."""
    asked: list[int] = []

    def classes(wanted):
        asked.append(len(wanted))
        return captions.features(wanted)

    where = dataclasses.replace(setting(captions, {"name": NAMES}, ["a {name}", "the {name}"]), encode_classes=classes)
    evaluator = ZeroShot()
    evaluator.begin(where)
    for i in range(4):
        samples = [sample(id=f"{i}.{j}", name=NAMES[10 * i + j]) for j in range(10)]
        features = captions.features([f"the {s['attributes']['name']}" for s in samples])
        evaluator.update(Evidence(samples, torch.zeros(10, 3, 8, 8), image_features=features))
    assert (asked, captions.seen) == ([100], [])
    assert number(evaluator.compute(), "zero_shot/name").value == 1
    assert number(evaluator.compute(), "zero_shot/name_single").value == 0


def test_no_picture_with_what_templates_name_is_a_reason(captions, sample):
    samples = [sample(id="x", name=NAMES[0])]
    found = judge(ZeroShot(attributes=["tone"]), setting(captions), samples, torch.zeros(1, 4000))
    assert found.stood_aside == "no picture has the attributes that the templates name"


EVERY = {"a tench.", "a happy fish.", "a smiling fish.", "a eel.", "the tench", "the happy fish", "the smiling fish"}


@pytest.mark.parametrize("classes", [["tench", "Happy_fish", "eel"], ["n01440764", "n01443537", "n01484850"]])
def test_a_pack_names_the_classes_that_are_called_so_or_stand_in_its_order(captions, number, classes):
    seen, found = named(captions, classes)
    assert set(seen) == EVERY | {"the eel"}
    assert number(found, "zero_shot/class").value == 1
    assert "by the prompts fish" in number(found, "zero_shot/class").note
    assert [row["class"] for row in found.tables["Zero-shot: class"]] == list(PACK[0])


@pytest.mark.parametrize("classes", [["10", "2", "1"], ["n10", "n02", "n1"]])
def test_classes_that_are_numbers_stand_in_the_order_of_numbers(captions, number, classes):
    """Of folders 1, 2 and 10, which sort as 1, 10, 2."""
    _, found = named(captions, classes)
    assert number(found, "zero_shot/class").value == 0  # the picture of 10 is no tench
    assert f"in the order of their numbers: {classes[2]} is tench" in number(found, "zero_shot/class").note
    assert found.tables["Zero-shot: class"][2] == {"class": "eel", "pictures": 1, "right, %": 0.0}


@pytest.mark.parametrize("classes", [["eins", "zwei", "drei"], ["1", "01", "2"], ["1", "2", "drei"]])
def test_classes_of_other_names_are_never_taken_by_their_place(captions, classes):
    with pytest.raises(ValueError, match=r"has no class .* \(3 of 3 are missing"):
        named(captions, classes)


def test_a_pack_of_templates_alone_is_for_any_attributes(captions, sample):
    where = dataclasses.replace(setting(captions), read_prompts=lambda name: ({}, ("a photo of {}",)))
    samples = [sample(id="x", name=NAMES[7], tone="dark")]
    judge(ZeroShot(prompts="photos", attributes=["tone", "name"]), where, samples, torch.zeros(1, 4000))
    assert set(captions.seen) == {f"a photo of {name}" for name in (*TONES, *NAMES)}


def test_the_names_of_a_class_are_averaged_as_clip_averages_them(captions):
    """A picture between "a smiling fish." and "the eel" is the eel's: the other is a quarter of its class."""
    where = dataclasses.replace(setting(captions, {"class": list(PACK[0])}, []), read_prompts=lambda name: PACK)
    evaluator = ZeroShot(prompts="fish")
    features = captions.features(["a smiling fish."]) + 0.9 * captions.features(["the eel"])
    findings = judge(evaluator, where, [sample_of("eel")], features)
    # by the classes' features of length one: 1/2 of the one's four equal captions, 0.9/√2 of the other's two
    assert findings.tables["Zero-shot: class"][2] == {"class": "eel", "pictures": 1, "right, %": 100.0}
    alone = {row["caption"]: row["right, %"] for row in findings.tables["Zero-shot: class, by each caption alone"]}
    assert alone == {"a {}.": 0.0, "the {}": 100.0}


def test_templates_of_ones_own_stand_in_for_the_packs(captions):
    seen, _ = named(captions, ["tench", "eel"], templates=["{class}?"])
    assert seen == ["tench?", "eel?"]


def test_classes_that_a_pack_has_not_are_refused(captions, sample):
    with pytest.raises(ValueError, match="prompts=fish has no class 'cod' \\(1 of 2 are missing"):
        named(captions, ["eel", "cod"])
    where = dataclasses.replace(setting(captions), read_prompts=lambda name: PACK)
    with pytest.raises(ValueError, match=r"names one attribute's classes"):
        ZeroShot(prompts="fish").begin(where)


@pytest.mark.parametrize("templates", [[], ["a cat"], ["a {"], ["{}", "{}"]])
def test_templates_that_are_none_are_refused(templates):
    with pytest.raises(ValueError, match="template"):
        ZeroShot(templates=templates)


@pytest.mark.parametrize(
    ("evaluator", "classes", "reason"),
    [
        (ZeroShot(), {"kind": ["a"]}, "needs two classes"),
        (ZeroShot(attributes=["size"]), {"kind": ["a", "b"]}, "no picture has the attribute size"),
        (ZeroShot(templates=["{size}"]), {"kind": ["a", "b"]}, "attributes that the templates name"),
    ],
)
def test_what_cannot_be_asked_is_told(captions, sample, evaluator, classes, reason):
    findings = judge(
        evaluator, setting(captions, classes, ["a {kind}"]), [sample(id="x", kind="a")], torch.rand(1, 4000)
    )
    assert findings.numbers == []
    assert reason in findings.stood_aside

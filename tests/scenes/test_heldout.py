"""What is held out: balanced, and every element is still trained on."""

from __future__ import annotations

from collections import Counter

from mmgen.data.scenes import Scenes
from mmgen.scenes.description import (
    COLOURS,
    PARTS,
    SHAPES,
    TRANSFORMATIONS,
    Hybrid,
    Object,
    Thing,
    Transformation,
    Word,
)
from mmgen.scenes.heldout import (
    HELD_OUT_PARTS,
    HELD_OUT_THINGS,
    HELD_OUT_TRANSFORMATIONS,
    broken_rules,
    is_held_out,
)
from mmgen.scenes.sampling import SPLITS, Dice, scene_of
from mmgen.scenes.words import held_out_words, words, words_trained_inside_others


def test_the_tables_are_balanced():
    assert Counter(t.shape for t in HELD_OUT_THINGS) == Counter(SHAPES)
    assert Counter(t.colour for t in HELD_OUT_THINGS) == Counter(list(COLOURS))
    assert Counter(part for part, _ in HELD_OUT_PARTS) == Counter(PARTS)
    assert max(Counter(shape for _, shape in HELD_OUT_PARTS).values()) == 1
    every = len(TRANSFORMATIONS) * len(SHAPES) * len(COLOURS)
    assert 0.09 < len(HELD_OUT_TRANSFORMATIONS) / every < 0.11
    assert max(Counter((t, thing.shape) for t, thing in HELD_OUT_TRANSFORMATIONS).values()) <= 2
    assert max(Counter((t, thing.colour) for t, thing in HELD_OUT_TRANSFORMATIONS).values()) <= 2
    # Not the same things that are never seen at all: those would leave the rule of transformations less to hold.
    assert len({thing for _, thing in HELD_OUT_TRANSFORMATIONS} - set(HELD_OUT_THINGS)) > 20


def test_a_tenth_of_the_words_and_everything_in_them_is_seen_elsewhere():
    long = [word for word in words() if len(word) > 2]
    held = held_out_words()
    assert len(words()) == len(set(words())) == 1526
    assert len(held) == len(long) // 10
    seen = [word for word in words() if word not in held]
    places = {(len(word), i, letter) for word in seen for i, letter in enumerate(word)}
    neighbours = {word[i : i + 2] for word in seen for i in range(len(word) - 1)}
    for word in held:
        assert all((len(word), i, letter) in places for i, letter in enumerate(word))
        assert all(word[i : i + 2] in neighbours for i in range(len(word) - 1))


def test_what_breaks_which_rule():
    held = HELD_OUT_THINGS[0]
    part, shape = HELD_OUT_PARTS[0]
    transformation, thing = next(pair for pair in HELD_OUT_TRANSFORMATIONS if pair[1] not in HELD_OUT_THINGS)
    word = min(held_out_words())
    seen = Thing("circle", "red")
    assert broken_rules(Object(held)) == {"thing"}
    assert broken_rules(Hybrid(Thing(shape, "red"), (part,))) == {"part"}
    assert broken_rules(Word(word, "red")) == {"word"}
    extra = {"colour": "blue"} if transformation == "recoloured" else {}
    assert "transformation" in broken_rules(Transformation(transformation, (thing,), **extra))
    assert not is_held_out(Object(seen))
    # A thing never seen may not come about by recolouring either.
    other = next(colour for colour in COLOURS if colour != held.colour)
    assert "thing" in broken_rules(Transformation("recoloured", (Thing(held.shape, other),), colour=held.colour))


def test_each_split_breaks_its_own_rule_and_no_other():
    assert len(SPLITS) == 14
    assert sum(rule is None for _, rule in SPLITS.values()) == 7
    for kind, rule in SPLITS.values():
        for i in range(50):
            assert broken_rules(scene_of(kind, Dice(f"{kind}/{i}"), rule)) == ({rule} if rule else set())
            assert not is_held_out(scene_of(kind, Dice(f"{kind}/{i}")))


def test_no_word_that_is_asked_for_stands_inside_a_trained_one():
    inside, held = words_trained_inside_others(), held_out_words()
    assert {"QIT", "ZAK"} <= inside < held
    trained = [word for word in words() if word not in held]
    assert not [word for word in held - inside if any(word in other for other in trained)]
    dataset = Scenes(kinds=["word"], num_samples=10, num_val=10, num_heldout=400)
    asked = {dataset.scene(i)[0].letters for i in dataset.splits["heldout_words"]}
    assert asked <= held - inside
    assert len(asked) > 90

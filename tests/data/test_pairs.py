import json
from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.fake_source import FakeSource, assert_same_batch
from vitjax.config import build, describe, from_json, to_json
from vitjax.data.buckets import Buckets
from vitjax.data.loading import Shards, merge_states
from vitjax.data.packing import PackedBatches
from vitjax.data.pairs import PackedPairBatches
from vitjax.data.rows import FirstFit, SubsetFit
from vitjax.data.sampling import BetaDrop, TruncatedNormalSide
from vitjax.data.text import ByteTokenizer
from vitjax.errors import UserError


@dataclass(frozen=True)
class FakePairs:
    """`FakeSource` with a text of its own length per image; every third example has two."""

    images: FakeSource
    longest: int = 30

    @property
    def name(self):
        return "pairs"

    @property
    def labels(self):
        return ()

    def __len__(self):
        return len(self.images)

    def captions(self, index):
        length = 1 + (index * 7919) % self.longest
        texts = tuple((f"{index}{mark}" + "x" * length)[:length] for mark in ":;")
        return texts if index % 3 == 0 else texts[:1]

    def __getitem__(self, index):
        return self.images[index] | {"captions": self.captions(index), "index": index}


IMAGES = PackedBatches(
    None, patch_size=4, length=64, rows=8, max_images=6, resolution=TruncatedNormalSide(8, 32),
    token_drop=BetaDrop(0.2, 0.5), window=6, packers=4, prefetch=0, threads=2,
)  # fmt: skip
BATCHES = PackedPairBatches(
    FakePairs(FakeSource(60)), images=IMAGES, tokenizer=ByteTokenizer(), max_tokens=24, text_length=40, text_rows=24,
    max_texts=5, pairs=32,
)  # fmt: skip


def take(stream, count):
    batches = [next(stream) for _ in range(count)]
    stream.close()
    return batches


def check_pairs(batch, batches, packers=4):
    """Every image and every text is in exactly one pair, and the text is one of the image's own; returns examples."""
    lanes = len(batch["pairs"])
    assert lanes == packers
    slots = {name: batch[name].reshape(lanes, -1) for name in ("example", "image_mask", "text_mask")}
    tokens, segments = (
        batch[f"text_{name}"].reshape(lanes, -1, batches.text_length) for name in ("tokens", "segments")
    )
    places = batch["text_positions"].reshape(lanes, -1, batches.text_length)
    examples = []
    for lane in range(lanes):
        real = batch["pair_mask"][lane]
        assert np.all(real[: real.sum()])
        image_slots, text_slots = batch["pairs"][lane][real].T
        assert not batch["pairs"][lane][~real].any()
        assert sorted(image_slots) == np.flatnonzero(slots["image_mask"][lane]).tolist()
        assert sorted(text_slots) == np.flatnonzero(slots["text_mask"][lane]).tolist()
        for image, text in zip(image_slots, text_slots, strict=True):
            index = int(slots["example"][lane, image])
            row, slot = divmod(int(text), batches.max_texts)
            mine = segments[lane, row] == slot + 1
            assert places[lane, row][mine].tolist() == list(range(mine.sum()))
            captions = [caption[: batches.max_tokens - 1] for caption in batches.source.captions(index)]
            assert tokens[lane, row][mine][-1] == 256
            assert bytes(tokens[lane, row][mine][:-1].tolist()).decode() in captions
            examples.append(index)
        assert not tokens[lane][segments[lane] == 0].any()
    assert "label" not in batch
    return examples


def test_every_pair_finds_its_image_and_its_text():
    seen = set()
    for batch in take(BATCHES.stream(0, Shards(groups=2)), 6):
        seen.update(check_pairs(batch, BATCHES))
        assert batch["text_tokens"].shape == (24, 40)
        assert batch["pairs"].shape == (4, 8, 2)
        assert batch["patches"].shape == (8, 64, 48)
    assert len(seen) > 40


lengths = {"longest": st.integers(2, 60), "text_rows": st.sampled_from([12, 24]), "pairs": st.sampled_from([24, 48])}


@given(size=st.integers(0, 40), policy=st.sampled_from([FirstFit(), SubsetFit()]), **lengths)
@settings(deadline=None, max_examples=12)
def test_an_epoch_has_every_pair_once_whatever_there_is_room_for(size, policy, longest, text_rows, pairs):
    source = FakePairs(FakeSource(size, broken=frozenset({3, 17})), longest)
    images = replace(IMAGES, policy=policy, max_broken=1, max_images=3)
    batches = replace(BATCHES, source=source, images=images, text_rows=text_rows, pairs=pairs, max_tokens=30)
    found = [index for batch in batches.epoch(Shards()) for index in check_pairs(batch, batches)]
    expected = [index for index in range(size) if index not in (3, 17)]
    assert sorted(found) == expected
    parts = [list(batches.epoch(Shards(number, 2))) for number in range(2)]
    assert len(parts[0]) == len(parts[1])
    found = [index for part in parts for batch in part for index in check_pairs(batch, batches, packers=2)]
    assert sorted(found) == expected


@pytest.mark.parametrize("processes", [2, 4])
def test_batches_do_not_depend_on_the_number_of_processes(processes):
    for make in (lambda shards: take(BATCHES.stream(5, shards), 4), lambda shards: list(BATCHES.epoch(shards))):
        expected = make(Shards())
        parts = [make(Shards(index, processes)) for index in range(processes)]
        assert {len(part) for part in parts} == {len(expected)}
        for number, one in enumerate(expected):
            joined = {name: np.concatenate([part[number][name] for part in parts]) for name in one}
            assert_same_batch(one, joined)


def test_going_on_from_any_state_gives_identical_batches():
    batches = replace(BATCHES, images=replace(IMAGES, prefetch=2))
    stream, states, expected = batches.stream(1, Shards()), [], []
    for _ in range(6):
        states.append(json.loads(json.dumps(stream.state())))
        expected.append(next(stream))
    stream.close()
    resumed = BATCHES.stream(1, Shards())
    for cut in (5, 0, 3):
        resumed.restore(states[cut])
        for one in expected[cut:]:
            assert_same_batch(one, next(resumed))
    resumed.close()
    halves = [BATCHES.stream(1, Shards(index, 2)) for index in range(2)]
    for half in halves:
        half.restore(merge_states([states[2]]))
    parts = [take(half, 1)[0] for half in halves]
    assert_same_batch(expected[2], {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def test_training_takes_any_caption_and_evaluation_the_first():
    marks = {}
    for batch in take(BATCHES.stream(0, Shards()), 14):
        for index, text in texts_of(batch, BATCHES):
            marks.setdefault(index, set()).update(set(text) & set(":;"))
    assert {":", ";"} in [marks.get(index) for index in range(0, 60, 3)]
    first = [text for batch in BATCHES.epoch(Shards()) for _, text in texts_of(batch, BATCHES)]
    assert not any(";" in text for text in first)


def texts_of(batch, batches):
    for lane, (found, real) in enumerate(zip(batch["pairs"], batch["pair_mask"], strict=True)):
        example = batch["example"].reshape(len(batch["pairs"]), -1)[lane]
        for image, text in found[real]:
            row, slot = divmod(int(text), batches.max_texts)
            row += lane * batches.text_rows // len(batch["pairs"])
            tokens = batch["text_tokens"][row][batch["text_segments"][row] == slot + 1]
            yield int(example[image]), batches.tokenizer.decode(tokens.tolist())


def test_statistics_say_what_the_batches_hold():
    stream = BATCHES.stream(0, Shards())
    batches = [next(stream) for _ in range(4)]
    found = stream.statistics()
    stream.close()
    tokens = sum(int((batch["text_segments"] > 0).sum()) for batch in batches)
    assert found["pairs"] == sum(int(batch["image_mask"].sum()) for batch in batches)
    assert found["text_tokens"] == tokens
    assert found["text_padding_share"] == pytest.approx(1 - tokens / (4 * 24 * 40))
    assert found["fake_pair_share"] == pytest.approx(1 - found["pairs"] / (4 * 32))
    assert found["cut_texts"] > 0  # of up to 30 letters 23 are kept
    assert found["empty_rows"] == sum(int((~batch["image_mask"].any(axis=1)).sum()) for batch in batches)


def test_images_of_long_rows_have_buckets_of_their_own_group(monkeypatch):
    monkeypatch.setattr("vitjax.data.packing._WHOLE_ROW", 32)  # rows of 64 tokens pass for long ones
    for batches in ([next(iter(BATCHES.epoch(Shards(groups=2))))], take(BATCHES.stream(0, Shards(groups=2)), 5)):
        with_buckets = [batch for batch in batches if "buckets" in batch]
        assert len(with_buckets) >= len(batches) - 1
        assert len({tuple(block.shape for block in batch["buckets"]) for batch in with_buckets}) == 1
        for batch in with_buckets:
            check_pairs(batch, BATCHES)
            listed = []
            for group, segments in enumerate(batch["segments"].reshape(2, -1)):
                slots = [slot[slot < segments.size] for block in batch["buckets"] for slot in block[group]]
                for tokens in filter(len, slots):
                    row = tokens[0] // 64
                    assert np.array_equal(
                        tokens, 64 * row + np.flatnonzero(segments[64 * row :][:64] == segments[tokens[0]])
                    )
                    listed.append((group, tokens[0]))
            assert len(set(listed)) == len(listed) == batch["image_mask"].sum()


def test_batches_that_do_not_fit_their_buckets_are_counted(monkeypatch):
    monkeypatch.setattr("vitjax.data.packing._WHOLE_ROW", 32)
    monkeypatch.setattr("vitjax.data.packing.plan_buckets", lambda groups, **keywords: Buckets((64,), (2,)))
    stream = BATCHES.stream(0, Shards())
    found = [next(stream) for _ in range(3)]
    assert not any("buckets" in batch for batch in found)
    assert stream.statistics()["dense_batches"] == 3
    stream.close()
    assert "buckets" not in take(BATCHES.stream(0, Shards(buckets=False)), 1)[0]


def test_text_rows_that_are_too_few_leave_image_rows_empty_and_lose_nothing():
    tight = replace(BATCHES, source=FakePairs(FakeSource(60), 300), text_rows=12, max_tokens=20)
    stream = tight.stream(0, Shards())
    for batch in [next(stream) for _ in range(5)]:
        check_pairs(batch, tight)
    assert stream.statistics()["empty_rows"] > 0
    stream.close()


def test_a_bundle_holds_the_preparation_and_the_tokenizer():
    bare = replace(BATCHES, tokenizer=ByteTokenizer(((97, 98),))).without_source()
    stored = from_json(to_json(describe(bare)))
    assert build(stored, packages=("vitjax",)) == bare
    assert bare.with_source(BATCHES.source).num_examples == 60
    with pytest.raises(UserError, match="no source was given"):
        bare.stream(0, Shards())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_rows": 0}, r"`text_rows` \(=0\)"),
        ({"max_tokens": 41}, r"`max_tokens` \(=41\) <= `text_length` \(=40\)"),
        ({"max_tokens": 1}, r"2 <= `max_tokens` \(=1\)"),
        ({"pairs": 30}, r"`pairs` \(=30\) is not divisible by `images.packers` \(=4\)"),
        ({"pairs": 20}, r"up to `images.max_images` \(=6\).*room for 5 of the longest texts; raise `pairs`"),
        ({"text_rows": 20}, "room for 5 of the longest texts; raise `text_rows`"),
    ],
)
def test_impossible_settings_are_refused_at_once(change, message):
    with pytest.raises(UserError, match=message):
        replace(BATCHES, **change)


@pytest.mark.parametrize(
    ("batches", "shards", "message"),
    [
        (BATCHES, Shards(groups=8), r"`images.packers` \(=4\) is not divisible by 8.*use packers=8"),
        (BATCHES.with_source(FakePairs(FakeSource(0))), Shards(), "pairs has no examples"),
    ],
)
def test_a_stream_that_cannot_be_shared_out_is_refused(batches, shards, message):
    with pytest.raises(UserError, match=message):
        batches.stream(0, shards)


def test_images_without_captions_are_refused():
    with pytest.raises(UserError, match="fake has no `caption`, only image, label"):
        next(BATCHES.with_source(FakeSource(20)).stream(0, Shards()))

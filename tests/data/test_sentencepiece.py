"""A model of sentencepiece, trained here on the captions of digits; what needs no real one is in test_text.py."""

import functools
import io
from dataclasses import replace

import numpy as np
import pytest
import sentencepiece

from tests.data.test_pairs import BATCHES
from vitjax.config import build, describe, from_json, to_json
from vitjax.data.digits import DigitCaptions
from vitjax.data.loading import Shards
from vitjax.data.text import SentencePieceTokenizer, Tokenizer, encode_text
from vitjax.errors import UserError

SOURCE = DigitCaptions("train", num_scenes=40, sides=(32, 40), digit_sides=(12, 20))


@functools.cache
def captions() -> tuple[str, ...]:
    return tuple(text for number in range(len(SOURCE)) for text in SOURCE.captions(number))


def train(**settings) -> bytes:
    """A model file's content."""
    written = io.BytesIO()
    settings = {"vocab_size": 80, "model_type": "bpe", "minloglevel": 2, "num_threads": 1} | settings
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(captions()), model_writer=written, **settings)
    return written.getvalue()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("sentencepiece") / "digits.model"
    path.write_bytes(train())
    return SentencePieceTokenizer(str(path)).pinned()


def test_captions_come_back_from_fewer_tokens(tokenizer):
    assert isinstance(tokenizer, Tokenizer)
    assert (tokenizer.vocabulary_size, tokenizer.end) == (80, 2)
    for text in captions():
        ids = tokenizer.encode(text)
        assert tokenizer.end not in ids
        assert all(0 <= number < tokenizer.vocabulary_size for number in ids)
        assert 0 < len(ids) < len(text)
        assert tokenizer.decode([*ids, tokenizer.end, 5]) == text
    assert sum(len(tokenizer.encode(text)) for text in captions()) < sum(map(len, captions())) / 2
    assert len({tuple(tokenizer.encode(text)) for text in captions()}) == len(set(captions()))


def test_what_the_model_does_not_know_becomes_one_token_and_the_rest_stays(tokenizer):
    unknown = tokenizer.encode("\u65e5\u672c seven")
    assert unknown.count(0) == 1
    assert [number for number in unknown if number][-len(tokenizer.encode("seven")) :] == tokenizer.encode("seven")
    assert tokenizer.decode(unknown).endswith("seven")
    assert tokenizer.decode(tokenizer.encode("  a  seven ")) == "a seven"
    assert tokenizer.end not in tokenizer.encode("a </s> seven")  # written out it is no end
    assert tokenizer.encode("\ud800 seven") == tokenizer.encode("? seven")  # as JSON may have it
    assert encode_text(tokenizer, "", 4)[0].tolist() == [tokenizer.end]


def test_long_captions_are_cut_and_counted(tokenizer):
    longest = 12
    for text in captions():
        whole = tokenizer.encode(text)
        ids, cut = encode_text(tokenizer, text, longest)
        assert ids.dtype == np.int32
        assert cut == (len(whole) + 1 > longest)
        assert ids.tolist() == [*whole[: longest - 1], tokenizer.end]
        assert text.startswith(tokenizer.decode(ids.tolist()))
    batches = replace(BATCHES, source=SOURCE, tokenizer=tokenizer, max_tokens=longest)
    stream = batches.stream(0, Shards())
    found = next(stream)
    counted = stream.statistics()
    stream.close()
    seen = found["example"][found["image_mask"]]
    lengths = np.array([len(tokenizer.encode(SOURCE.captions(number)[0])) + 1 for number in seen.tolist()])
    assert counted["cut_texts"] == np.sum(lengths > longest) > 0
    assert counted["text_tokens"] == np.minimum(lengths, longest).sum()


def test_a_bundle_holds_the_hash_and_another_model_is_refused(tokenizer, tmp_path):
    stored = from_json(to_json(describe(tokenizer)))
    again = build(stored, packages=("vitjax",))
    assert again == tokenizer
    assert again.encode(captions()[0]) == tokenizer.encode(captions()[0])
    (tmp_path / "other.model").write_bytes(train(vocab_size=70))
    with pytest.raises(UserError, match="put the one back"):
        replace(tokenizer, path=str(tmp_path / "other.model")).encode("a")


def test_files_that_are_no_models_or_have_no_end_are_refused(tokenizer, tmp_path):
    path = tmp_path / "wrong.model"
    for data, message in (
        (b"", "no model file of sentencepiece: it is empty"),
        (b"garbage", "no model file of sentencepiece"),
        (train()[:-1], "no model file of sentencepiece"),
        (train(eos_id=-1), "has no end token"),
    ):
        path.write_bytes(data)
        with pytest.raises(UserError, match=message):
            SentencePieceTokenizer(str(path)).encode("a")
    with pytest.raises(UserError, match="id 80, expected 0 to 79"):
        tokenizer.decode([80])

import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitjax.config import build, describe, from_json, to_json
from vitjax.data.text import ByteTokenizer, SentencePieceTokenizer, Tokenizer, encode_text, train_merges
from vitjax.errors import UserError

TEXTS = ("a large seven on the left", "a small seven on the right", "two digits: a one and a seven")
MERGES = train_merges(TEXTS, 40)
TOKENIZER = ByteTokenizer(MERGES)


@given(st.text())
def test_every_text_comes_back(text):
    for tokenizer in (ByteTokenizer(), TOKENIZER):
        ids = tokenizer.encode(text)
        assert tokenizer.end not in ids
        assert all(0 <= number < tokenizer.vocabulary_size for number in ids)
        if text.isprintable() or text.isascii():  # lone surrogates are no characters
            assert tokenizer.decode([*ids, tokenizer.end, 5]) == text


def test_merges_are_the_most_frequent_pairs_and_do_not_depend_on_the_order():
    # "ab" occurs four times, "bc" three; then "ab" with "c" three
    assert train_merges(["abc abc", "abc ab"], 2) == ((97, 98), (257, 99))
    assert train_merges(TEXTS[::-1], 40) == MERGES
    assert train_merges(["xy"], 5) == ()  # nothing occurs twice
    assert ByteTokenizer(((97, 98), (257, 99))).encode("abcab abd") == [258, 257, 32, 257, 100]


def test_merges_shorten_such_texts_and_never_cross_words():
    assert len(TOKENIZER.encode(TEXTS[0])) <= 13 < len(TEXTS[0])
    assert isinstance(TOKENIZER, Tokenizer)
    assert TOKENIZER.vocabulary_size == 257 + len(MERGES)
    assert all(b" " not in piece.lstrip(b" ") for piece in TOKENIZER._pieces)


def test_a_bundle_holds_all_of_it():
    stored = from_json(to_json(describe(TOKENIZER)))
    assert build(stored, packages=("vitjax",)) == TOKENIZER
    TOKENIZER.encode("warm")
    assert pickle.loads(pickle.dumps(TOKENIZER)) == TOKENIZER


def test_texts_end_in_the_end_token_and_are_cut_to_the_longest_length():
    ids, cut = encode_text(ByteTokenizer(), "abc", 4)
    assert (ids.tolist(), cut) == ([97, 98, 99, 256], False)
    assert ids.dtype == np.int32
    ids, cut = encode_text(ByteTokenizer(), "abcd", 4)
    assert (ids.tolist(), cut) == ([97, 98, 99, 256], True)
    assert encode_text(ByteTokenizer(), "", 4)[0].tolist() == [256]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda: ByteTokenizer(((1, 257),)), r"`merges\[0\]` \(=\(1, 257\)\)"),
        (lambda: ByteTokenizer(((1, 256),)), "of bytes"),
        (lambda: TOKENIZER.decode([9999]), "id 9999, expected 0 to"),
        (lambda: train_merges(TEXTS, -1), r"`count` \(=-1\)"),
        (lambda: encode_text(TOKENIZER, None, 8), "NoneType; expected a text"),
    ],
)
def test_what_cannot_be(act, message):
    with pytest.raises(UserError, match=message):
        act()


class Processor:
    """As the package's: letters are pieces, 1 is the end."""

    def __init__(self, model_proto):
        if model_proto != b"a model":
            raise RuntimeError("could not parse ModelProto")

    def vocab_size(self):
        return 32

    def eos_id(self):
        return 1

    def encode(self, text, out_type):
        assert out_type is int
        return [ord(letter) - 90 for letter in text]

    def decode(self, ids):
        return "".join(chr(number + 90) for number in ids)


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", SimpleNamespace(SentencePieceProcessor=Processor))
    (tmp_path / "t5.model").write_bytes(b"a model")
    return tmp_path / "t5.model"


def test_a_model_of_sentencepiece_is_read(model):
    tokenizer = SentencePieceTokenizer(str(model)).pinned()
    assert isinstance(tokenizer, Tokenizer)
    assert (tokenizer.vocabulary_size, tokenizer.end) == (32, 1)
    ids, cut = encode_text(tokenizer, "abc", 3)
    assert (ids.tolist(), cut) == ([7, 8, 1], True)
    assert tokenizer.decode(ids.tolist()) == "ab"
    assert pickle.loads(pickle.dumps(tokenizer)) == tokenizer


def test_other_files_than_the_models_own_are_refused(model, monkeypatch):
    pinned = SentencePieceTokenizer(str(model)).pinned()
    model.write_bytes(b"another")
    with pytest.raises(UserError, match="put the one back"):
        pinned.encode("a")
    with pytest.raises(UserError, match="no model file of sentencepiece: could not parse"):
        SentencePieceTokenizer(str(model)).encode("a")
    model.unlink()
    with pytest.raises(UserError, match=r"cannot be read: No such file.*with sha256"):
        pinned.encode("a")
    model.write_bytes(b"a model")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(UserError, match=r'pip install "vitjax\[text\]"'):
        pinned.encode("a")

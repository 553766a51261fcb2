"""Texts as numbers: a byte-level tokenizer of our own, and models of sentencepiece.

A tokenizer has `vocabulary_size`, the id `end`, `encode(text) -> ids` (without `end`) and `decode(ids)`. It is a frozen
dataclass, so that configs and bundles hold all of it.
"""

import functools
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from vitjax.errors import UserError

__all__ = ["ByteTokenizer", "SentencePieceTokenizer", "Tokenizer", "encode_text", "train_merges"]

_BYTES = 256
_WORD = re.compile(rb" ?[^ ]+| +")
"""A word with the space before it; merges stay inside words."""


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids and back."""

    @property
    def vocabulary_size(self) -> int:
        """Ids are 0 ... this - 1."""
        ...

    @property
    def end(self) -> int:
        """The id behind the last of a text."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without `end`."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, up to the first `end`."""
        ...


def encode_text(tokenizer: Tokenizer, text: Any, max_tokens: int) -> tuple[Int[np.ndarray, " n"], bool]:
    """Ids of a text that always ends in `end`, and whether it had to be cut to `max_tokens`.

    Raises:
        UserError: it is no text.
    """
    if not isinstance(text, str):
        raise UserError(f"a caption is {text!r:.60}, a {type(text).__name__}; expected a text")
    ids = tokenizer.encode(text)
    return np.array([*ids[: max_tokens - 1], tokenizer.end], np.int32), len(ids) >= max_tokens


# ---------------------------------------------------------------------------------------------------- bytes


@dataclass(frozen=True)
class ByteTokenizer:
    """Byte pair encoding over UTF-8: no text is unknown, and every text comes back as it was.

    Ids 0 to 255 are bytes, 256 is `end`, and 257 + i stands for what `merges[i]` puts together.
    (Sennrich et al., 2016, arXiv:1508.07909; over bytes as in Radford et al., 2019.)

    Attributes:
        merges: pairs of ids, each made of bytes and earlier merges; in the order in which they were learnt and are
            applied. Without any, a token is a byte.
    """

    merges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        for number, pair in enumerate(self.merges):
            known = _BYTES + 1 + number
            if len(pair) != 2 or any(not 0 <= part < known or part == _BYTES for part in pair):
                raise UserError(
                    f"ByteTokenizer: `merges[{number}]` (={pair}) is a pair of ids of bytes (0 to 255) or of earlier "
                    f"merges (257 to {known - 1})"
                )

    @property
    def vocabulary_size(self) -> int:
        """Bytes, `end`, and merges."""
        return _BYTES + 1 + len(self.merges)

    @property
    def end(self) -> int:
        """The id behind the last of a text."""
        return _BYTES

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without `end`."""
        data = text.encode("utf-8", errors="surrogatepass")
        return [number for word in _WORD.findall(data) for number in self._encode_word(word)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, up to the first `end`; what is no UTF-8 (a text that was cut) becomes a question mark.

        Raises:
            UserError: there is no such id.
        """
        parts = []
        for number in ids:
            if number == _BYTES:
                break
            if not 0 <= number < self.vocabulary_size:
                raise UserError(f"ByteTokenizer: id {number}, expected 0 to {self.vocabulary_size - 1}")
            parts.append(self._pieces[number])
        return b"".join(parts).decode("utf-8", errors="replace")

    @functools.cached_property
    def _pieces(self) -> list[bytes]:
        pieces = [bytes([number]) for number in range(_BYTES)] + [b""]
        for first, second in self.merges:
            pieces.append(pieces[first] + pieces[second])
        return pieces

    @functools.cached_property
    def _numbers(self) -> dict[tuple[int, int], int]:
        return {(first, second): _BYTES + 1 + number for number, (first, second) in enumerate(self.merges)}

    @functools.cached_property
    def _known_words(self) -> dict[bytes, tuple[int, ...]]:
        return {}

    def _rank(self, pair: tuple[int, int]) -> int:
        return self._numbers.get(pair, 2**31)

    def _encode_word(self, word: bytes) -> tuple[int, ...]:
        found = self._known_words.get(word)
        if found is None:
            found = tuple(word)
            while len(found) > 1:
                best = min(itertools.pairwise(found), key=self._rank)
                if best not in self._numbers:
                    break
                found = _merge(found, best, self._numbers[best])
            if len(self._known_words) < 2**16:
                self._known_words[word] = found
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {"merges": self.merges}


def train_merges(texts: Iterable[str], count: int) -> tuple[tuple[int, int], ...]:
    """The merges of a `ByteTokenizer` for such texts: each puts together the pair that then is most frequent.

    Depends on the texts alone, not on their order: among equally frequent pairs the smallest ids win. A pair that
    occurs once is not merged, so there may be fewer than `count`.

    Raises:
        UserError: `count` is negative.
    """
    if count < 0:
        raise UserError(f"train_merges: `count` (={count}) is 0 or more")
    frequency = Counter(word for text in texts for word in _WORD.findall(text.encode("utf-8", errors="surrogatepass")))
    words = {tuple(word): times for word, times in frequency.items()}
    merges: list[tuple[int, int]] = []
    for number in range(count):
        pairs: Counter[tuple[int, int]] = Counter()
        for word, times in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += times
        best = min(pairs, key=lambda pair: (-pairs[pair], pair), default=None)
        if best is None or pairs[best] < 2:
            break
        merges.append(best)
        words = {_merge(word, best, _BYTES + 1 + number): times for word, times in words.items()}
    return tuple(merges)


def _merge(word: tuple[int, ...], pair: tuple[int, int], number: int) -> tuple[int, ...]:
    """`number` in place of each `pair`, from left to right."""
    return tuple(_merged(word, pair, number))


def _merged(word: tuple[int, ...], pair: tuple[int, int], number: int) -> Iterator[int]:
    place = 0
    while place < len(word):
        hit = word[place : place + 2] == pair
        yield number if hit else word[place]
        place += 2 if hit else 1


# ---------------------------------------------------------------------------------------------------- sentencepiece


@dataclass(frozen=True)
class SentencePieceTokenizer:
    """A model file of sentencepiece, such as T5's with 32,000 tokens, which NaViT's paper uses (B.2).

    Unlike a `ByteTokenizer` it does not keep every text: spaces are put in order as the model says, and characters that
    it does not know become one unknown token.

    Needs `pip install "vitjax[text]"`. The file itself is not stored in a bundle; its hash is, so that another one is
    never taken for it.

    Attributes:
        path: of the `.model` file.
        sha256: of the file; `None` takes whatever is there. `pinned()` fills it in.
    """

    path: str
    sha256: str | None = None

    @property
    def vocabulary_size(self) -> int:
        """Pieces of the model."""
        return int(self._processor.vocab_size())

    @property
    def end(self) -> int:
        """The model's end of sentence."""
        return int(self._processor.eos_id())

    def encode(self, text: str) -> list[int]:
        """Ids of a text, without `end`; half of a surrogate pair, which is no character, counts as unknown."""
        text = text.encode("utf-8", errors="replace").decode("utf-8")
        return [int(number) for number in self._processor.encode(text, out_type=int)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, up to the first `end`.

        Raises:
            UserError: there is no such id.
        """
        ids = [int(number) for number in ids]
        ids = ids[: ids.index(self.end)] if self.end in ids else ids
        if wrong := [number for number in ids if not 0 <= number < self.vocabulary_size]:
            raise UserError(f"{self.path}: id {wrong[0]}, expected 0 to {self.vocabulary_size - 1}")
        return str(self._processor.decode(ids))

    def pinned(self) -> "SentencePieceTokenizer":
        """The same with the file's hash."""
        return replace(self, sha256=hashlib.sha256(self._read()).hexdigest())

    def _read(self) -> bytes:
        file = Path(self.path).expanduser()
        try:
            return file.read_bytes()
        except OSError as error:
            known = f" with sha256 {self.sha256}" if self.sha256 else ""
            raise UserError(
                f"{file}: cannot be read: {error.strerror}; expected a model file of sentencepiece{known}"
            ) from error

    @functools.cached_property
    def _processor(self) -> Any:
        data = self._read()
        found = hashlib.sha256(data).hexdigest()
        if self.sha256 not in (None, found):
            raise UserError(
                f"{self.path}: its sha256 is {found}, expected {self.sha256}: another model of sentencepiece, whose "
                "ids would mean other words; put the one back that the model was trained with"
            )
        try:
            import sentencepiece  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise UserError(
                f'{self.path}: reading it needs the package sentencepiece: pip install "vitjax[text]"'
            ) from error
        if not data:  # which sentencepiece takes for no model yet
            raise UserError(f"{self.path}: no model file of sentencepiece: it is empty")
        try:
            processor = sentencepiece.SentencePieceProcessor(model_proto=data)
        except RuntimeError as error:
            raise UserError(f"{self.path}: no model file of sentencepiece: {error}") from error
        if processor.eos_id() < 0:
            raise UserError(f"{self.path}: this model of sentencepiece has no end token (eos), which texts end with")
        return processor

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "sha256": self.sha256}

"""The tokenizer that the program puts into a run's config; `tests/test_configs.py` runs the program itself."""

from pathlib import Path

import pytest

from vitjax.config import build, load_config_file
from vitjax.data.text import ByteTokenizer
from vitjax.errors import UserError
from vitjax.programs.contrastive import with_tokenizer

CONFIG = Path(__file__).parents[2] / "configs" / "navit_contrastive.py"


@pytest.fixture
def config():
    return load_config_file(CONFIG)


def test_merges_are_learnt_from_the_captions_and_written_into_the_config(config):
    found = with_tokenizer(config, merges=30, sample=40)
    tokenizer = build(found.train.tokenizer)
    assert isinstance(tokenizer, ByteTokenizer)
    assert build(found.evaluation.tokenizer) == tokenizer
    assert found.model.vocabulary_size == tokenizer.vocabulary_size == 257 + 30
    assert len(tokenizer.encode("a seven on a light ground")) < 15
    assert with_tokenizer(config, merges=30, sample=40) == found  # a run that is resumed has the same
    assert config.model.vocabulary_size is None
    plain = with_tokenizer(config, merges=0, sample=40)
    assert plain.model.vocabulary_size == 257


@pytest.mark.parametrize(
    ("change", "merges", "message"),
    [
        (lambda config: config.model.update(vocabulary_size=99), 0, "`model.vocabulary_size=99`.*has 257"),
        (lambda config: config.train.tokenizer.update(merges=((97, 98),)), 0, "give both the same"),
        (
            lambda config: [part.tokenizer.update(merges=((97, 98),)) for part in (config.train, config.evaluation)],
            5,
            r"`merges` \(=5\) are for a ByteTokenizer without any",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(config, change, merges, message):
    with config.unlocked():
        change(config)
    with pytest.raises(UserError, match=message):
        with_tokenizer(config, merges=merges, sample=5)


def test_prompts_and_captions_of_the_config_fit_into_its_texts(config):
    """What is cut would be classified by its beginning."""
    found = with_tokenizer(config, merges=config.program.merges, sample=60)
    tokenizer, source = build(found.train.tokenizer), build(found.evaluation.source)
    prompts = [text.replace("{}", word) for text in config.program.templates for word in config.program.words]
    captions = [source.captions(number)[0] for number in range(40)]
    assert max(len(tokenizer.encode(text)) for text in (*prompts, *captions)) < found.train.max_tokens

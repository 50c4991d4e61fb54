"""Tokens are known by what the tokenizer does, and settings of tokens, networks and losses that cannot be are refused with what would be right."""
import numpy as np
import pytest

from arc_jepa.config import ConfigError, load_config
from arc_jepa.jepa import tokens
from arc_jepa.jepa.tokens import CONTAINS, INSIDE, MASK, TOP, WIDTH, TokenSettings, tokenizer_hash
from arc_jepa.train.training import TrainConfig

RELATE = tokens._relate_boxes


def test_settings_come_back_as_they_were():
    assert TokenSettings().model_dump() == {'connectivity': 8, 'background': 0, 'cap': 32, 'kind': 'objects'}
    assert TokenSettings.model_validate(TokenSettings(kind='cells').model_dump()) == TokenSettings(kind='cells')


def last_ones(area, n, cap, slot):
    "Another choice: the last objects instead of the largest."
    slot[1:n + 1] = np.arange(n) - max(n - cap, 0)
    slot[1:n + 1][slot[1:n + 1] < 0] = -1
    return min(n, cap)


def corners(token, labels, wanted, width, top, left, h, w):
    "Another mask: the corner of each tile instead of its centre."
    for i in range(8): token[MASK + i] = sum(1 << j for j in range(8) if labels[(top + i * h // 8) * width + left + j * w // 8] == wanted)


def inside_if_the_box_is_equal(*arguments):
    "The relations as they are, and objects with one box inside each other."
    tokens_of_grid, used, relations = arguments
    RELATE(*arguments)
    for i in range(used):
        for j in range(used):
            if i != j and (tokens_of_grid[i, TOP:WIDTH + 1] == tokens_of_grid[j, TOP:WIDTH + 1]).all(): relations[i, j] |= INSIDE | CONTAINS


@pytest.mark.parametrize('name, other', [('_choose', last_ones), ('_write_mask', corners), ('_relate_neighbours', lambda *rest: None), ('_write_overflow', lambda *rest: None), ('count_holes', lambda *rest: 0), ('_relate_boxes', inside_if_the_box_is_equal)])
def test_the_tokenizer_hash_follows_what_the_code_does(monkeypatch, name, other):
    settings = TokenSettings().model_dump_json()
    hashed = tokens._hash.__wrapped__
    monkeypatch.setattr(tokens, '_tokenize', tokens._tokenize.py_func)
    assert hashed(settings) == tokenizer_hash(), 'interpreted it does the same'
    monkeypatch.setattr(tokens, name, other)
    assert hashed(settings) != tokenizer_hash()


def test_the_tokenizer_hash_follows_the_statistics(monkeypatch):
    "Shards hold them beside the tokens, and a rule encoder was trained on them."
    settings, before = TokenSettings().model_dump_json(), tokens.pair_statistics
    assert tokens._hash.__wrapped__(settings) == tokenizer_hash()
    def without_the_commonest_colour(*arguments):
        table = before(*arguments)
        table[:, 78] = 0
        return table
    monkeypatch.setattr(tokens, 'pair_statistics', without_the_commonest_colour)
    assert tokens._hash.__wrapped__(settings) != tokenizer_hash()


def refused(*overrides):
    "What the config says to these settings."
    with pytest.raises(ConfigError) as wrong: load_config(TrainConfig, 'jepa_tiny', list(overrides))
    return str(wrong.value)


@pytest.mark.parametrize('override, right', [('tokens.cap=255', '254'), ('tokens.cap=0', '1'), ('tokens.connectivity=6', '4 or 8'), ('tokens.background=10', '9'), ('network.width=0', '1'), ('network.heads=-1', '1'), ('network.layers=0', '1'),
                                             ('network.heads=5', 'width=100'), ('loss.temperature=0.5', 'temperature_min <= temperature <= temperature_max'), ('loss.temperature_min=0.4', 'temperature_min=0.4')])
def test_settings_that_cannot_be_are_refused_with_key_value_and_remedy(override, right):
    key, _, value = override.partition('=')
    said = refused(override)
    assert key in said and value in said and right in said, said


def test_cross_attention_needs_equal_parts():
    said = refused('network.conditioning=cross_attention', 'network.hidden=100')
    assert 'network.hidden=100' in said and 'right would be hidden=104' in said
    assert load_config(TrainConfig, 'jepa_tiny', ['network.hidden=100']).network.hidden == 100, 'without it any width will do'

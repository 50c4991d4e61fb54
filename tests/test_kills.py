"""A run cannot be lost: killed anywhere it ends in the same state and with the same figures, to the last bit."""
import json
import subprocess
import sys

import pytest

from children import ENVIRONMENT, TESTS


@pytest.fixture(scope='module')
def kills():
    "What `killed.py` found, by its mode; one process warms up for all of them."
    done = subprocess.run([sys.executable, str(TESTS/'killed.py'), 'all', '20'], capture_output=True, text=True, env=ENVIRONMENT, timeout=1800)
    assert done.stdout, done.stderr[-3000:]
    return {found['mode']: found for found in map(json.loads, done.stdout.splitlines())}


def test_killed_at_random_steps_it_ends_the_same(kills):
    found = kills['random']
    assert found['killed'] >= 15 and not found['different'], found


def test_killed_at_every_point_of_a_save_it_ends_the_same(kills):
    "Before and after each fsync, rename and removal, and in the middle of each write, of figures, checkpoint, manifest and model."
    found = kills['save']
    assert found['killed'] == found['runs'] == found['points'] > 30 and not found['different'] and not found['lost'], found


def test_killed_at_every_point_of_going_back_it_ends_the_same(kills):
    "The newest checkpoint is damaged and set aside, and the one before is taken."
    found = kills['back']
    assert found['killed'] == found['runs'] == found['points'] > 20 and not found['different'] and not found['lost'], found

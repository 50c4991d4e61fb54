"""The library of programs for ARC-1 training tasks: every program gives every output of its task, and most are a few operations long."""
import numpy as np
import pytest

from arc_jepa.datasets import load_tasks
from arc_jepa.grid import Pair, Task
from arc_jepa.dsl.program import load_library, parse, reproduces, run_on_task

LIBRARY, TASKS = load_library(), {task.id: task for task in load_tasks('arc1/training')}


@pytest.mark.parametrize('name', LIBRARY)
def test_program_gives_every_output(name):
    task = TASKS[name]                                          # a task of another split has no place here
    results = run_on_task(LIBRARY[name], task)
    assert reproduces(LIBRARY[name], task)
    for pair, result in zip(task.demonstrations + task.tests, results, strict=True): assert np.array_equal(result, pair.output), str(LIBRARY[name])


def test_the_language_says_much_in_few_words():
    assert len(LIBRARY) >= 120 and np.median([len(program) for program in LIBRARY.values()]) <= 4
    assert all(parse(str(program)) == program for program in LIBRARY.values())


def test_a_wrong_program_is_seen():
    binary = Task('binary', (Pair([[0, 2]], [[0, 1]]),), (Pair([[2, 0]]),))
    assert not reproduces('where(red)', binary) and reproduces('where(red) | stencil(blue)', binary), 'a mask is no answer, even where it looks like one'
    assert not reproduces('flip_left_right', TASKS['68b16354']) and reproduces('flip_up_down', TASKS['68b16354'])


@pytest.mark.parametrize('text, says', [('68b16354 flip_up_dwn', ':1: column 1: no operation'), ('a1 trim\n\n# no more\na1 peel', ':4: a1 occurs twice'), ('68b16354', ':1: no program after the name 68b16354'), ('  a1 trim\n\t b2 bogus', ':2: column 1: no operation'), ('68b16354 trim | objects8 | trim', ':1: column 19')])
def test_a_broken_library_is_refused_with_its_line(text, says, tmp_path):
    (tmp_path / 'mine.txt').write_text(text)
    with pytest.raises(ValueError, match=says): load_library(tmp_path / 'mine.txt')


def test_a_library_that_does_not_exist():
    with pytest.raises(FileNotFoundError): load_library('no_such_library')

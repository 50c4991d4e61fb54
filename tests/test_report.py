"""The report draws every program that there is, step by step."""
import numpy as np
import pytest

from arc_jepa.dsl.program import parse, run_value, value_html
from arc_jepa.dsl.types import from_grid
from arc_jepa.evaluate.report import _answered_after, steps_html
from arc_jepa.solve.library import Library


def test_every_library_program_is_drawn_step_by_step():
    drawn = [steps_html(str(s.program), s.task.tests[0].input) for s in Library('arc1_training').solved]
    assert len(drawn) > 200 and all(page.count('<figure>') >= 2 for page in drawn)


@pytest.mark.parametrize('shape', [(1, 5), (2, 3), (3, 5)])
def test_a_mask_is_drawn_as_its_cells(shape):
    one, other = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    one[0, 1] = other[0, 0] = 1
    drawn = [value_html(run_value(parse('where(blue)'), from_grid(grid)), 5) for grid in (one, other)]
    assert drawn[0] != drawn[1]


def test_growth_ends_at_all_that_were_solved_guesses_too():
    "What was solved by a guess was answered when the solver ended; the others when the answer was there."
    rows = [{'v': dict(solved=solved, found_after=after, programs_tested=500)} for solved, after in ((True, 20), (True, None), (True, 0), (False, 30), (False, None))]
    assert _answered_after(rows, 'v', True).tolist() == [20, 500, 1] and _answered_after(rows, 'v', False).tolist() == [500, 500]

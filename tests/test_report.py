"""The report draws every program that there is, step by step."""
import numpy as np
import pytest

from arc_jepa.datasets import load_tasks
from arc_jepa.dsl.program import load_library
from arc_jepa.dsl.types import Type
from arc_jepa.evaluate.report import steps_html, value_html


def test_every_library_program_is_drawn_step_by_step():
    tasks = {task.id: task for task in load_tasks('arc1/training')}
    drawn = [steps_html(str(program), tasks[name].tests[0].input) for name, program in load_library().items()]
    assert len(drawn) > 200 and all(page.count('<figure>') >= 2 for page in drawn)


@pytest.mark.parametrize('shape', [(1, 5), (2, 3), (3, 5)])
def test_a_mask_is_drawn_as_its_cells(shape):
    mask = np.zeros(shape, np.uint8)
    mask[0, 1] = 1
    assert value_html(mask, Type.mask, 5) != value_html(np.zeros(shape, np.uint8), Type.mask, 5)

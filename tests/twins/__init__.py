"""Each operation of the language once more in numpy and plain Python, written from its documentation: a second opinion on the compiled kernels.

A grid is a uint8 H×W array, objects and an object are pairs (cells, labels) and a mask is a pair (cells, marks) of H×W arrays, sizes and positions are pairs of ints, booleans are
bool, colours, numbers and directions are ints. `TWINS[name](value, *arguments)`, with the second value of the operations that take one as the last argument, is the result, or
None where the operation does not apply (or another `Status`). A twin need not care how large its result is: whoever compares it knows what a value can hold.

Where the documentation leaves a case open, a line under the name says how the twin decides it. The twins lie in rooms, like the kernels."""
import importlib
import pkgutil

from .shared import TWINS

for _room in pkgutil.iter_modules(__path__): importlib.import_module(f'{__name__}.{_room.name}')

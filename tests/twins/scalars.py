"""Operations that give or take numbers, colours, sizes, positions, directions and booleans."""
import numpy as np

from .shared import TWINS, commonest, main_colour, rarest, twin


# ---------------------------------------------------------------------------------------------------------------------------------------
# Numbers and colours

TWINS.update(
    count=lambda v: int(v[1].max()), count_colours=lambda g: len(set(g[g > 0].tolist())), colour_of=lambda v: main_colour(v[0], v[1] > 0),
    commonest_colour=lambda g, skip_black: commonest(g, skip_black), rarest_colour=lambda g, skip_black: rarest(g, skip_black),
    canvas=lambda colour, k: np.full((k, k), colour), diagonal=lambda n, colour: np.diag(np.full(min(n, 99), colour)))        # more is too large anyway


@twin
def bar(n, colour, k): return None if k and n > k else np.array([[colour] * n + [0] * (k - n)])

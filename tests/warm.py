"""Importing this loads and compiles, in one thread, all that commands and training runs load and compile: for a process that others are forked from (`children`)."""
import matplotlib.pyplot  # noqa: F401
import torch.utils.tensorboard  # noqa: F401

import arc_jepa.commands  # noqa: F401
import arc_jepa.evaluate.ablation  # noqa: F401
import arc_jepa.evaluate.predictions  # noqa: F401
import arc_jepa.train.doctor  # noqa: F401
from killed import warm_up

warm_up()

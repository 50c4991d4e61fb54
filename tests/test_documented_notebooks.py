"""The documented commands that need nothing of what others write: run notebooks, the pilot, the benchmark."""
import pytest

from test_documented_commands import ALONE, run


@pytest.mark.parametrize('command', ALONE)
def test_documented_command_runs(command, tmp_path): run(command, tmp_path, tmp_path)

"""What people see while a command works: bars on terminals of any size, and no long silence."""
import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest


def on_a_terminal(words, rows, columns, timeout=120, **settings):
    "Exit code, and what a command writes to a terminal of that size."
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack('HHHH', rows, columns, 0, 0))
    process = subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, **settings)
    os.close(theirs)
    said = b''
    while True:
        try: part = os.read(ours, 4096)
        except OSError: break           # the other end is closed
        if not part: break
        said += part
    os.close(ours)
    return process.wait(timeout), said.decode(errors='replace')


@pytest.mark.parametrize('rows, columns', [(0, 0), (24, 80)])
def test_a_terminal_that_does_not_know_its_size_shows_the_bar(tmp_path, rows, columns):
    code = 'from arc_jepa.commands import app; app()'
    found, said = on_a_terminal([sys.executable, '-c', code, 'generate', '--config', 'tiny_curriculum', '--output', str(tmp_path)], rows, columns)
    assert found == 0 and '100%' in said and 'generating tasks' in said, said

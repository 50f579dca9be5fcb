"""Words in, tables out: the command line.

`main.py` finds the command and loads its module: `mount.py` (mount, umount, the helper of mount(8)), `inspect.py`
(layers, which, diff), `keep.py` (apply, discard), `doctor.py`, `bench.py`, `completion.py`. `command.py` is what they
share, `target.py` finds the layers of a mount or of an upper, `table.py` lays out tables. Text comes in and goes out
here; below, names are bytes.
"""

"""Lab 0. The directories in layers/ are the layers of a union, 0 on top. What does the union show?

Look at them with `ls -AR layers`, think, and write your answers in the place of None.
"""

# The layer that gives etc/hosts: a number.
LAYER_OF_HOSTS = None

# The names that `ls etc` shows: a list of texts, in any order.
NAMES_IN_ETC = None

# The names that `ls home` shows.
NAMES_IN_HOME = None

# Is usr/share a "file" or a "directory" in the union?
KIND_OF_SHARE = None

# Which layer's whiteout hides etc/motd: a number.
LAYER_THAT_HIDES_MOTD = None

# `cat usr/share/manual`: "ENOTDIR", "ENOENT", or the content of the file.
MANUAL = None

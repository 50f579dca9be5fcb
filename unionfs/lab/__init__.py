"""Labs and quiz: a union filesystem, rebuilt piece by piece by whoever reads it.

stacks.py    small stacks of layers: written down, made on disk, drawn, counted from the smallest up
ladder.py    the labs of docs/labs/: which there are, what a student gets, which hint comes next
child.py     one check of a student's file, in a process of its own
checks.py    what the checks of a lab are written with
grade.py     all checks of a lab: points, time limits, results for people and for Gradescope
mounting.py  a file system of a student, really mounted
kernel.py    what the kernel's overlayfs shows of a stack
quiz.py      questions without an end, answered by the core
"""

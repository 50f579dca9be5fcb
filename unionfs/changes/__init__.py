"""What an upper changes of the layers below it: shown, kept, copied out, completed.

Layers that nobody has mounted, or that are only looked at; the union itself is one floor below. Start with
`difference.py`.
"""

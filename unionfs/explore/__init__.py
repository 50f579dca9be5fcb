"""A union, seen in a browser: its layers as shelves, the merged tree, a lookup step by step, what is asked of it live.

view.py      what the page shows, as JSON: of a union that is mounted, or of its layers
server.py    a small web server on loopback, for whoever has the token
page/        the page itself: no address outside is asked for anything
"""

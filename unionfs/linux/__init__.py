"""The kernel's doors: thin typed system calls, no policy. The only place that uses ctypes.

Everything here raises OSError with the errno of the call and the name it was about.
"""

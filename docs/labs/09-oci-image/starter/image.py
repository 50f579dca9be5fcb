"""Lab 9: an image, made of nothing but tar, JSON and SHA-256.

place/oci-layout               {"imageLayoutVersion": "1.0.0"}
place/index.json               a descriptor of the manifest, with the image's name
place/blobs/sha256/HEX         layers, config, manifest
"""

BASE = {"greeting": b"hello\n", "secret": b"do not show\n", "data/old": b"old\n"}
"""The lower layer: path -> content."""


def make_image(place):
    """Write an OCI layout of the image lab:1 into the empty directory `place`.

    Its lower layer has the files of BASE. The upper one adds the file `motd` with the content b"welcome\\n", deletes
    `secret`, and makes `data` opaque, with one file `data/new` of content b"new\\n". Containers start with the command
    ["/bin/cat", "/motd"] and the variable COLOUR=green.
    """
    raise NotImplementedError("write make_image")

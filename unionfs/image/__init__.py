"""What a container starts from, in OCI's words: references, blobs, layers, manifests, and the store that holds them."""

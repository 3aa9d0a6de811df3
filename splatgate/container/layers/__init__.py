"""An image read from its layers, outside any container: no engine, no shell, no Python of its own.

``images`` opens an image (an archive, an OCI layout, a registry, an engine's export), ``entries``
reads one layer, ``tree`` merges layers as the kernel's overlay does, ``contents`` says what they
hold, ``backend`` answers testinfra.
"""

"""Evidence sources: a recording, a container engine, and this machine's own interpreter."""

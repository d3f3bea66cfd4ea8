"""A project that has nothing to do with images: as one would write it, and with `Training` added."""

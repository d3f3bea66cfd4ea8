"""A stand-in for the package that Colab puts into each machine, as far as a notebook of this series uses it."""

from google.colab import drive, output

__all__ = ["drive", "output"]

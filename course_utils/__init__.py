"""Plumbing for the notebooks, and the finished form of what they teach. One job per module, see README.md."""

from IPython.display import clear_output


def clear(wait=False, output_tags=()):
    """Remove what the running cell has shown."""
    clear_output(wait)

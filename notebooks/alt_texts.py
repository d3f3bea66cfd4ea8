"""What each figure says, noted beside its picture for readers who cannot see it.

`maintain.py run` runs this in the kernel before a notebook. The site takes the alternative texts from there.
"""

from IPython.core import pylabtools

_print_figure = pylabtools.print_figure


def print_figure(figure, *arguments, **options):
    """The picture as Jupyter makes it, and in its metadata the titles of the figure and of its axes."""
    titles = [axis.get_title() for axis in figure.axes]
    said = figure.get_suptitle()
    below = "; ".join(" ".join(one.split()) for one in titles if one)
    alt = f"{said}: {below}" if said and below else said or below
    return _print_figure(figure, *arguments, **options), {"alt": alt}


pylabtools.print_figure = print_figure

"""Where a real browser is."""

import os
import shutil


def find_chromium() -> str | None:
    """Where Chromium or Chrome is: the environment variable CHROMIUM, else what is on the PATH; None if nowhere."""
    names = [os.environ["CHROMIUM"]] if "CHROMIUM" in os.environ else ["chromium", "chromium-browser", "google-chrome"]
    return next(filter(None, map(shutil.which, names)), None)

"""Drive is the folder that COLAB_DRIVE names; without that name, the reader says no when Colab asks.

It is mounted for this machine alone. It has every file at once, which the real Drive does not promise before
`flush_and_unmount`.
"""

import os
import subprocess
from pathlib import Path

from google.colab.errors import MessageError

mounted_at = []


def mount(mountpoint, force_remount=False, timeout_ms=120_000, readonly=False):
    if mounted_at:
        print(f"Drive already mounted at {mountpoint}; to attempt to forcibly remount, call drive.mount(…).")
        return
    if "COLAB_DRIVE" not in os.environ:
        raise MessageError("Error: credential propagation was unsuccessful")
    Path(mountpoint).mkdir(exist_ok=True)
    if any(Path(mountpoint).iterdir()):
        raise ValueError("Mountpoint must not already contain files")
    subprocess.run(["mount", "--bind", os.environ["COLAB_DRIVE"], mountpoint], check=True)
    mounted_at.append(mountpoint)
    print(f"Mounted at {mountpoint}")


def flush_and_unmount(timeout_ms=24 * 60 * 60 * 1000):
    if not mounted_at:
        print("Drive not mounted, so nothing to flush and unmount.")
        return
    subprocess.run(["umount", mounted_at.pop()], check=True)

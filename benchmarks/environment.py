"""How long a fresh environment takes: by make_environment.py, which calls uv, against pip alone.

`make bench-environment` prints the row. Both start from nothing and read no cache, so each downloads everything, some
3 GB. The clock runs until PyTorch and JupyterLab are imported, for pip compiles what it installs and uv leaves that to
the first import. Some minutes, 6 GB of disk at a time, in FOLDER (default: the system's one for temporary files).

Usage: python benchmarks/environment.py [FOLDER]
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WITHOUT_CACHES = {**os.environ, "PIP_NO_CACHE_DIR": "1", "UV_NO_CACHE": "1"}


def seconds(*commands: list) -> float:
    start = time.perf_counter()
    for command in commands:
        subprocess.run(command, cwd=ROOT, env=WITHOUT_CACHES, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(place: str | None) -> None:
    print("| what | against | ratio | bar | met | measured |\n|---|---|---:|---|---|---|", flush=True)
    times = []
    for by_uv in (True, False):
        with tempfile.TemporaryDirectory(dir=place) as folder:
            python = Path(folder, "venv", "Scripts" if os.name == "nt" else "bin", "python")
            pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            make = [sys.executable, ROOT / "make_environment.py", python.parent.parent]
            venv = [sys.executable, "-m", "venv", python.parent.parent]
            way = [make] if by_uv else [venv, [*pip, "-r", "requirements.txt", "-e", "."]]
            installed = seconds(*way)
            times.append((installed, seconds([python, "-c", "import torch, torchvision, jupyterlab.labapp"])))
    (uv, uv_import), (pip, pip_import) = times
    ratio = (uv + uv_import) / (pip + pip_import)
    print(
        f"| a fresh environment, and its first imports | pip alone | {ratio:.2f} | ≤ 0.4 | "
        f"{'yes' if ratio <= 0.4 else '**no**'} | {uv:.0f} + {uv_import:.0f} s, {pip:.0f} + {pip_import:.0f} s |"
    )


if __name__ == "__main__":
    main(*(sys.argv[1:] or [None]))

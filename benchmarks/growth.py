"""What 1,000, 10,000 and 25,000 images cost: fetching them, indexing them, caching their features.

Each number of images has a process of its own, so that its peak of memory is its own. The archive is made of copies of
a few drawn images, 64 x 64 pixels as JPEG, in the real archive's layout, and comes over HTTP from this machine. The
backbone is a small CNN of 2,048 features (8 kB), so that the cache's own cost shows and not the network's.
It prints Markdown; a time that is linear has the same milliseconds an image in each row.
"""

import io
import os
import resource
import subprocess
import sys
import tempfile
import time
import zipfile
from contextlib import redirect_stdout
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from archive_server import serve

from course_utils.data import find_images, load_datasets
from course_utils.freezing import cache_features
from course_utils.models import SMALL_CNN_TRANSFORM, SmallCNN

COUNTS = (1_000, 10_000, 25_000)


def make_archive(path: Path, count: int) -> None:
    pictures = []
    for file in find_images(10, source="drawn"):
        with Image.open(file) as image:
            image.resize((64, 64)).save(jpeg := io.BytesIO(), format="JPEG")
        pictures.append(jpeg.getvalue())
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(count):
            name = f"PetImages/{'Cat' if number < count // 2 else 'Dog'}/{number % (count // 2)}.jpg"
            archive.writestr(name, pictures[number % len(pictures)])


def measure(count: int) -> None:
    steps = {}
    with tempfile.TemporaryDirectory() as place, redirect_stdout(sys.stderr):
        make_archive(Path(place) / "archive.zip", count)
        with serve(Path(place) / "archive.zip") as server:
            os.environ |= {"COURSE_DATA_DIR": place, "COURSE_ARCHIVE_URL": server.url}
            start = time.perf_counter()
            find_images(count // 2, source="photos")
            steps["fetch"] = time.perf_counter() - start
        start = time.perf_counter()
        train, _, _ = load_datasets(SMALL_CNN_TRANSFORM, count // 2, source="photos")
        steps["index"] = time.perf_counter() - start
        start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        cache_features(SmallCNN().features, train, file=Path(place) / "features.pt")
        steps["cache"] = (time.perf_counter() - start) * count / len(train)  # of the training images: 60 %
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cells = [f"{count:,}", *(f"{1000 * seconds / count:.3f}" for seconds in steps.values())]
    print(f"| {' | '.join(cells)} | {before / 1024:,.0f} | {after / 1024:,.0f} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(int(sys.argv[1]))
    else:
        print("\n| images | fetch, ms an image | index, ms an image | feature cache, ms an image | peak memory before "
              "the cache, MB | after it |\n|---:|---:|---:|---:|---:|---:|", flush=True)  # fmt: skip
        for count in COUNTS:
            subprocess.run([sys.executable, __file__, str(count)], check=True)

"""The practice data: cats and dogs, photos or drawn."""

from course_utils.data.archive import CLASSES as CLASSES
from course_utils.data.archive import ArchiveError as ArchiveError
from course_utils.data.archive import ArchiveUnreachable as ArchiveUnreachable
from course_utils.data.archive import fetch_photos as fetch_photos
from course_utils.data.datasets import AUGMENT as AUGMENT
from course_utils.data.datasets import CatsAndDogs as CatsAndDogs
from course_utils.data.datasets import find_images as find_images
from course_utils.data.datasets import load_datasets as load_datasets
from course_utils.data.loaders import EpochSampler as EpochSampler
from course_utils.data.loaders import make_loader as make_loader

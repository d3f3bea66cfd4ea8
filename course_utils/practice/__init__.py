"""Practice that answers back: exercises, questions to guess at, and a quiz for each lesson."""

from course_utils.practice import backbones as backbones
from course_utils.practice import checkpoints as checkpoints
from course_utils.practice import freezing as freezing
from course_utils.practice import interrupted as interrupted
from course_utils.practice import loading as loading
from course_utils.practice import processes as processes
from course_utils.practice import saving as saving
from course_utils.practice import sharing as sharing
from course_utils.practice import transfer as transfer
from course_utils.practice.engine import EXERCISES as EXERCISES
from course_utils.practice.engine import check as check
from course_utils.practice.questions import PREDICTIONS as PREDICTIONS
from course_utils.practice.questions import QUIZZES as QUIZZES
from course_utils.practice.questions import predict as predict
from course_utils.practice.questions import quiz as quiz

LESSONS = {  # the notebooks that they are written into
    "01_saving_models": saving,
    "02_loading_models": loading,
    "03_checkpoints": checkpoints,
    "04_interrupted_trainings": interrupted,
    "05_transfer_learning": transfer,
    "06_freezing_layers": freezing,
    "07_frozen_backbones": backbones,
    "08_sharing_models": sharing,
    "09_more_than_one_process": processes,
}

"""Practice that answers back: exercises, questions to guess at, and a quiz for each lesson."""

from course_utils.practice import backbones as backbones
from course_utils.practice import checkpoints as checkpoints
from course_utils.practice import freezing as freezing
from course_utils.practice import interrupted as interrupted
from course_utils.practice import loading as loading
from course_utils.practice import saving as saving
from course_utils.practice import transfer as transfer
from course_utils.practice.engine import EXERCISES as EXERCISES
from course_utils.practice.engine import check as check
from course_utils.practice.questions import PREDICTIONS as PREDICTIONS
from course_utils.practice.questions import QUIZZES as QUIZZES
from course_utils.practice.questions import predict as predict
from course_utils.practice.questions import quiz as quiz

LESSONS = {
    "01": saving,
    "02": loading,
    "03": checkpoints,
    "04": interrupted,
    "05": transfer,
    "06": freezing,
    "07": backbones,
}

"""python -m course_utils.practice                 what you have done, from the file beside the practice notebooks
python -m course_utils.practice collect FOLDER     for teachers: which mistakes were made in the notebooks of a folder
python -m course_utils.practice capstone [FOLDER]  the project at the end of the series: what to do; judges the folder
"""

import sys
from pathlib import Path

from course_utils.practice import EXERCISES, LESSONS, PREDICTIONS, capstone, progress

if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            places = [Path(), Path("practice"), Path("notebooks/practice")]
            done = next((found for found in map(progress.read, places) if found), [])
            print(progress.listed(done, list(LESSONS), EXERCISES, PREDICTIONS))
        case ["collect", folder]:
            sys.stdout.reconfigure(errors="replace")  # a terminal may know neither × nor a student's file name
            try:
                print(progress.collected(Path(folder), EXERCISES))
            except ValueError as error:
                sys.exit(str(error))
        case ["capstone"]:
            print(capstone.__doc__)
        case ["capstone", folder]:
            sys.exit(capstone.main(folder))
        case _:
            sys.exit(__doc__)

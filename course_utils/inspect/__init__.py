"""What a file of weights or a checkpoint holds, without running anything of it: python -m course_utils.inspect FILE"""

from course_utils.inspect.findings import Findings as Findings
from course_utils.inspect.findings import Unreadable as Unreadable
from course_utils.inspect.findings import report as report
from course_utils.inspect.looking import look as look

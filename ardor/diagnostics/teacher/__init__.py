"""The gate: does a teacher match its record? Minutes of measurement before hours of training.

Clean accuracy and PGD-20 on validation images against the teacher's record; where they are too low, each possible
repair is tried, and the one that restores the accuracy names the cause. docs/concepts/teacher.md explains each finding.
"""

from ardor.diagnostics.teacher.gate import LIMIT as LIMIT
from ardor.diagnostics.teacher.gate import examine_teacher
from ardor.diagnostics.teacher.gate import wants_linear as wants_linear
from ardor.diagnostics.teacher.gate import wants_robust as wants_robust
from ardor.diagnostics.teacher.ranking import rank_teachers, ranking
from ardor.diagnostics.teacher.result import Entropy, TeacherReport, require

__all__ = ["Entropy", "TeacherReport", "examine_teacher", "rank_teachers", "ranking", "require"]

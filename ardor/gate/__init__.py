"""gate: whether a teacher is what it claims to be, in minutes, before hours of training are spent on it.

Clean accuracy and PGD-20 on validation images against the teacher's record; where they are too low, the likely cause,
found by trying the repairs and seeing which brings the accuracy back. docs/gate.md explains each finding.
"""

from ardor.gate.claim import Claim as Claim
from ardor.gate.claim import claim_of as claim_of
from ardor.gate.judge import LIMIT as LIMIT
from ardor.gate.judge import gate as gate
from ardor.gate.judge import wants_robust as wants_robust
from ardor.gate.result import Entropy as Entropy
from ardor.gate.result import Gate as Gate
from ardor.gate.result import require as require

"""Tests for code of one's own: `check_model` for a model, `kill_test` for a training that must survive being killed."""

from torchbasics.testing._contract import CHECKS as CHECKS
from torchbasics.testing._contract import CheckResult as CheckResult
from torchbasics.testing._contract import ContractError as ContractError
from torchbasics.testing._contract import ContractReport as ContractReport
from torchbasics.testing._contract import check_model as check_model
from torchbasics.testing._kill import POINTS as POINTS
from torchbasics.testing._kill import Child as Child
from torchbasics.testing._kill import Kill as Kill
from torchbasics.testing._kill import Outcome as Outcome
from torchbasics.testing._kill import Report as Report
from torchbasics.testing._kill import Train as Train
from torchbasics.testing._kill import digest as digest
from torchbasics.testing._kill import kill_test as kill_test
from torchbasics.testing._kill import run_child as run_child

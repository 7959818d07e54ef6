"""Training: one call to fit a model, one to evaluate it, one to predict with it."""

from torchbasics._meeting import DistributedError as DistributedError
from torchbasics._recipe import EarlyStopping as EarlyStopping
from torchbasics._recipe import Recipe as Recipe
from torchbasics.training._adversarial import Adversarial as Adversarial
from torchbasics.training._callbacks import Callback as Callback
from torchbasics.training._callbacks import State as State
from torchbasics.training._doctor import check as check
from torchbasics.training._evaluate import confusion_matrix as confusion_matrix
from torchbasics.training._evaluate import evaluate as evaluate
from torchbasics.training._evaluate import predict as predict
from torchbasics.training._find_lr import RateSearch as RateSearch
from torchbasics.training._find_lr import find_lr as find_lr
from torchbasics.training._finding import Finding as Finding
from torchbasics.training._finite import NonFiniteError as NonFiniteError
from torchbasics.training._fit import fit as fit
from torchbasics.training._frechet import frechet_distance as frechet_distance
from torchbasics.training._history import History as History
from torchbasics.training._step import Result as Result
from torchbasics.training._step import Step as Step
from torchbasics.training._steps import Supervised as Supervised

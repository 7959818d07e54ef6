"""The models: classes to build on, and the zoo by name.

>>> import torch
>>> get_model("cnn")(torch.zeros(2, 1, 28, 28)).shape
torch.Size([2, 10])
"""

from torchbasics._weights import Weights as Weights
from torchbasics._weights import get_weights as get_weights
from torchbasics._zoo import list_models as list_models
from torchbasics._zoo import register as register

from ._cnn import CNNModel as CNNModel
from ._dcgan import DCGAN as DCGAN
from ._features import features as features
from ._freeze import freeze as freeze
from ._get import get_model as get_model
from ._mlp import MLP as MLP
from ._rnn import StackedRNN as StackedRNN
from ._rnn_classifier import RNNClassifier as RNNClassifier
from ._summary import summary as summary

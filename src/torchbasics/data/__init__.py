"""Data sets, and the order in which an epoch visits them."""

from __future__ import annotations

from torchbasics.data._folder import images as images
from torchbasics.data._folder import read_image as read_image
from torchbasics.data._images import Images as Images
from torchbasics.data._order import order as order
from torchbasics.data._sets import fashion_mnist as fashion_mnist
from torchbasics.data._sets import fashion_mnist_mini as fashion_mnist_mini
from torchbasics.data._sets import mnist as mnist

"""Models of other projects: the GAN zoo's DCGAN without its code, and any repository of torch.hub in isolation.

`load_dcgan` replaces ``torch.hub.load("facebookresearch/pytorch_GAN_zoo", "DCGAN", pretrained=True, useGPU=False)``;
what it returns answers the same two calls, ``buildNoiseData`` and ``test``, with the same bits. `load` is
``torch.hub.load`` for any repository, whose modules then neither meet nor replace those of one's own.
"""

from ._dcgan import PretrainedDCGAN as PretrainedDCGAN
from ._dcgan import load_dcgan as load_dcgan
from ._dcgan import save_dcgan as save_dcgan
from ._repository import load as load

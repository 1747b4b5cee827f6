"""Training for INT8 (quantisation-aware training, QAT): the network computes as its exported INT8 form will."""

from sdi.train.qat.fake import half_steps
from sdi.train.qat.network import train_for_int8
from sdi.train.qat.places import Int8Places, measure_places
from sdi.train.qat.recipe import qat_recipe

__all__ = ["Int8Places", "half_steps", "measure_places", "qat_recipe", "train_for_int8"]

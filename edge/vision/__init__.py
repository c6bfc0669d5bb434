"""Pictures in, answers out: the image pipeline, decoders, and measures of agreement."""

from __future__ import annotations

from edge.vision.agreement import Agreement as Agreement
from edge.vision.agreement import TopAccuracy as TopAccuracy
from edge.vision.agreement import agreement_for as agreement_for
from edge.vision.decoding import decode as decode
from edge.vision.decoding import decoder_names as decoder_names
from edge.vision.geometry import Geometry as Geometry
from edge.vision.image import load_image as load_image
from edge.vision.pipeline import ImagePipeline as ImagePipeline
from edge.vision.predictions import Box as Box
from edge.vision.predictions import Label as Label
from edge.vision.predictions import Mask as Mask
from edge.vision.predictions import Prediction as Prediction

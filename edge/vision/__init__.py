"""Pictures in, answers out: the image pipeline, decoders, and measures of agreement."""

from __future__ import annotations

from edge.vision.geometry import Geometry as Geometry
from edge.vision.image import load_image as load_image
from edge.vision.pipeline import ImagePipeline as ImagePipeline

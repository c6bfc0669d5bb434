"""The ``.edge`` file: pack it, open it, and keep its variants on the device."""

from edge.bundle.opening import Bundle as Bundle
from edge.bundle.opening import open_bundle as open_bundle
from edge.bundle.packing import pack as pack
from edge.bundle.packing import sign as sign
from edge.bundle.tensors import read_tensors as read_tensors
from edge.bundle.tensors import save_tensors as save_tensors

"""Readers of single files: the names that Python users import."""

from cag_uda.data.domains.label_reader import LabelReader
from cag_uda.data.files.images import ImageReader, as_rgb, read_image

__all__ = ["ImageReader", "LabelReader", "as_rgb", "read_image"]

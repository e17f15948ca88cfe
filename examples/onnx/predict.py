"""Paint each pixel in the colour of its class: python predict.py NETWORK.onnx PHOTO OUT.png."""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image

network = onnxruntime.InferenceSession(sys.argv[1])
palette = json.loads(network.get_modelmeta().custom_metadata_map["palette"])
image = np.asarray(Image.open(sys.argv[2]).convert("RGB"))
labels = network.run(None, {"image": image[None]})[0][0]  # (H, W) uint8 train ids
Image.fromarray(np.array(palette, np.uint8)[labels]).save(sys.argv[3])

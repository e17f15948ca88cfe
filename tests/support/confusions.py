"""Confusion matrices of label maps that are written out."""

import numpy as np

from cag_uda.evaluation.confusion import ConfusionMatrix


def confusion_of(truth: object, prediction: object, num_classes: int) -> ConfusionMatrix:
    confusion = ConfusionMatrix(num_classes)
    confusion.update(np.array(truth, np.uint8), np.array(prediction, np.uint8))
    return confusion

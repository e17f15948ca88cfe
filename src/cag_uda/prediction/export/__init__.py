"""A segmenter as one file that runs without this package: ONNX, or a program of torch.export."""

from cag_uda.prediction.export.write import EXPORTERS, Export, check_exporter, export

__all__ = ["EXPORTERS", "Export", "check_exporter", "export"]

"""The files of annotation tools: COCO, YOLO, LabelMe, CVAT, Label Studio, Cityscapes' polygons.

`drawing` says what all of them hold (named shapes of one image) and paints it; each format is one
file, which reads `Drawing`s and, where people correct predictions in its tool, writes them;
`formats` is the table of them. `tracing` makes shapes of a label map.
"""

"""Rendered street scenes with exact labels, in two looks: data for trying adaptation at once.

A scene is a straight street under a pinhole camera: houses, pavements, trees, lamps, signs, fences,
cars, people and cyclists, in the 11 classes of CamVid. `clean` looks like a game and serves as a
labelled source; `hard` is a drive at dusk, with textures, haze and a noisy camera, and serves as an
unlabelled target.

How a picture comes about, a module a step: `street` plans, `layout` places what `ground`,
`buildings`, `trees`, `furniture`, `fences`, `cars` and `people` build out of `surfaces`;
`painting` paints the number of the surface seen at each pixel; the label is looked up by that
number, and so is the light, which `shading` finds with `materials`, `shadows` and `sky`; `looks`
draws light and camera response, and `sensor` develops the image.

Needs NumPy and OpenCV alone; knows no network, no data set on disk and no training.
"""

from cag_uda.scenes.folder import render_folder
from cag_uda.scenes.looks import Look
from cag_uda.scenes.picture import render

__all__ = ["Look", "render", "render_folder"]

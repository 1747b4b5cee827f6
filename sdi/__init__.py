"""Steel-defect networks, from training to the camera.

The four packages are the folders of the same names beside this one; the links here let every tool that reads files,
editors and checkers above all, follow `sdi.train`, `sdi.calibration`, `sdi.export` and `sdi.runtime`.
"""

__version__ = "0.1.0"

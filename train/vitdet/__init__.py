"""Training of ViTDet detectors on videos with boxes: `python -m train.vitdet`."""

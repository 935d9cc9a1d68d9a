"""ViTDet detectors of ImageNet VID and COCO, as published. Start at `envs.vitdet.detector`."""

"""`python -m train.detector`."""

from train.detector.train import main

main()

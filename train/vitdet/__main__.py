"""`python -m train.vitdet`."""

from train.vitdet.train import main

main()

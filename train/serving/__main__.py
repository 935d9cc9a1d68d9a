"""`python -m train.serving`."""

from train.serving.load import main

main()

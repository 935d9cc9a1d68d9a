"""`python -m train.tuning`."""

from train.tuning.tune import main

main()

"""`python -m train.verbs`."""

from train.verbs.train import main

main()

"""`python -m train.reference`."""

from train.reference.page import main

main()

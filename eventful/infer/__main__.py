"""`python -m eventful.infer`."""

from eventful.infer import main

main()

"""What all console commands have in common: the options that each of them takes, and what is said while one works."""

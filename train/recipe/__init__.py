"""What trainings of dense models share: rates and groups of weights, a loop that resumes to the bit, random views."""

"""What commands write: whole files and folders or none, lines that are there once they are said to be, full disks."""

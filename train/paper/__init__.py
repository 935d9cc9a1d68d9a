"""The tables of Eventful Transformers (ICCV 2023), made anew from data and weights that the user has."""

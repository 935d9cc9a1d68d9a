"""The reference of all settings, made from where they are declared."""

"""The upstream protocols, one file each. They translate and transport; they never decide, charge, retry or log."""

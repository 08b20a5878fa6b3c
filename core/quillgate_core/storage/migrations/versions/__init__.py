"""One file per schema revision; a released one never changes."""

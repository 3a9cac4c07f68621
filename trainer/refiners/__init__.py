"""Refiners: scored episodes in, new head weights out. One file each, to be read in one sitting."""

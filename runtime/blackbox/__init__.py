"""The black box: the last ten seconds at full rate, their dump, and ways to look at one."""

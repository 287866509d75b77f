"""Objects behind URLs, read in ranges: `opening` says which reader reads one.

`http_reader` checks each response itself, `file_system_reader` what other file systems give; `session`
keeps together what is read of several. Libraries are imported where they are used.
"""

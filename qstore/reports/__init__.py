"""What people look at: stores compared, pictures, one HTML page, figures in words.

Comes in: open stores, at times their sources. Goes out: records of figures, axes of matplotlib, files of
pictures and HTML, rows of tables for the command line.

May use: building and everything below it.
"""

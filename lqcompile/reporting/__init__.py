"""A profile as one page for people.

`saved` reads it, `words` puts its figures into words, `view` arranges them, `roofline` draws, and `page` writes HTML.
"""

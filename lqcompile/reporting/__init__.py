"""A profile as one page for people.

`saved` reads it, `words` puts its figures into words, `view` arranges the layers and `summary` the rest, `roofline`
draws, and `page` writes HTML.
"""

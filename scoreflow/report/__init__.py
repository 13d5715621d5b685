"""DIR/report.html: the results of a run as one page, from its files alone.

results    what results/*.json hold, and which of them are damaged
sections/  a module a kind of result: from JSON to blocks (text, tables, plots, pictures)
blocks     the blocks
html       from blocks to HTML, by the templates in templates/
page       all of them together
"""

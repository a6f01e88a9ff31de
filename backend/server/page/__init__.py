"""The page at `/`: a playground, and what the runtime does now.

routes.py   `/`, and `/live`: what the page shows beside the playground
page.html   the page: one file, without a build step, that asks nobody but this server
"""

"""SGLang's own API.

routes.py    the routes
generate.py  /generate
"""

"""Anthropic's API: messages.

routes.py   the routes
reading.py  a body as a conversation
writing.py  a message, whole or as a stream
"""

"""Ollama's API: chats, prompts, and the list of models.

routes.py   the routes
reading.py  bodies as conversations
writing.py  answers, whole or as a stream of lines
"""

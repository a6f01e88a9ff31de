"""OpenAI's API: chats and completions.

routes.py       the routes
asked.py        sampling options and constraints of a request
tools.py        tools, and the choice among them
chat.py         /v1/chat/completions
completions.py  /v1/completions
responses.py    bodies of /v1/responses as conversations
items.py        what /v1/responses answers: items, whole or as events
logprobs.py     log-probabilities as this API tells them
"""

"""OpenAI's API: chats and completions.

routes.py       the routes
asked.py        sampling options and constraints of a request
tools.py        tools, and the choice among them
chat.py         /v1/chat/completions
completions.py  /v1/completions
logprobs.py     log-probabilities as this API tells them
"""

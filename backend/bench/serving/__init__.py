"""`sgl bench serving`: how long requests to a server take, at a rate or with so many at a time.

It drives any server with OpenAI's API or SGLang's, and counts tokens as the server does.

command.py    the command, from its arguments to what it prints
prompts.py    the requests: random lengths, a shared prefix, or a file
client.py     one request, timed while it is streamed
load.py       many requests: when each is sent
figures.py    what they came to: the definitions of all figures
picture.py    latency against throughput, drawn
here.py       a server in this process, for a model that is not served yet
"""

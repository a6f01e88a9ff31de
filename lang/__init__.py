"""What a program says: expressions, constraints, sampling options, chat rendering and errors, as immutable values.

This room knows nothing of torch, of threads, or of how anything is executed. Importing it is instant.

    api.py          the constructors of calls: gen, select, gen_int, gen_string; and of special text
    messages.py     the constructors of messages: system, user, assistant
    expr.py         the expressions they return
    sampling.py     the sampling options: one table of names, units, defaults and checks
    choices.py      how a select decides
    budget.py       how many tokens a gen may write that does not say it
    constraint.py   what generated text must be: regex, json_schema, schema, choice, ebnf, lark
    structure.py    constraints for text with a structure: free_text, repeat, control
    chat.py         chat templates
    sandbox.py      running a template, with bounds on time and size
    conversation.py conversations rendered turn by turn
    locality.py     which templates print each message by itself
    constant.py     the text of an expression that no model writes in
    json_text.py    an incremental reader of JSON text
    kept.py         what functions return, kept within bounds of bytes
    advice.py       what is said once in the log
    errors.py       the typed errors of all rooms
    later.py        names of later versions, and the errors that say so
    syntax/         how families of models write tool calls: constraint, text and events
    tools/          what a model may call, as data made from functions, schemas and MCP servers
    types/          Python types as JSON Schemas, and text as instances of them
    tags/           structural tags as constraints
    checking/       finished text against its constraint
    pattern/        the regular expressions: one normal form in front of all grammar engines
"""

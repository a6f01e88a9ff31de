"""Python types in JSON: their schemas, and instances read from text. Pydantic is imported when a type is first used.

conversion.py   a type to its schema, a text to its instance; what is wrong with a type
schema.py       pydantic's schema generator, made closed and canonical
readable.py     types that pydantic would refuse or read lazily, written anew
decimals.py     patterns of the decimal numbers between bounds
urls.py         patterns of URLs
"""

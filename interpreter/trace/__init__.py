"""What a run did: recorded, drawn as a page, run again and compared, or told to OpenTelemetry.

recording.py   `sgl.trace()`: the block whose programs are recorded, and the file
data.py        records as JSON data: the format of a trace
page.py        a trace file as one HTML page
page.html      the template of that page: tree, time axis, transcripts
replay.py      `sgl.replay()`: the programs of a trace, run again
mocks.py       recorded results in place of tools, for a replay
compare.py     two runs of one program, and their first difference
spans.py       programs and calls as OpenTelemetry spans
"""

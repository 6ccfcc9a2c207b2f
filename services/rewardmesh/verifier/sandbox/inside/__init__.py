"""What runs inside a sandbox. Each module imports the standard library and its neighbours only, since nothing else is there.

`agent` starts programs and answers frames; `candidate` lets another sandbox call the code under test; `referee` runs a test script
against such code from afar; `data` is how values travel (the server reads them with the same module).
"""

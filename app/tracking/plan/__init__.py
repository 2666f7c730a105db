"""The tracking plan: an app's events, states and user attributes, each with a JSON Schema. Pure.

- `file_format`: a plan file: YAML with line numbers, and what it may contain
- `json_schemas`: the supported subset of JSON Schema, compiled; its errors as faults
- `load`: plan files -> the plan of each app, and everything wrong with the files
- `validate`: an item's fields -> violations of the plan
- `diff`: an old and a new plan -> what was added, removed, tightened, loosened
"""

"""The tracking plan: what events, states and user attributes there are, and what each must look
like. Pure.

text       YAML as data that knows its lines
shape      what a plan's file may say
schemas    JSON Schemas: which are taken, compiled; what they find, in our words
making     files -> the plan of each app, and everything that is wrong with them
judging    an item's fields -> what breaks the plan
comparing  an old plan and a new one -> what is added, removed, tightened, loosened
"""

"""Everything Leanplum, and nothing else: how items become a call, the call, and how its answer is
read.
"""

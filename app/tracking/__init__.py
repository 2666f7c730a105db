"""What is kept about tracking: the plan's files, the names that each app has, what broke the
plan.
"""

"""Leanplum's own protocol, for unchanged Leanplum SDKs and client libraries (contract §6).

reading   an HTTP request becomes a call: its arguments, its entries
sorting   what becomes of each entry: accepted for later, asked now, refused
answering entries' answers become one answer; what would lead an SDK away from here is taken out
door      does it
"""

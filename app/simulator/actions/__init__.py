"""The actions of Leanplum's API: `table` lists them, the other modules implement them."""

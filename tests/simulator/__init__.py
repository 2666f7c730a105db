"""What the Leanplum simulator promises, over real HTTP on loopback or on its pure world."""

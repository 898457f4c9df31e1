"""The program inside backup and restore containers: an engine's tool on one side, an object store on the other.

It takes one job from a directory, does it, writes the outcome there and ends. The stored format is docs/BACKUPS.md.
It imports nothing of the agent, and needs aiohttp, msgspec and pynacl only.
"""
